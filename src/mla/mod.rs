//! Multi-head latent attention: the cache, the decode step and the prefill, and what stands around them.
#![forbid(unsafe_code)]

mod absorb;
mod cache;
mod decode;
mod heads;
mod kv_append;
mod lse;
mod merge_states;
mod prefill;
mod rope;
mod rope_table;

pub use absorb::{MlaAbsorb, MlaAbsorbOutputArgs, MlaAbsorbQueryArgs, MlaAbsorbSpec};
pub use cache::{KvCache, KvCacheMut, KvFormat};
pub use decode::{
    DEFAULT_SPLIT_KEYS, EmptyLse, KvPaging, MAX_HEADS, MAX_Q_TOKENS, MlaAttendArgs, MlaDecode, MlaDecodeArgs,
    MlaDecodeSpec, MlaScheduleArgs, MlaSplits,
};
pub use heads::{Heads, HeadsMut};
pub use kv_append::{KvAppend, KvAppendArgs, KvAppendSpec};
pub use lse::LseOrder;
pub use merge_states::{AttentionState, AttentionStateMut, MergeStates, MergeStatesArgs, MergeStatesSpec};
pub use prefill::{MlaPrefill, MlaPrefillArgs, MlaPrefillSpec};
pub use rope::{Rope, RopeArgs, RopePairs, RopeSpec};
pub use rope_table::{RopeTable, YarnRope};
