//! Attention over two parts of the keys, put together: shared prefixes, splits of the context over several machines.

use std::marker::PhantomData;

use super::cache::LATENT;
use super::lse::LseOrder;
use crate::device::bindings::{MergePart, MergeStatesParams};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::gemm::GemmOutput;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit, check_multiple, check_range,
};
use crate::setters::setters;
use crate::table::PIECE;
use crate::table::gemm::OutputType;
use crate::table::mla;
use crate::tensor::{Matrix, MatrixMut};

const MERGE_STATES: KernelRow<MergeStatesParams> = KernelRow::of(mla::MERGE_STATES);

/// Shape of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MergeStatesSpec {
    /// Rows of lse: any number, 0 included.
    pub tokens: usize,
    /// Columns of lse: any number, 0 included.
    pub heads: usize,
    /// Columns of o: a multiple of 8, at least one. 512 are latents, 128 values of a head.
    pub columns: usize,
    /// How every lse lies.
    pub lse_order: LseOrder,
    /// Whether an lse of +Inf also means that the part has no key, as some libraries have it.
    pub infinity_is_empty: bool,
}

impl MergeStatesSpec {
    /// Of latents, and of parts of which only an lse of -Inf means that there is no key.
    pub const fn new(tokens: usize, heads: usize) -> Self {
        let lse_order = LseOrder::TokensHeads;
        Self { tokens, heads, columns: LATENT, lse_order, infinity_is_empty: false }
    }
}

setters!(MergeStatesSpec { columns: usize, lse_order: LseOrder, infinity_is_empty: bool });

/// Attention over a part of the keys.
#[derive(Debug, Clone)]
pub struct AttentionState<'a, T> {
    /// `[tokens * heads, columns]`. Address and pitch are multiples of 16 bytes.
    pub o: Matrix<'a, T>,
    /// `[tokens, heads]`, or in another order: the logarithm of the sum of `exp(score)`, natural; -Inf for no key at all.
    pub lse: Matrix<'a, f32>,
}

/// Where a merge puts its result.
#[derive(Debug)]
pub struct AttentionStateMut<'a, T> {
    /// `[tokens * heads, columns]`. Address and pitch are multiples of 16 bytes.
    pub o: MatrixMut<'a, T>,
    /// `[tokens, heads]`, or in another order.
    pub lse: MatrixMut<'a, f32>,
}

/// Operands of a merge.
#[derive(Debug)]
pub struct MergeStatesArgs<'a, T> {
    /// In either order.
    pub parts: [AttentionState<'a, T>; 2],
    /// Attention over both.
    pub out: AttentionStateMut<'a, T>,
}

/// A planned merge of states with a BF16 or FP32 o.
///
/// `w = exp(lse - max)` for both parts, `o = (w_0 o_0 + w_1 o_1) / (w_0 + w_1)`, `lse = max + log(w_0 + w_1)`, each operation
/// rounded to FP32. The parts may change places. A part without keys leaves the other one as it is, bit for bit, and its own
/// o is not read; two of them give 0 and -Inf.
#[derive(Debug)]
pub struct MergeStates<T> {
    device: Device,
    kernel: Kernel<MergeStatesParams>,
    spec: MergeStatesSpec,
    grid: u32,
    element: PhantomData<T>,
}

impl<T: GemmOutput> MergeStates<T> {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: MergeStatesSpec) -> Result<Self> {
        check_limit("tokens", spec.tokens as u64, MAX_DIM)?;
        check_limit("heads", spec.heads as u64, MAX_DIM)?;
        let rows = spec.tokens.saturating_mul(spec.heads) as u64;
        check_limit("tokens * heads", rows, MAX_DIM)?;
        spec.lse_order.check(spec.tokens)?;
        check_range("columns", spec.columns, MAX_DIM)?;
        check_multiple("columns", spec.columns, PIECE as usize)?;
        let threads = rows.saturating_mul(spec.columns as u64 / u64::from(PIECE));
        let grid = threads.div_ceil(MERGE_STATES.threads().into());
        check_limit("CTAs of the merge", grid, MAX_GRID)?;
        let kernel = MERGE_STATES.load(device)?;
        Ok(Self { device: device.clone(), kernel, spec, grid: grid as u32, element: PhantomData })
    }

    /// Enqueues the merge.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, args: MergeStatesArgs<'_, T>) -> Result<()> {
        let MergeStatesArgs { parts, mut out } = args;
        let MergeStatesSpec { tokens, heads, columns, lse_order, infinity_is_empty } = self.spec;
        let rows = tokens * heads;
        let of_o =
            |name| Layout::matrix("o [tokens * heads, columns]", [rows, columns]).aligned(16).called(name);
        let of_lse = |name| lse_order.layout(tokens, heads).called(name);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let o = launch.write(&mut out.o, of_o("out"))?;
        let lse = launch.write(&mut out.lse, of_lse("out_lse"))?;
        let out_lse_strides = lse_order.strides(&lse, heads);
        let mut params = MergeStatesParams {
            out: o.pointer.cast(),
            out_lse: lse.pointer,
            out_pitch: o.pitch(),
            out_lse_strides,
            rows: rows as u32,
            heads: heads as u32,
            columns: columns as u32,
            o_is_f32: u32::from(T::OUTPUT == OutputType::F32),
            infinity_is_empty: u32::from(infinity_is_empty),
            ..Default::default()
        };
        let names = [("o_0", "lse_0"), ("o_1", "lse_1")];
        for ((part, names), into) in parts.iter().zip(names).zip(&mut params.part) {
            let o = launch.read(&part.o, of_o(names.0))?;
            let lse = launch.read(&part.lse, of_lse(names.1))?;
            let lse_strides = lse_order.strides(&lse, heads);
            let (o, o_pitch) = (o.pointer.cast(), o.pitch());
            *into = MergePart { o, lse: lse.pointer, lse_strides, o_pitch };
        }
        launch.run(self.grid, &params)
    }
}
