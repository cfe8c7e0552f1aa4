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

/// 16 bits have a few thousand for this many.
const MANY: usize = 70_000;

/// The shortest rows there are; whole rows of the cache take long, of which each format has one of the numbers.
fn cases() -> Cases {
    let map = ExpertMapCase::new((MANY, 1, 3));
    let mut cases = boxed([CombineCase { repeated: true, ..CombineCase::new(map, 8) }]);
    cases.extend(boxed([Quantize1x128Case::new((MANY, 8))]));
    cases.extend(boxed([Quantize128x128Case::new((MANY, 8))]));
    cases.extend(boxed([DequantizeCase::new((MANY, 16))]));
    cases.extend(boxed([RopeCase { repeated: true, ..RopeCase::new(MANY, 1, MANY) }]));
    let [bf16, fp8, ..] = FORMATS;
    cases.extend(boxed([bf16, fp8].map(|format| KvAppendCase::new(format, MANY))));
    cases.extend(boxed([MergeStatesCase { repeated: true, ..MergeStatesCase::new(MANY, 1) }]));
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
