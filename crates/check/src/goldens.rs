//! The inputs of `tests/goldens/`: its scripts asked Hugging Face what it computes from them.

/// The states of the linear congruential generator that the scripts share.
pub fn states(seed: u32) -> impl Iterator<Item = u32> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(seed), next).skip(1)
}

/// Integers in [-128, 128).
pub fn integers(count: usize, seed: u32) -> impl Iterator<Item = f32> {
    states(seed).take(count).map(|state| (state >> 24) as f32 - 128.0)
}
