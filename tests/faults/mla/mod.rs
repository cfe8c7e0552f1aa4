//! Faults in MLA: cache, rotation, absorbed projections, decode, merge.

mod absorb;
mod decode;
mod kv_append;
mod merge_states;
mod rope;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    let others = [kv_append::APPEND, rope::ROTATE, merge_states::MERGE];
    [&others[..], absorb::PROBLEMS, decode::PROBLEMS].concat()
}
