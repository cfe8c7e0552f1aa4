//! MLA decode through files.
//!
//! `q` BF16 `[batch, q_tokens, heads, 576]`; `cache` BF16 `[pages, page_size, 576]`, or U8 of 656 bytes a key, or of 576 under
//! the FP32 `scale` `[1]`; `page_table` I32 `[batch, pages_per_sequence]`; `lengths` I32 `[batch]`. `out` BF16
//! `[batch, q_tokens, heads, 512]`, and `lse` FP32 `[batch, q_tokens, heads]` in natural logarithms, -inf without a key.
//! Metadata: `softmax_scale`, `causal` 0 or 1, `split_keys`. Keys that are nobody's are NaN.

use deepseek_kernels::mla::{EmptyLse, KvFormat, KvPaging, MlaDecodeSpec};
use oracles::mla::AttentionClass;

use super::{ExportArgs, Tensors, Writer, sizes};
use crate::case::Expected;
use crate::judge::{Check, Scrutiny};
use crate::mla::cache::CacheRows;
use crate::mla::decode::{MlaDecodeCase, MlaDecodeProblem};
use crate::mla::{KEY, LATENT, ROPE};

const OPERATIONS: [(&str, KvFormat); 3] = [
    ("mla_decode_bf16", KvFormat::Bf16),
    ("mla_decode_fp8", KvFormat::Fp8),
    ("mla_decode_fp8_per_tensor", KvFormat::Fp8PerTensor),
];

fn format_of(operation: &str) -> Result<KvFormat, String> {
    let found =
        OPERATIONS.iter().find(|(name, _)| operation.ends_with(&format!("::{name}")) || operation == *name);
    found.map(|&(_, format)| format).ok_or_else(|| format!("{operation} is no decode step"))
}

fn class_of(name: &str) -> Option<AttentionClass> {
    AttentionClass::ALL.into_iter().find(|class| class.to_string().eq_ignore_ascii_case(name))
}

pub fn export(args: &ExportArgs, file: &mut Writer) -> Result<(), String> {
    let ([q_tokens, heads], lengths) = sizes(&args.shape, 2)?;
    let format = format_of(&args.op)?;
    let class = class_of(&args.class).ok_or_else(|| {
        let there = AttentionClass::ALL.map(|class| class.to_string()).join(", ");
        format!("no class of attention inputs is called {}; there are {there}", args.class)
    })?;
    if !(1..=64).contains(&q_tokens) || !(1..=128).contains(&heads) {
        return Err(format!("expected 1 to 64 query tokens and 1 to 128 heads, got {q_tokens} and {heads}"));
    }
    let case =
        MlaDecodeCase { q_tokens, heads, causal: q_tokens > 1, class, ..MlaDecodeCase::new(format, lengths) };
    let case = MlaDecodeCase { seed: case.seed.wrapping_add(args.seed), ..case };
    let MlaDecodeProblem { spec, lengths, table, q, cache, .. } =
        case.problem().map_err(|error| error.to_string())?;
    let KvPaging::Paged { pages, page_size, pages_per_sequence } = spec.paging else {
        return Err("the cache has pages".to_owned());
    };
    let batch = spec.batch;
    file.put("q", &[batch, q_tokens, heads, KEY], &q);
    let rows = [pages, page_size, format.columns(ROPE)];
    match &cache {
        CacheRows::Bf16(elements) => file.put("cache", &rows, elements),
        CacheRows::Fp8(elements) => file.put("cache", &rows, elements),
        CacheRows::Fp8PerTensor { rows: elements, scale } => {
            file.put("cache", &rows, elements);
            file.put("scale", &[1], &[*scale]);
        }
    }
    file.put("page_table", &[batch, pages_per_sequence], &table);
    file.put("lengths", &[batch], &lengths);
    file.tell("softmax_scale", spec.softmax_scale);
    file.tell("causal", u8::from(spec.causal));
    file.tell("split_keys", spec.split_keys);
    Ok(())
}

