//! The kernels of `cuda/router`.

use super::{Constant, FixedKernel, Kernel, MAX_EXPERTS, PIECES, WARP};

/// Tokens and experts of a tile of logits.
const GATE_TILE: [u32; 2] = [32, 64];
/// The same for few tokens: small tiles, so that there are CTAs for every multiprocessor.
const GATE_FEW_TILE: [u32; 2] = [16, 16];
/// So many tokens are few.
pub const GATE_FEW_TOKENS: usize = 64;
/// Elements of K that go through shared memory at a time.
pub const GATE_BLOCK_K: u32 = 32;
/// Bytes from row to row there, four floats more than a step.
const GATE_ROW_BYTES: u32 = (GATE_BLOCK_K + 4) * 4;
/// Router: logits of chunks of K.
pub const GATE_LOGITS: FixedKernel =
    FixedKernel::new("router", "gate_logits", "GateLogitsParams", 128, PIECES)
        .with_constants(&[
            ("kBlockTokens", GATE_TILE[0]),
            ("kBlockExperts", GATE_TILE[1]),
            ("kBlockK", GATE_BLOCK_K),
        ])
        .with_storage("GateLogitsStorage", (GATE_TILE[0] + GATE_TILE[1]) * GATE_ROW_BYTES);
/// Router: the same logits of few tokens.
pub const GATE_LOGITS_FEW: FixedKernel =
    FixedKernel::new("router", "gate_logits_few", "GateLogitsParams", 64, PIECES)
        .of("gate_logits")
        .with_constants(&[
            ("kBlockTokens", GATE_FEW_TILE[0]),
            ("kBlockExperts", GATE_FEW_TILE[1]),
            ("kBlockK", GATE_BLOCK_K),
        ])
        .with_storage("GateLogitsStorage", (GATE_FEW_TILE[0] + GATE_FEW_TILE[1]) * GATE_ROW_BYTES);

/// The kernel of the logits of so many tokens, and its tile of tokens and experts.
pub const fn gate_logits(tokens: usize) -> (FixedKernel, [u32; 2]) {
    if tokens <= GATE_FEW_TOKENS { (GATE_LOGITS_FEW, GATE_FEW_TILE) } else { (GATE_LOGITS, GATE_TILE) }
}

/// A warp holds the experts of a token in registers: so many, or in kernels of their own, whose names say many, all there may be.
pub const GATE_EXPERTS: u32 = 512;

/// Tokens of a CTA that selects, a warp each.
pub const GATE_SELECT_TOKENS: u32 = 4;
/// Router: scores, groups, the best K experts, weights.
pub const GATE_SELECT: FixedKernel =
    FixedKernel::new("router", "gate_select", "GateSelectParams", GATE_SELECT_TOKENS * WARP, &[])
        .with_constants(&[("kTokens", GATE_SELECT_TOKENS), ("kExperts", GATE_EXPERTS)]);
/// Router: the same of many experts.
pub const GATE_SELECT_MANY: FixedKernel =
    FixedKernel::new("router", "gate_select_many", "GateSelectParams", GATE_SELECT_TOKENS * WARP, &[])
        .of("gate_select")
        .with_constants(&[("kTokens", GATE_SELECT_TOKENS), ("kExperts", MAX_EXPERTS)]);

/// The kernel that chooses among so many experts.
pub const fn gate_select(experts: usize) -> FixedKernel {
    if experts <= GATE_EXPERTS as usize { GATE_SELECT } else { GATE_SELECT_MANY }
}

/// Tokens of every expert, counted.
pub const EXPERT_LOAD: FixedKernel = FixedKernel::new("router", "expert_load", "ExpertLoadParams", 256, &[]);

/// The router's bias after a step.
pub const BIAS_UPDATE: FixedKernel = FixedKernel::new("router", "bias_update", "BiasUpdateParams", 512, &[]);

const BALANCE_WARPS: u32 = 8;
/// Threads, and bytes of a count and a sum per expert and warp in shared memory.
const fn balance_loss(name: &'static str, constants: &'static [Constant], experts: u32) -> FixedKernel {
    FixedKernel::new("router", name, "SequenceBalanceLossParams", BALANCE_WARPS * WARP, &[])
        .of("sequence_balance_loss")
        .with_constants(constants)
        .with_storage("SequenceBalanceLossStorage", BALANCE_WARPS * experts * (4 + 4))
}
/// How unevenly each sequence uses the experts.
pub const SEQUENCE_BALANCE_LOSS: FixedKernel = balance_loss(
    "sequence_balance_loss",
    &[("kWarps", BALANCE_WARPS), ("kExperts", GATE_EXPERTS)],
    GATE_EXPERTS,
);
/// The same of many experts.
pub const SEQUENCE_BALANCE_LOSS_MANY: FixedKernel = balance_loss(
    "sequence_balance_loss_many",
    &[("kWarps", BALANCE_WARPS), ("kExperts", MAX_EXPERTS)],
    MAX_EXPERTS,
);

/// The kernel of the loss over so many experts.
pub const fn sequence_balance_loss(experts: usize) -> FixedKernel {
    if experts <= GATE_EXPERTS as usize { SEQUENCE_BALANCE_LOSS } else { SEQUENCE_BALANCE_LOSS_MANY }
}

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    [
        GATE_LOGITS,
        GATE_LOGITS_FEW,
        GATE_SELECT,
        GATE_SELECT_MANY,
        EXPERT_LOAD,
        BIAS_UPDATE,
        SEQUENCE_BALANCE_LOSS,
        SEQUENCE_BALANCE_LOSS_MANY,
    ]
    .map(FixedKernel::kernel)
    .into_iter()
}
