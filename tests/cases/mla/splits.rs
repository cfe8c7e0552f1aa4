//! Parts of a step put together: one schedule for several layers, and a context that lies in two places.

use check::devices::{FEW_MULTIPROCESSORS, devices, emulators};
use check::guarded::{Guarded, Placement};
use check::mla::decode::{Bits, Cache, KEY, LATENT, Operands, STALE_PAGE, Step};
use check::mla::merge_states::{Merge, Part};
use deepseek_kernels::mla::{
    KvCache, KvFormat, KvPaging, MlaDecode, MlaDecodeArgs, MlaDecodeSpec, MlaSplits,
};
use deepseek_kernels::{Device, Matrix, MatrixMut, bf16};
use oracles::gemm::Output;
use oracles::mla::AttentionClass;
use oracles::mla::{MlaBounded, State, merge_states_bound};

const FORMATS: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Fp8];

// ------------------------------------------------------------------------------------------------- the length of a split

/// What was fastest on an H100 (`benches/results/NOTES.md`): format, batch, keys of each sequence, keys of a split.
#[test]
fn the_fastest_splits_are_those_that_were_measured() {
    for (format, batch, keys, expected) in [
        (KvFormat::Bf16, 1, 4096, 256),
        (KvFormat::Bf16, 1, 65_536, 1024),
        (KvFormat::Bf16, 32, 1024, 1024),
        (KvFormat::Bf16, 128, 4096, 4096),
        (KvFormat::Fp8, 1, 4096, 128),
        (KvFormat::Fp8, 1, 65_536, 1024),
        (KvFormat::Fp8, 32, 1024, 512),
        (KvFormat::Fp8, 128, 4096, 4096),
    ] {
        let spec =
            MlaDecodeSpec { format, batch, heads: 128, q_tokens: 1, ..Step::default().operands().spec };
        let got = spec.fastest_split(keys, 132);
        assert_eq!(got, expected, "{batch} sequences of {keys} keys, {format:?}");
    }
}

