//! More tokens than 16 bits count, in every operation around GEMMs and attention whose grid grows with them.

use check::case::{Cases, boxed, pass};
use check::devices::{FAR, emulators};
use check::mla::kv_append::{FORMATS, KvAppendCase};
use check::mla::merge_states::MergeStatesCase;
use check::mla::rope::RopeCase;
use check::moe::combine::CombineCase;
use check::moe::expert_map::ExpertMapCase;
use check::quant::dequantize::DequantizeCase;
use check::quant::quantize_1x128::Quantize1x128Case;
use check::quant::quantize_128x128::Quantize128x128Case;

/// 16 bits have 0 for this many.
const ROUND: usize = 65_536;
const MORE: usize = 70_000;

/// The shortest rows there are; whole rows of the cache take long, of which each format has one of the numbers.
fn cases() -> Cases {
    let numbers = [ROUND, MORE];
    let map = |tokens| ExpertMapCase::new((tokens, 1, 3));
    let mut cases =
        boxed(numbers.map(|tokens| CombineCase { repeated: true, ..CombineCase::new(map(tokens), 8) }));
    cases.extend(boxed(numbers.map(|rows| Quantize1x128Case::new((rows, 8)))));
    cases.extend(boxed(numbers.map(|rows| Quantize128x128Case::new((rows, 8)))));
    cases.extend(boxed(numbers.map(|rows| DequantizeCase::new((rows, 16)))));
    cases
        .extend(boxed(numbers.map(|tokens| RopeCase { repeated: true, ..RopeCase::new(tokens, 1, tokens) })));
    let [bf16, fp8, _] = FORMATS;
    cases.extend(boxed([KvAppendCase::new(bf16, ROUND), KvAppendCase::new(fp8, MORE)]));
    cases.extend(boxed([MergeStatesCase { repeated: true, ..MergeStatesCase::new(MORE, 1) }]));
    cases
}

#[test]
fn more_than_16_bits_count() {
    for device in emulators([FAR]) {
        for case in cases() {
            pass(&*case, &device);
        }
    }
}