/// The step of a file.
fn problem(inputs: &Tensors, class: Option<AttentionClass>) -> Result<MlaDecodeProblem, String> {
    let format = format_of(inputs.told(super::OPERATION)?)?;
    let [batch, q_tokens, heads, key] = inputs.shape("q")?;
    let [pages, page_size, _] = inputs.shape("cache")?;
    let [_, columns] = inputs.shape("page_table")?;
    let q = inputs.get("q", &[batch, q_tokens, heads, KEY])?;
    let rows = [pages, page_size, format.columns(ROPE)];
    let cache = match format {
        KvFormat::Bf16 => CacheRows::Bf16(inputs.get("cache", &rows)?),
        KvFormat::Fp8 => CacheRows::Fp8(inputs.get("cache", &rows)?),
        KvFormat::Fp8PerTensor => CacheRows::Fp8PerTensor {
            rows: inputs.get("cache", &rows)?,
            scale: inputs.get("scale", &[1])?[0],
        },
    };
    let table: Vec<i32> = inputs.get("page_table", &[batch, columns])?;
    let lengths: Vec<i32> = inputs.get("lengths", &[batch])?;
    let there = |page: &i32| usize::try_from(*page).is_ok_and(|page| page < pages);
    for (sequence, &length) in lengths.iter().enumerate() {
        let used = usize::try_from(length).ok().map(|length| length.div_ceil(page_size.max(1)));
        let row = &table[sequence * columns..][..columns];
        if !used.and_then(|used| row.get(..used)).is_some_and(|used| used.iter().all(there)) {
            return Err(
                inputs.wrong(format!("sequence {sequence} of {length} keys has pages that are not there"))
            );
        }
    }
    let (scale, causal, split_keys) = (
        inputs.number::<f32>("softmax_scale")?,
        inputs.number::<u8>("causal")? != 0,
        inputs.number::<usize>("split_keys")?,
    );
    if !scale.is_finite() || split_keys == 0 || q_tokens == 0 || heads == 0 || key != KEY {
        return Err(inputs.wrong("a scale, a split, query tokens and heads are to be above 0"));
    }
    let paging = KvPaging::Paged { pages, page_size, pages_per_sequence: columns };
    let spec = MlaDecodeSpec::new(batch, heads, format, paging, scale)
        .q_tokens(q_tokens)
        .causal(causal)
        .empty_lse(EmptyLse::NegativeInfinity)
        .split_keys(split_keys);
    let case = MlaDecodeCase {
        q_tokens,
        heads,
        causal,
        page_size: Some(page_size),
        split_keys: Some(split_keys),
        // Of no class the bound alone is known.
        class: class.unwrap_or(AttentionClass::Positive),
        ..MlaDecodeCase::new(format, lengths.iter().map(|&length| length as usize).collect())
    };
    Ok(MlaDecodeProblem {
        case,
        spec,
        lengths,
        q_offsets: None,
        table,
        q,
        cache,
        finite: true,
        bounds: Expected::default(),
        bits: Expected::default(),
    })
}

pub fn judge(inputs: &Tensors, class: Option<&str>, outputs: &Tensors) -> Result<Vec<Check>, String> {
    let problem = problem(inputs, class.and_then(class_of))?;
    let MlaDecodeSpec { batch, q_tokens, heads, .. } = problem.spec;
    let out = outputs.get("out", &[batch, q_tokens, heads, LATENT])?;
    let with_lse = outputs.has("lse");
    let lse = if with_lse {
        outputs.get("lse", &[batch, q_tokens, heads])?
    } else {
        vec![f32::NAN; batch * q_tokens * heads]
    };
    let failed = |error: anyhow::Error| error.to_string();
    let mut checks = problem.judge(&out, &lse, Scrutiny::Thorough).map_err(failed)?;
    checks.extend(problem.judge_bits(&out, &lse).map_err(failed)?);
    // What is joined of both outputs says nothing of one.
    checks.retain(|check| {
        with_lse || matches!(check.oracle, "bound" | "bit model" | "exact mean" | "dominant key")
    });
    Ok(checks)
}
