//! Faults in MLA: cache, rotation, absorbed projections, decode, merge.

mod absorb;
mod decode;
mod kv_append;
mod merge_states;
mod rope;

use super::Trial;

pub fn trials() -> Vec<Trial> {
    let merge = [merge_states::MERGE];
    [kv_append::TRIALS, rope::TRIALS, &merge[..], absorb::TRIALS, decode::TRIALS].concat()
}