/// Whatever the sizes, the plan takes it.
#[test]
fn a_fastest_split_is_always_a_split() {
    for device in emulators([FEW_MULTIPROCESSORS]) {
        for (batch, keys) in
            [(0, 0), (1, 0), (0, 1), (1, 1), (3, 63), (3, 65), (2, 1000), (1, usize::MAX >> 32)]
        {
            for multiprocessors in [0, 1, 132] {
                let spec = MlaDecodeSpec { batch, ..Step::default().operands().spec };
                let split_keys = spec.fastest_split(keys, multiprocessors);
                assert!(split_keys >= 64 && split_keys.is_multiple_of(64), "{split_keys}");
                MlaDecode::plan(&device, MlaDecodeSpec { split_keys, ..spec }).expect("plan");
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------- several layers

/// Caches, pages, formats and heads may change from layer to layer; lengths do not.
#[test]
fn layers_share_one_schedule() {
    let lengths = vec![300, 0, 64, 191];
    for device in devices() {
        for causal in [false, true] {
            let layer = |seed, format, heads| {
                let lengths = lengths.clone();
                Step { seed, format, heads, lengths, causal, q_tokens: 2, ..Step::default() }.operands()
            };
            let layers =
                [layer(1, KvFormat::Bf16, 16), layer(2, KvFormat::Bf16, 64), layer(3, KvFormat::Fp8, 5)];
            let plan = MlaDecode::plan(&device, layers[0].spec).expect("plan");
            let dense = |columns| Placement { offset: 2, pitch: columns };
            let there = Guarded::new(&device, &lengths, 1, 4, dense(4), -7);
            let mut tables =
                Guarded::unwritten(&device, 1, plan.tables(), dense(plan.tables()), 0xdead_beef_u32);
            let stream = device.stream().expect("stream");
            let mut splits = plan.schedule(stream, there.matrix(), tables.matrix_mut()).expect("schedule");
            // The first one again: attention leaves the splits as they are.
            for layer in [0, 1, 2, 0] {
                let bits = attend(&layers[layer], &device, &mut splits);
                assert_eq!(bits, layers[layer].run(&device, None).expect("run"), "layer {layer}");
            }
            tables.into_checked(|x| x);
        }
    }
}

/// The attention of a step whose splits are known.
fn attend(operands: &Operands, device: &Device, splits: &mut MlaSplits<'_>) -> Bits {
    let spec = &operands.spec;
    let plan = MlaDecode::plan(device, *spec).expect("plan");
    let (tokens, rows) = (spec.batch * spec.q_tokens, spec.batch * spec.q_tokens * spec.heads);
    let upload = |data: &[bf16]| device.upload(data).expect("upload");
    let q = upload(&operands.q);
    let table = device.upload(&operands.table).expect("page table");
    let mut partials = device.upload(&vec![f32::NAN; plan.partials()]).expect("partials");
    let mut out = upload(&vec![bf16::NAN; rows * LATENT]);
    let mut lse = device.upload(&vec![f32::NAN; rows]).expect("lse");
    let (bf16_cache, fp8_cache);
    let width = spec.format.columns();
    let cache = match &operands.cache {
        Cache::Bf16(keys) => {
            bf16_cache = upload(keys);
            KvCache::Bf16(Matrix::new(&bf16_cache, keys.len() / width, width).expect("cache"))
        }
        Cache::Fp8(bytes) => {
            fp8_cache = device.upload(bytes).expect("cache");
            KvCache::Fp8(Matrix::new(&fp8_cache, bytes.len() / width, width).expect("cache"))
        }
    };
    let args = MlaDecodeArgs {
        q: Matrix::new(&q, rows, KEY).expect("q"),
        cache,
        page_table: Some(Matrix::new(&table, spec.batch, table_columns(operands)).expect("page table")),
        partials: MatrixMut::new(&mut partials, 1, plan.partials()).expect("partials"),
        out: MatrixMut::new(&mut out, rows, LATENT).expect("out"),
        lse: MatrixMut::new(&mut lse, tokens, spec.heads).expect("lse"),
    };
    plan.attend(device.stream().expect("stream"), splits, args).expect("attend");
    Bits {
        out: out.to_vec().expect("out").into_iter().map(bf16::to_bits).collect(),
        lse: lse.to_vec().expect("lse").into_iter().map(f32::to_bits).collect(),
    }
}

fn table_columns(operands: &Operands) -> usize {
    let KvPaging::Paged { pages_per_sequence, .. } = operands.spec.paging else {
        panic!("the cache has no pages")
    };
    pages_per_sequence
}

// ---------------------------------------------------------------------------------------------------- two places

/// The first `pages` pages of every sequence, and the rest of it.
fn halves(whole: &Operands, pages: usize) -> [Operands; 2] {
    let columns = table_columns(whole);
    let (mut first, mut second) = (whole.clone(), whole.clone());
    // The query tokens are the last of the keys: none of the first part is hidden from them.
    first.spec.causal = false;
    for (sequence, &length) in whole.lengths.iter().enumerate() {
        first.lengths[sequence] = length.min(64 * pages as i32);
        second.lengths[sequence] = length - first.lengths[sequence];
        let entries = &mut second.table[sequence * columns..][..columns];
        entries.rotate_left(pages);
        entries[columns - pages..].fill(STALE_PAGE);
    }
    [first, second]
}

fn part(bits: &Bits) -> Part {
    Part { o: bits.out().iter().map(|x| x.to_f32()).collect(), lse: bits.lse() }
}

fn merged(device: &Device, parts: [&Bits; 2], heads: usize) -> Bits {
    let merge = Merge { parts: parts.map(part), heads, infinity_is_empty: false };
    let (out, lse) = merge.run::<bf16>(device);
    Bits {
        out: out.into_iter().map(bf16::to_bits).collect(),
        lse: lse.into_iter().map(f32::to_bits).collect(),
    }
}

/// Attention over both parts of a context and the merge of their states are as near to attention in f64 over the whole
/// as their own error bounds allow.
#[test]
fn two_parts_of_a_context_merge_into_the_whole() {
    for device in devices() {
        for format in FORMATS {
            for class in [AttentionClass::Normal, AttentionClass::Positive, AttentionClass::Peaked] {
                for causal in [false, true] {
                    let lengths = vec![300, 193, 450];
                    let step =
                        Step { class, format, causal, lengths, q_tokens: 2, heads: 8, ..Step::default() };
                    let whole = step.operands();
                    let parts = halves(&whole, 2);
                    let bits = parts.each_ref().map(|part| part.run(&device, None).expect("run"));
                    let got = merged(&device, bits.each_ref(), 8);
                    let direct = step.check(&device);
                    for sequence in 0..3 {
                        let reference = whole.reference(sequence);
                        let of_parts = parts.each_ref().map(|part| part.reference(sequence));
                        check_merged(&reference, &of_parts, &bits, [&got, &direct], sequence);
                    }
                }
            }
        }
    }
}

/// Of `results`, the first is merged, the second attention over the whole.
///
/// The merge is within its bound of the exact merge of what the parts are. That differs from the merge of what they should
/// be by no more than the larger of the errors of lse, E; and in o by the errors of the parts' o, of which it is a mean, and
/// by the change of the weight w: as its derivative by lse is w (1 - w), at most 2 E e^(2 E) w (1 - w) of their distance.
fn check_merged(
    reference: &MlaBounded,
    parts: &[MlaBounded; 2],
    bits: &[Bits; 2],
    results: [&Bits; 2],
    sequence: usize,
) {
    let rows = reference.lse.len();
    let first = sequence * rows;
    let states = bits.each_ref().map(part);
    let states = states
        .each_ref()
        .map(|part| State { o: &part.o[first * LATENT..][..rows * LATENT], lse: &part.lse[first..][..rows] });
    let (o, lse) = merge_states_bound(states, LATENT, Output::Bf16).expect("shapes");
    let [merged, direct] = results.map(part);
    let [a, b] = parts;
    for (row, &(_, of_merge)) in lse.iter().enumerate() {
        let error = a.lse_bound[row].max(b.lse_bound[row]);
        let bound = of_merge + error;
        let whole = [reference.lse[row], direct.lse[first + row].into()];
        for (whole, slack) in whole.into_iter().zip([0.0, reference.lse_bound[row]]) {
            let distance = (f64::from(merged.lse[first + row]) - whole).abs();
            assert!(distance <= bound + slack, "sequence {sequence}, lse[{row}]: {distance:e} from {whole}");
        }
        let w = 1.0 / (1.0 + (b.lse[row] - a.lse[row]).exp());
        let moved = 2.0 * error * (2.0 * error).exp() * w * (1.0 - w);
        for (column, &(_, of_merge)) in o[row * LATENT..][..LATENT].iter().enumerate() {
            let i = row * LATENT + column;
            let bound = of_merge + a.out_bound[i].max(b.out_bound[i]) + moved * (a.out[i] - b.out[i]).abs();
            let at = first * LATENT + i;
            let whole = [reference.out[i], direct.o[at].into()];
            for (whole, slack) in whole.into_iter().zip([0.0, reference.out_bound[i]]) {
                let distance = (f64::from(merged.o[at]) - whole).abs();
                assert!(
                    distance <= bound + slack,
                    "sequence {sequence}, out[{row}, {column}]: {distance:e} from {whole}"
                );
            }
        }
    }
}

/// Where one key counts alone, its value comes out of the merge to the bit, from whichever part.
#[test]
fn the_dominant_key_may_be_in_either_part() {
    for device in devices() {
        for format in FORMATS {
            let (class, lengths) = (AttentionClass::OneKey, vec![200, 130]);
            let step = Step { class, format, lengths, heads: 32, ..Step::default() };
            let bits = halves(&step.operands(), 1).map(|part| part.run(&device, None).expect("run"));
            let [a, b] = bits.each_ref().map(|bits| bits.lse());
            assert!(a.iter().zip(&b).any(|(a, b)| a > b) && a.iter().zip(&b).any(|(a, b)| a < b));
            assert_eq!(merged(&device, bits.each_ref(), 32).out, step.check(&device).out);
        }
    }
}

/// A part without keys leaves the other one, which is the whole, bit for bit.
#[test]
fn a_part_may_be_empty() {
    for device in devices() {
        for format in FORMATS {
            let step = Step { format, lengths: vec![64, 0, 33], q_tokens: 2, ..Step::default() };
            let whole = step.check(&device);
            for pages in [0, 1] {
                let bits = halves(&step.operands(), pages).map(|part| part.run(&device, None).expect("run"));
                let empty = |bits: &Bits| bits.lse().iter().all(|&x| x == f32::NEG_INFINITY);
                assert!(empty(&bits[pages]));
                assert_eq!(merged(&device, bits.each_ref(), 16), whole);
            }
        }
    }
}
