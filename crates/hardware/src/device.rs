//! Devices as the timings need them. The only file of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use deepseek_kernels::cudarc::driver::{CudaContext, CudaStream};
use deepseek_kernels::{Device, Stream};

/// The first GPU, and its context.
///
/// # Errors
/// As [`Device::open_gpu`].
pub fn open() -> Result<(Device, Arc<CudaContext>)> {
    let device = Device::open_gpu(0)?;
    let context = stream(&device)?.context().clone();
    Ok((device, context))
}

/// The device's own stream, where its memory is allocated too.
///
/// # Errors
/// Of the driver; on the emulator, which has none.
pub fn stream(device: &Device) -> Result<&Arc<CudaStream>> {
    match device.stream()? {
        Stream::Cuda(stream) => Ok(stream),
        Stream::Emulated => bail!("expected a GPU, got the emulator"),
    }
}

/// A device some of whose kernels are edited.
pub struct Variant {
    /// Name of the edit.
    pub name: String,
    /// The device; the kernels that were not edited are the current ones.
    pub device: Device,
    /// The edited kernels.
    kernels: Vec<String>,
}

impl Variant {
    /// The kernels as they are.
    pub fn current(device: Device) -> Self {
        Self { name: "current".to_owned(), device, kernels: Vec::new() }
    }

    /// Whether it differs from the current kernels in this one.
    pub fn edits(&self, kernel: &str) -> bool {
        self.kernels.iter().any(|name| name == kernel)
    }

    /// One for every folder of `KERNEL.cubin` in `folder`.
    ///
    /// # Errors
    /// When a folder or file cannot be read, or names no kernel; of the driver.
    pub fn all(context: &Arc<CudaContext>, folder: &Path) -> Result<Vec<Self>> {
        let variant = |folder: PathBuf| {
            let cubins = entries(&folder)?.into_iter().map(|file| Ok((stem(&file), fs::read(&file)?)));
            let cubins = cubins.collect::<Result<Vec<_>>>()?;
            // SAFETY: `cargo xtask bundle` compiled them from this version's sources, edited inside the kernels.
            let device = unsafe { Device::gpu_with_cubins(context, &cubins) };
            let device = device.with_context(|| folder.display().to_string())?;
            let kernels = cubins.into_iter().map(|(kernel, _)| kernel).collect();
            Ok(Self { name: stem(&folder), device, kernels })
        };
        entries(folder)?.into_iter().map(variant).collect()
    }
}

/// In order of their names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = read.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
