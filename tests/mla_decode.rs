//! MLA decode against its f64 reference: values within the a-priori bound, exact where they can be, bits that depend on
//! the sequence alone.

mod harness;
mod mla;

use deepseek_kernels::KvFormat;
use deepseek_kernels::reference::inputs::AttentionClass;
use harness::devices;
use mla::Step;

#[test]
fn smoke() {
    for device in devices() {
        Step::default().check(&device);
        Step { format: KvFormat::Fp8, ..Step::default() }.check(&device);
        Step { class: AttentionClass::X4, lengths: vec![300, 0, 65], q_tokens: 2, heads: 64, causal: true, ..Step::default() }
            .check(&device);
    }
}
