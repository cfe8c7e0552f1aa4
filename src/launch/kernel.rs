//! Which struct a kernel takes: its row of the table says so, here it is compared once, and from then on it is a type.

use std::fmt;
use std::marker::PhantomData;

use crate::device::{Device, KernelHandle, bindings};
use crate::error::{Error, Result};
use crate::table::FixedKernel;
use crate::table::gemm::GemmInstance;
use crate::table::mla::{MlaInstance, MlaPrefillInstance};

/// The parameter struct of a kernel, as its family's `params.h` has it.
pub(crate) trait KernelParams: Copy + sealed::Listed {
    /// Its name in C++, which the rows of the table say and the generated code passes on.
    const NAME: &'static str;
}

mod sealed {
    /// No struct but those of the bindings.
    pub trait Listed {}
}

macro_rules! params {
    ($($name:ident)*) => {$(
        impl sealed::Listed for bindings::$name {}
        impl KernelParams for bindings::$name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}

bindings::every_params!(params);

/// A row of the table whose kernel takes a `P`. For constants: a row of another struct does not compile then.
pub(crate) struct KernelRow<P> {
    row: FixedKernel,
    params: PhantomData<fn(&P)>,
}

impl<P: KernelParams> KernelRow<P> {
    pub const fn of(row: FixedKernel) -> Self {
        assert!(same(row.params, P::NAME), "the kernel takes another struct");
        Self { row, params: PhantomData }
    }

    /// Threads per CTA.
    pub const fn threads(&self) -> u32 {
        self.row.threads
    }

    pub fn load(&self, device: &Device) -> Result<Kernel<P>> {
        Kernel::load(device, self.row)
    }
}

/// `==`, which constants cannot ask.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut equal = 0;
    while equal < a.len() && equal < b.len() && a[equal] == b[equal] {
        equal += 1;
    }
    equal == a.len() && equal == b.len()
}

/// A row of the table, fixed or an instance, as far as launches need it.
pub(crate) struct Row {
    name: String,
    params: &'static str,
    threads: u32,
    smem_bytes: u32,
}

impl From<FixedKernel> for Row {
    fn from(FixedKernel { name, params, threads, smem_bytes, .. }: FixedKernel) -> Self {
        Self { name: name.to_owned(), params, threads, smem_bytes }
    }
}

impl From<&GemmInstance> for Row {
    fn from(row: &GemmInstance) -> Self {
        let (threads, smem_bytes) = (row.threads(), row.smem_bytes());
        Self { name: row.name(), params: row.params(), threads, smem_bytes }
    }
}

impl From<&MlaInstance> for Row {
    fn from(row: &MlaInstance) -> Self {
        let (threads, smem_bytes) = (row.threads(), row.smem_bytes());
        Self { name: row.name(), params: MlaInstance::PARAMS, threads, smem_bytes }
    }
}

impl From<&MlaPrefillInstance> for Row {
    fn from(row: &MlaPrefillInstance) -> Self {
        let (threads, smem_bytes) = (row.threads(), row.smem_bytes());
        Self { name: row.name(), params: MlaPrefillInstance::PARAMS, threads, smem_bytes }
    }
}

#[cfg(feature = "probes")]
impl From<&crate::table::probes::ProbeKernel> for Row {
    fn from(row: &crate::table::probes::ProbeKernel) -> Self {
        let (threads, smem_bytes) = (row.threads, row.smem_bytes);
        Self {
            name: format!("probe_{}", row.name),
            params: crate::table::probes::PARAMS,
            threads,
            smem_bytes,
        }
    }
}

/// A loaded kernel that takes a `P`.
pub(crate) struct Kernel<P> {
    pub(super) handle: KernelHandle,
    pub(super) threads: u32,
    pub(super) smem_bytes: u32,
    /// As a function takes it: a kernel goes to other threads, whatever pointers are in a `P`.
    params: PhantomData<fn(&P)>,
}

/// How it is launched; what is loaded is a handle.
impl<P> fmt::Debug for Kernel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, smem_bytes, .. } = self;
        write!(f, "Kernel({threads} threads, {smem_bytes} bytes of shared memory)")
    }
}

impl<P: KernelParams> Kernel<P> {
    /// Fails unless `P` is what the row names, and has the size that the kernel was compiled with.
    pub fn load(device: &Device, row: impl Into<Row>) -> Result<Self> {
        let Row { name, params, threads, smem_bytes } = row.into();
        if params != P::NAME {
            return Err(Error::out_of_range("parameters of the kernel", P::NAME, params));
        }
        let handle = device.kernel(&name, size_of::<P>())?;
        Ok(Self { handle, threads, smem_bytes, params: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::gemm::GROUPED_GEMM_INSTANCES;
    use crate::table::moe;

    /// What constants ask of a row, asked at run time.
    #[test]
    fn a_row_names_its_struct() {
        assert!(same(moe::COMBINE.params, <bindings::CombineParams as KernelParams>::NAME));
        for (a, b) in [("RopeParams", "RopeParam"), ("RopeParams", "RopeParamz"), ("", "RopeParams")] {
            assert!(!same(a, b) && !same(b, a) && same(a, a) && same(b, b), "{a} {b}");
        }
    }

    #[test]
    fn a_kernel_of_another_struct_is_refused() {
        let Ok(device) = Device::emulated() else { return };
        let refused = |row: Row| Kernel::<bindings::Fp8GemmParams>::load(&device, row).err().unwrap();
        assert_eq!(
            refused((&GROUPED_GEMM_INSTANCES[0]).into()).to_string(),
            "parameters of the kernel must be Fp8GemmParams, got GroupedFp8GemmParams"
        );
        let lying = Row { params: "Fp8GemmParams", ..moe::COMBINE.into() };
        let refused = refused(lying).to_string();
        assert!(refused.starts_with("kernel combine: expected parameters of 640 bytes, got "), "{refused}");
    }
}
