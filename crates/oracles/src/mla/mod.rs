//! Multi-head latent attention: the cache, the decode step and the prefill, and what stands around them.

mod absorb;
mod attention;
mod attention_bits;
mod decode;
mod flash_mla;
mod inputs;
mod kv_append;
mod merge_states;
mod prefill;
mod rope;
mod step;

pub use absorb::{HeadColumns, HeadProduct, Side};
pub use attention::MlaBounded;
pub use attention_bits::{Approximations, MlaBits};
pub use decode::{
    MlaSequence, dequantize_kv_fp8, dequantize_kv_fp8_per_tensor, gather_pages, mla_decode, mla_decode_bits,
};
pub use flash_mla::{FlashMlaBar, FlashMlaVerdict, calc_diff};
pub use inputs::{AttentionClass, AttentionInputs};
pub use kv_append::{Appended, NewTokens, kv_append_bf16, kv_append_fp8, kv_append_fp8_per_tensor};
pub use merge_states::{State, merge_states, merge_states_bound};
pub use prefill::{MlaHead, mla_prefill, mla_prefill_bits};
pub use rope::{Pairs, rope};
pub use step::{ExpandedKv, MlaStep};
