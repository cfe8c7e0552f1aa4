//! A whole step of attention, from the projections' outputs to what the output projection reads: the example, on every
//! device.

#[path = "../../../examples/decode_step.rs"]
#[allow(dead_code, reason = "its main function is for `cargo run`")]
mod decode_step;

#[test]
fn the_example_agrees_with_hugging_face() -> Result<(), Box<dyn std::error::Error>> {
    check::devices::devices().iter().try_for_each(decode_step::run)
}
