//! The kernels of `cuda/router`.

use super::{FixedKernel, Kernel, MAX_EXPERTS};

/// Router: logits of chunks of K.
pub const GATE_LOGITS: FixedKernel = FixedKernel {
    family: "router",
    name: "gate_logits",
    params: "GateLogitsParams",
    threads: 128,
    smem_bytes: (32 + 64) * 36 * 4,
};
/// Router: scores, groups, the best K experts, weights.
pub const GATE_SELECT: FixedKernel = FixedKernel {
    family: "router",
    name: "gate_select",
    params: "GateSelectParams",
    threads: 128,
    smem_bytes: 0,
};
/// Tokens of every expert, counted.
pub const EXPERT_LOAD: FixedKernel = FixedKernel {
    family: "router",
    name: "expert_load",
    params: "ExpertLoadParams",
    threads: 256,
    smem_bytes: 0,
};
/// The router's bias after a step.
pub const BIAS_UPDATE: FixedKernel = FixedKernel {
    family: "router",
    name: "bias_update",
    params: "BiasUpdateParams",
    threads: 512,
    smem_bytes: 0,
};
/// How unevenly each sequence uses the experts.
pub const SEQUENCE_BALANCE_LOSS: FixedKernel = FixedKernel {
    family: "router",
    name: "sequence_balance_loss",
    params: "SequenceBalanceLossParams",
    threads: 256,
    smem_bytes: 2 * 8 * MAX_EXPERTS * 4,
};

/// Every kernel of the family.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    [GATE_LOGITS, GATE_SELECT, EXPERT_LOAD, BIAS_UPDATE, SEQUENCE_BALANCE_LOSS]
        .map(FixedKernel::kernel)
        .into_iter()
}
