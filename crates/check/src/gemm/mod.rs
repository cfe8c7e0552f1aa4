//! GEMMs on operands in poisoned memory.

pub mod grouped;

use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GemmInstance};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Device, Error, F8E4M3};
use oracles::gemm::{Elements, Epilogue, GemmInputs, Oracle, Sample};

use crate::memory::{Guarded, Placement, Sentinel};

/// How the operands of a GEMM lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmLayout {
    pub a: Placement,
    pub b: Placement,
    pub sfa: Placement,
    pub sfb: Placement,
    pub d: Placement,
}

impl GemmLayout {
    /// The tightest layout that the alignment rules allow.
    pub fn tight(m: usize, n: usize, k: usize, d_bytes: usize) -> Self {
        Self {
            a: Placement::dense(k),
            b: Placement::dense(k),
            sfa: Placement::dense(m.next_multiple_of(4)),
            sfb: Placement::dense(k / 128),
            d: Placement::dense((n * d_bytes).next_multiple_of(16) / d_bytes),
        }
    }
}

/// Runs a GEMM with every gap around its operands poisoned, and checks that only D was written, and all of it.
pub fn run_gemm<D: Sentinel>(
    device: &Device,
    inputs: &GemmInputs,
    layout: &GemmLayout,
    instance: Option<GemmInstance>,
    initial: Option<&[D]>,
) -> Result<Vec<D>, Error> {
    let GemmInputs { m, n, k, .. } = *inputs;
    let k_blocks = k / 128;
    let nan = F8E4M3::from_bits(0x7f);
    let a = Guarded::new(device, &inputs.a, m, k, layout.a, nan);
    let b = Guarded::new(device, &inputs.b, n, k, layout.b, nan);
    let sfa = Guarded::new(device, &inputs.sfa, k_blocks, m, layout.sfa, f32::NAN);
    let sfb = Guarded::ending(device, &inputs.sfb, n.div_ceil(128), k_blocks, layout.sfb, f32::NAN);
    let mut d = match initial {
        Some(values) => Guarded::new(device, values, m, n, layout.d, D::SENTINEL),
        None => Guarded::unwritten(device, m, n, layout.d, D::SENTINEL),
    };

    let spec = Fp8GemmSpec { m, n, k, accumulate: initial.is_some() };
    let gemm = match instance {
        Some(instance) => Fp8Gemm::<D>::plan_instance(device, spec, instance)?,
        None => Fp8Gemm::<D>::plan(device, spec)?,
    };
    let args = Fp8GemmArgs {
        a: a.matrix(),
        sfa: Scales1x128::<MMajor>::with_pitch(sfa.slice(), m, k, sfa.pitch())?,
        b: b.matrix(),
        sfb: Scales128x128::with_pitch(sfb.slice(), n, k, sfb.pitch())?,
        d: d.matrix_mut(),
    };
    gemm.run(device.stream()?, args)?;

    let result = d.into_checked(D::bits);
    let unwritten = result.iter().position(|x| x.bits() == D::SENTINEL.bits());
    if let Some(index) = unwritten.filter(|_| initial.is_none()) {
        panic!("d[{}, {}] was not written ({} {}x{}x{})", index / n, index % n, gemm.choice(), m, n, k);
    }
    Ok(result)
}

/// Demands that every oracle accepts every element.
pub fn check_gemm<D: Sentinel>(
    what: &str,
    inputs: &GemmInputs,
    oracles: &[Oracle],
    initial: Option<&[D]>,
    got: &[D],
) {
    let (m, n) = (inputs.m, inputs.n);
    let operands = inputs.operands().expect("operands");
    let before = |row: usize, column: usize| initial.map_or(0.0, |d| d[row * n + column].widen());
    let before: &Elements = &before;
    let epilogue = Epilogue { output: D::OUTPUT_MODEL, initial: initial.map(|_| before) };
    let got = |row: usize, column: usize| got[row * n + column].widen();
    for oracle in oracles {
        let verdict =
            oracle.check(&operands, &epilogue, &Sample::all(m, n), &got).expect("inputs fit the oracle");
        assert!(verdict.accepted(), "{what}, {oracle:?}: {verdict}");
    }
}
