//! Every operation's cases: the one list from which judges take their work.

use crate::case::Cases;
use crate::planted::Fault;
use crate::trace::Launch;
use crate::{gemm, mla, moe, quant, router};

/// How large cases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As models have them: for a GPU.
    Full,
    /// Seconds for the emulator.
    Reduced,
}

/// The operations of one family.
pub struct Family {
    /// Of its module: `gemm`.
    pub name: &'static str,
    /// Cases that launch every kernel, small enough for the emulator, with tails in every direction: what tests, sanitizers
    /// and the first run on a GPU take.
    pub smoke: fn() -> Cases,
    /// Cases whose time is of interest.
    pub timed: fn(Extent) -> Cases,
    /// Launches of every kernel, on made-up memory: for the operand trace.
    pub traced: fn() -> Vec<Launch>,
    /// Launches in which whatever fills a ring of stages does so every number of times that matters, on tiles that are there
    /// and on none: their protocols are explored, as those of `traced` are.
    pub explored: fn() -> Vec<Launch>,
    /// Faults in its kernels, which a run of theirs must find.
    pub faults: fn() -> Vec<Fault>,
    /// Its part of a layer of DeepSeek-V3, from a seed: what `verify` judges.
    pub layer: fn(Extent, u64) -> Cases,
}

macro_rules! family {
    ($family:ident) => {
        Family {
            name: stringify!($family),
            smoke: $family::smoke,
            timed: $family::timed,
            traced: $family::traced,
            explored: $family::explored,
            faults: $family::faults,
            layer: $family::layer,
        }
    };
}

/// Every family.
pub const FAMILIES: [Family; 5] =
    [family!(gemm), family!(quant), family!(router), family!(moe), family!(mla)];

/// Every family's cases of one kind.
pub fn all(cases: impl Fn(&Family) -> Cases) -> Cases {
    FAMILIES.iter().flat_map(cases).collect()
}
