//! Sums that a real H100 computed, published with arXiv 2512.07004 (Khattak and Mikaitis: the repository
//! `north-numerical-computing/MATLAB-tensor-core`, folder `model_validation/H100`, BSD 2-Clause). They are not part of this
//! repository: the tests read them where `DEEPSEEK_KERNELS_HARDWARE_DATA` names a folder that has them as raw arrays in
//! little-endian order, 5000 sums of each type:
//!
//! ```text
//! h100_e4m3_a.u8   h100_e4m3_b.u8    [5000, 32]  codes        h100_e4m3_d.u32  [5000]  bits of wgmma onto 0
//! h100_bf16_a.u16  h100_bf16_b.u16   [5000, 16]  bits         h100_bf16_c.u32, h100_bf16_d.u32  [5000]  of WMMA onto c
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use check::devices::devices;
use check::probes::convert::same;
use check::probes::wgmma::{Case, Operands, ROW, STEP};

const SWITCH: &str = "DEEPSEEK_KERNELS_HARDWARE_DATA";
/// Sums of each type.
const SUMS: usize = 5000;
/// Sums of one tile: those of row i and column i.
const TILE: usize = 64;

/// The folder, unless none is named: then the test says that it did not run.
fn folder() -> Option<PathBuf> {
    let folder = env::var_os(SWITCH);
    if folder.is_none() {
        eprintln!("SKIPPED: {SWITCH} names no folder with published sums of an H100");
    }
    folder.map(PathBuf::from)
}

struct Sums {
    operands: Operands,
    /// `[5000, 32]` bytes.
    a: Vec<u8>,
    b: Vec<u8>,
    c: Vec<f32>,
    d: Vec<f32>,
}

impl Sums {
    fn read(folder: &Path, operands: Operands) -> Self {
        let read = |name: &str, bytes: usize| {
            let path = folder.join(format!("h100_{name}"));
            let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(data.len(), SUMS * bytes, "bytes of {}", path.display());
            data
        };
        let floats = |name| {
            read(name, 4).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect::<Vec<_>>()
        };
        match operands {
            Operands::E4m3 => Self {
                operands,
                a: read("e4m3_a.u8", STEP),
                b: read("e4m3_b.u8", STEP),
                c: vec![0.0; SUMS],
                d: floats("e4m3_d.u32"),
            },
            _ => Self {
                operands,
                a: read("bf16_a.u16", STEP),
                b: read("bf16_b.u16", STEP),
                c: floats("bf16_c.u32"),
                d: floats("bf16_d.u32"),
            },
        }
    }

    /// One `wgmma` that adds sum i in the diagonal of a tile: one step of a row, the others are zeros.
    fn case(&self) -> Case {
        let grid = SUMS.div_ceil(TILE);
        let rows = |steps: &[u8]| {
            let mut rows = vec![0; grid * TILE * ROW];
            rows.chunks_mut(ROW)
                .zip(steps.chunks(STEP))
                .for_each(|(row, step)| row[..STEP].copy_from_slice(step));
            rows
        };
        let mut d = vec![0.0; grid * TILE * TILE];
        self.c.iter().enumerate().for_each(|(sum, &c)| d[Self::element(sum)] = c);
        Case {
            operands: self.operands,
            n: TILE,
            grid,
            a: rows(&self.a),
            b: rows(&self.b),
            d,
            keep: true,
            first_step: 0,
            steps: 1,
            repeats: 1,
        }
    }

    /// Where the case has a sum.
    const fn element(sum: usize) -> usize {
        sum / TILE * TILE * TILE + sum % TILE * (TILE + 1)
    }

    fn assert_equal(&self, of: &str, got: impl Fn(usize) -> f32) {
        let wrong: Vec<usize> = (0..SUMS).filter(|&sum| !same(got(sum), self.d[sum])).collect();
        if let Some(&first) = wrong.first() {
            panic!(
                "{of}: {} of {SUMS} sums of {:?} are not the H100's, first {first}: expected {:e}, got {:e}",
                wrong.len(),
                self.operands,
                self.d[first],
                got(first)
            );
        }
    }
}

/// The model and every machine there is, in all sums to the bit.
#[test]
fn published_sums_of_an_h100() {
    let Some(folder) = folder() else { return };
    for sums in [Operands::E4m3, Operands::Bf16].map(|operands| Sums::read(&folder, operands)) {
        let step = |operand: &[u8], sum: usize| operand[sum * STEP..][..STEP].to_vec();
        sums.assert_equal("the model", |i| {
            sums.operands.fused_dot(&step(&sums.a, i), &step(&sums.b, i), sums.c[i])
        });
        for device in devices() {
            let d = sums.case().run(&device).unwrap_or_else(|error| panic!("{}: {error}", device.name()));
            sums.assert_equal(device.name(), |sum| d[Sums::element(sum)]);
        }
    }
}
