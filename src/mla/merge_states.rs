//! Attention over two parts of the keys, put together: shared prefixes, splits of the context over several machines.

use std::marker::PhantomData;

use super::cache::LATENT;
use crate::device::bindings::{MergePart, MergeStatesParams};
use crate::device::{Device, KernelHandle, Stream};
use crate::error::Result;
use crate::gemm::GemmOutput;
use crate::launch::{Launch, MAX_DIM, MAX_GRID, check_limit};
use crate::table::gemm::OutputType;
use crate::table::mla::MERGE_STATES;
use crate::tensor::{Matrix, MatrixMut};

/// Threads that share a row, of eight columns each.
const THREADS_PER_ROW: usize = LATENT / 8;

/// Shape of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MergeStatesSpec {
    /// Rows of lse.
    pub tokens: usize,
    /// Columns of lse.
    pub heads: usize,
    /// Whether an lse of +Inf also means that the part has no key, as some libraries have it.
    pub infinity_is_empty: bool,
}

/// Attention over a part of the keys.
pub struct AttentionState<'a, T> {
    /// `[tokens * heads, 512]`. Address and pitch are multiples of 16 bytes.
    pub o: Matrix<'a, T>,
    /// `[tokens, heads]` without gaps: the logarithm of the sum of `exp(score)`, natural; -Inf for no key at all.
    pub lse: Matrix<'a, f32>,
}

/// Where a merge puts its result.
pub struct AttentionStateMut<'a, T> {
    /// `[tokens * heads, 512]`. Address and pitch are multiples of 16 bytes.
    pub o: MatrixMut<'a, T>,
    /// `[tokens, heads]` without gaps.
    pub lse: MatrixMut<'a, f32>,
}

/// A planned merge of states with a BF16 or FP32 o.
///
/// `w = exp(lse - max)` for both parts, `o = (w_0 o_0 + w_1 o_1) / (w_0 + w_1)`, `lse = max + log(w_0 + w_1)`, each operation
/// rounded to FP32. The parts may change places. A part without keys leaves the other one as it is, bit for bit, and its own
/// o is not read; two of them give 0 and -Inf.
pub struct MergeStates<T> {
    device: Device,
    kernel: KernelHandle,
    spec: MergeStatesSpec,
    grid: u32,
    element: PhantomData<T>,
}

impl<T: GemmOutput> MergeStates<T> {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn plan(device: &Device, spec: MergeStatesSpec) -> Result<Self> {
        let rows = spec.tokens.saturating_mul(spec.heads) as u64;
        check_limit("tokens * heads", rows, MAX_DIM)?;
        let grid = (rows * THREADS_PER_ROW as u64).div_ceil(MERGE_STATES.threads.into());
        check_limit("CTAs of the merge", grid, MAX_GRID)?;
        let kernel = device.kernel(MERGE_STATES.name)?;
        Ok(Self { device: device.clone(), kernel, spec, grid: grid as u32, element: PhantomData })
    }

    /// Enqueues the merge.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::NotDense`](crate::Error::NotDense),
    /// [`Error::Misaligned`](crate::Error::Misaligned), [`Error::WrongDevice`](crate::Error::WrongDevice), launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        parts: [AttentionState<'_, T>; 2],
        mut out: AttentionStateMut<'_, T>,
    ) -> Result<()> {
        const ALIGN: u64 = 16;
        let MergeStatesSpec { tokens, heads, infinity_is_empty } = self.spec;
        let states = parts.iter().map(|part| (&part.o.extent, &part.lse.extent));
        for (o, lse) in states.chain([(&out.o.extent, &out.lse.extent)]) {
            o.expect("o [tokens * heads, 512]", tokens * heads, LATENT)?;
            o.expect_pitch("o", size_of::<T>(), ALIGN)?;
            lse.expect("lse [tokens, heads]", tokens, heads)?;
            lse.expect_dense("lse")?;
        }
        let stream = stream.into();
        let mut launch = Launch::new(&self.device, &self.kernel, &stream)?;
        let mut params = MergeStatesParams {
            out: launch.write_aligned(c"out", &mut out.o.slice, ALIGN)?,
            out_lse: launch.write(c"out_lse", &mut out.lse.slice)?.cast(),
            out_pitch: out.o.extent.pitch as u64,
            rows: (tokens * heads) as u32,
            o_is_f32: u32::from(T::OUTPUT == OutputType::F32),
            infinity_is_empty: u32::from(infinity_is_empty),
            ..Default::default()
        };
        for ((part, names), into) in
            parts.iter().zip([(c"o_0", c"lse_0"), (c"o_1", c"lse_1")]).zip(&mut params.part)
        {
            *into = MergePart {
                o: launch.read_aligned(names.0, &part.o.slice, ALIGN)?,
                lse: launch.read(names.1, &part.lse.slice)?.cast(),
                o_pitch: part.o.extent.pitch as u64,
            };
        }
        launch.run(self.grid, MERGE_STATES.threads, MERGE_STATES.smem_bytes, &params)
    }
}
