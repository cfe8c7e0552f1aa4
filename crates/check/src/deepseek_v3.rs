//! The sizes of DeepSeek-V3.

use crate::families::Extent;

/// The weights `[n, k]` of attention (q_a with kv_a, kv_a alone, q_b, kv_b, o) and of an expert (gate with up, down).
pub const LAYERS: [(usize, usize); 7] =
    [(2112, HIDDEN), (576, HIDDEN), (24576, 1536), (32768, 512), (HIDDEN, 16384), EXPERT[0], EXPERT[1]];

/// Those of a routed expert: gate with up, down.
pub const EXPERT: [(usize, usize); 2] = [(2 * INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)];

/// Columns of a hidden state.
pub const HIDDEN: usize = 7168;
/// Width of a routed expert.
pub const INTERMEDIATE: usize = 2048;
/// Routed experts.
pub const EXPERTS: usize = 256;
/// Routed experts of a token.
pub const TOP_K: usize = 8;
/// Query heads.
pub const HEADS: usize = 128;
/// What attention's scores are multiplied with.
pub const SOFTMAX_SCALE: f32 = 0.135_233_78;

/// Tokens of a layer that are judged: of a long prefill, or what an emulator can.
pub const fn tokens(extent: Extent) -> usize {
    match extent {
        Extent::Full => 4096,
        Extent::Reduced => 20,
    }
}
