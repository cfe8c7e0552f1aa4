//! The gate of a GEMM: nothing that is wrong is timed.

use oracles::gemm::GemmInputs;
use oracles::gemm::{Elements, Epilogue, Oracle, Output, Sample};

/// Fails unless a sample of a BF16 result is within the error bound of any correct kernel. Whether it also has the bits of
/// the tensor core's model is said and decides nothing: it is the model that would be wrong.
pub fn accept(what: &str, inputs: &GemmInputs, sample: &Sample, got: &Elements) {
    let operands = inputs.operands().expect("operands");
    let judge = |oracle: Oracle| {
        oracle.check(&operands, &Epilogue::store(Output::Bf16), sample, got).expect("any input fits")
    };
    let bound = judge(Oracle::Bound);
    assert!(bound.accepted(), "{what} is wrong before it is timed: {bound}");
    let bits = judge(Oracle::BitModel);
    println!(
        "{what}: {}",
        if bits.accepted() {
            "the bits of the model".to_owned()
        } else {
            format!("not the bits of the model: {bits}")
        }
    );
}
