//! Faults in MLA decode that change the order or the rounding of one sum, and nothing else: what the bit model is there for.

use super::faults::changed;
use super::{MlaDecodeCase, MlaDecodeProblem};
use crate::mla::{CacheRows, KEY, LATENT};
use crate::planted::{Trial, faults};
use deepseek_kernels::bf16;
use deepseek_kernels::mla::KvFormat;
use oracles::mla::AttentionClass;

/// Four parts and more of a sequence, the last one short, and sequences of few keys; values and scores that show in which
/// order they were added, and means that show how they were divided.
const ORDER: Trial = Trial::Changed(|| {
    let problem = |class, lengths: &[usize], split_keys| {
        let case = MlaDecodeCase { class, ..MlaDecodeCase::new(KvFormat::Bf16, lengths.to_vec()) };
        let case = MlaDecodeCase { heads: 5, q_tokens: 2, split_keys: Some(split_keys), ..case };
        case.problem().expect("inputs")
    };
    let few_keys = MlaDecodeCase { heads: 20, ..MlaDecodeCase::new(KvFormat::Bf16, vec![20, 70, 40]) };
    let few_keys = MlaDecodeCase { class: AttentionClass::Cancelling, q_tokens: 2, ..few_keys };
    let problems = [
        problem(AttentionClass::Cancelling, &[500, 300], 128),
        problem(AttentionClass::Peaked, &[500, 300], 128),
        few_keys.problem().expect("inputs"),
        with_means_between_two_bf16(problem(AttentionClass::Uniform, &[82, 94, 98], 64)),
        with_means_between_two_bf16(problem(AttentionClass::Uniform, &[82, 94, 98], 128)),
    ];
    problems.map(changed).into()
});

/// Of an even number of equal weights: half of the values are one BF16, half the next. A quotient is the tie between them,
/// a product with the rounded inverse of 82 is not.
fn with_means_between_two_bf16(mut problem: MlaDecodeProblem) -> MlaDecodeProblem {
    let CacheRows::Bf16(rows) = &mut problem.cache else { unreachable!("a BF16 cache") };
    let keys = rows.chunks_exact_mut(KEY).filter(|key| !key[0].is_nan());
    for (index, key) in keys.enumerate() {
        for (column, value) in key[..LATENT].iter_mut().enumerate() {
            *value = bf16::from_bits(bf16::ONE.to_bits() + (column % 127 + index % 2) as u16);
        }
    }
    problem
}

faults! {
    parts_added_last_to_first: ORDER,
        "row = (exists ? first + i : first) * parts.rows"
            => "row = (exists ? parts.count - 1 - first - i : first) * parts.rows",
        ["bit model"];
    parts_added_in_pairs: ORDER,
        "if (l[i] == 0.0f) continue;"
            => "if (i % 2 == 1) continue;
                const float pair = ptx::max_f32(m[i], m[i + 1]);
                const float one = l[i] == 0.0f ? 0.0f : ptx::ex2_approx(m[i] - pair);
                const float two = l[i + 1] == 0.0f ? 0.0f : ptx::ex2_approx(m[i + 1] - pair);
                const auto join = [&](uint32_t& a, uint32_t b) {
                  a = std::bit_cast<uint32_t>(one * std::bit_cast<float>(a) + two * std::bit_cast<float>(b));
                };
                join(o[i].x, o[i + 1].x);
                join(o[i].y, o[i + 1].y);
                join(o[i].z, o[i + 1].z);
                join(o[i].w, o[i + 1].w);
                l[i] = one * l[i] + two * l[i + 1];
                m[i] = pair;
                if (l[i] == 0.0f) continue;",
        ["bit model"];
    parts_rounded_to_bf16: ORDER,
        "ptx::stg_v2_u32(gO + 2 * i, std::bit_cast<uint32_t>(rO[i + 2 * r]), std::bit_cast<uint32_t>(rO[i + 2 * r + 1]));"
            => "const uint32_t pair = ptx::cvt_bf16x2(rO[i + 2 * r + 1], rO[i + 2 * r]);
                ptx::stg_v2_u32(gO + 2 * i, pair << 16, pair & 0xffff0000u);",
        ["bit model"];
    parts_multiplied_and_then_added: ORDER,
        "sum.o[j] = ptx::fma_rn(weight, std::bit_cast<float>(bits[j]), sum.o[j])"
            => "sum.o[j] += weight * std::bit_cast<float>(bits[j])",
        ["bit model"];
    sums_of_parts_multiplied_and_then_added: ORDER,
        "sum.l = ptx::fma_rn(weight, l[i], sum.l)" => "sum.l += weight * l[i]", ["bit model"];
    latent_scored_before_the_position: ORDER,
        "i == 0 ? Config::kRopeTile : i - 1" => "i", ["bit model"];
    scores_of_a_tile_from_its_last_step: ORDER,
        "descriptor_advance(desc_q, byte), descriptor_advance(desc_k, byte)"
            => "descriptor_advance(desc_q, 96 - byte), descriptor_advance(desc_k, 96 - byte)",
        ["bit model"];
    scores_scaled_before_the_max_is_taken_off: ORDER,
        "ptx::fma_rn(s, scale_log2, -base)" => "s * scale_log2 - base", ["bit model"];
    sum_of_the_rounded_weights: ORDER,
        "rows.l[r] += s;" => "rows.l[r] += ptx::bf16_lo_f32(ptx::cvt_bf16x2(0.0f, s));", ["lse: "];
    sum_of_a_block_added_at_once: ORDER,
        "rows.l[r] *= rescale[r];" => "float block = 0;",
        "rows.l[r] += s;" => "block += s; if (i + 4 >= Registers && c == 1) rows.l[r] = ptx::fma_rn(rows.l[r], rescale[r], block);",
        ["bit model"];
    threads_of_a_row_added_in_another_order: ORDER,
        "pair = rows.l[r] + ptx::shfl_xor(rows.l[r], 1)" => "pair = rows.l[r] + ptx::shfl_xor(rows.l[r], 2)",
        "pair + ptx::shfl_xor(pair, 2)" => "pair + ptx::shfl_xor(pair, 1)",
        ["bit model"];
    values_from_the_last_keys_on: ORDER,
        "multiply(step, descriptor_advance(desc_v, step * 16 * 128));"
            => "multiply(Config::kKeySteps - 1 - step, descriptor_advance(desc_v, (Config::kKeySteps - 1 - step) * 16 * 128));",
        ["bit model"];
    max_of_the_split_instead_of_the_block: ORDER,
        "const float m = ptx::max_f32(rows.m[r], block_max(rS, r) * scale_log2);"
            => "const float m = ptx::max_f32(rows.m[r], block_max(rS, r) * scale_log2 + 1.0f);",
        ["bit model"];
    divided_instead_of_multiplied_with_the_inverse: ORDER,
        "scale_rows(rO, inverse);"
            => "for (int i = 0; i < Config::kOutRegisters; ++i) rO[i] /= 1.0f / inverse[i % 4 / 2];",
        ["bit model"];
    parts_divided_instead_of_multiplied_with_the_inverse: ORDER,
        "o[1] * inverse, o[0] * inverse" => "o[1] / l, o[0] / l", ["bit model"];
    logarithm_scaled_before_it_is_added: ORDER,
        "(m + ptx::lg2_approx(l)) * kLn2" => "m * kLn2 + ptx::lg2_approx(l) * kLn2", ["bit model"];
}
