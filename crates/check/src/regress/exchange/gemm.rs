//! The FP8 GEMMs through files.
//!
//! `a` E4M3 `[m, k]`, `sfa` FP32 `[ceil(k/128), m]`, `b` E4M3 `[n, k]`, `sfb` FP32 `[ceil(n/128), ceil(k/128)]`; `d` BF16 or
//! FP32 `[m, n]`. Of a grouped GEMM `b` `[experts, n, k]`, `sfb` `[experts, ceil(n/128), ceil(k/128)]`, and `offsets` I32
//! `[experts + 1]`: rows of A and D where an expert's begin, and where the last one's end.

use deepseek_kernels::{F8E4M3, bf16};
use oracles::gemm::{Epilogue, GemmClass, GemmInputs, Oracle, Output as Rounding};
use safetensors::Dtype;

use super::{ExportArgs, Tensors, Writer, sizes};
use crate::judge::{Check, GemmJudge, Scrutiny};

/// What judges inputs of no class.
const ANY: &[Oracle] = &[Oracle::BitModel, Oracle::Bound];

fn class_of(args: &ExportArgs) -> Result<GemmClass, String> {
    let there = || GemmClass::ALL.map(|class| class.to_string()).join(", ");
    args.class
        .parse()
        .map_err(|_| format!("no class of GEMM inputs is called {}; there are {}", args.class, there()))
}

fn generate(class: GemmClass, (m, n, k): (usize, usize, usize), seed: u64) -> Result<GemmInputs, String> {
    if n == 0 || k == 0 || !n.is_multiple_of(8) || !k.is_multiple_of(16) {
        return Err(format!("n must be a multiple of 8 and k of 16, both above 0, got {n} and {k}"));
    }
    class.generate((m, n, k), seed).map_err(|error| error.to_string())
}

pub fn export_dense(args: &ExportArgs, file: &mut Writer) -> Result<(), String> {
    let ([n, k], rows) = sizes(&args.shape, 0)?;
    let [m] = rows[..] else { return Err(format!("expected one number of rows, got {}", args.shape)) };
    let GemmInputs { a, sfa, b, sfb, .. } = generate(class_of(args)?, (m, n, k), args.seed)?;
    let blocks = k.div_ceil(128);
    file.put("a", &[m, k], &a);
    file.put("sfa", &[blocks, m], &sfa);
    file.put("b", &[n, k], &b);
    file.put("sfb", &[n.div_ceil(128), blocks], &sfb);
    Ok(())
}

pub fn export_grouped(args: &ExportArgs, file: &mut Writer) -> Result<(), String> {
    let ([n, k], counts) = sizes(&args.shape, 0)?;
    let class = class_of(args)?;
    let experts = counts.iter().zip(args.seed..).map(|(&m, seed)| generate(class, (m, n, k), seed));
    let experts: Vec<GemmInputs> = experts.collect::<Result<_, _>>()?;
    let (rows, blocks) = (counts.iter().sum(), k.div_ceil(128));
    let mut offsets = vec![0];
    let mut sfa = vec![0.0; blocks * rows];
    for own in &experts {
        let first = *offsets.last().unwrap_or(&0) as usize;
        for block in 0..blocks {
            sfa[block * rows + first..][..own.m].copy_from_slice(&own.sfa[block * own.m..][..own.m]);
        }
        offsets.push((first + own.m) as i32);
    }
    let all = |of: fn(&GemmInputs) -> &[F8E4M3]| {
        experts.iter().flat_map(|own| of(own).to_vec()).collect::<Vec<_>>()
    };
    let sfb: Vec<f32> = experts.iter().flat_map(|own| own.sfb.clone()).collect();
    file.put("a", &[rows, k], &all(|own| &own.a));
    file.put("sfa", &[blocks, rows], &sfa);
    file.put("b", &[experts.len(), n, k], &all(|own| &own.b));
    file.put("sfb", &[experts.len(), n.div_ceil(128), blocks], &sfb);
    file.put("offsets", &[offsets.len()], &offsets);
    Ok(())
}

/// D, and how its elements are rounded.
fn results(outputs: &Tensors, shape: [usize; 2]) -> Result<(Vec<f32>, Rounding), String> {
    Ok(match outputs.dtype("d")? {
        Dtype::F32 => (outputs.get::<f32>("d", &shape)?, Rounding::F32),
        _ => (outputs.get::<bf16>("d", &shape)?.iter().map(|x| x.to_f32()).collect(), Rounding::Bf16),
    })
}

fn oracles_of(class: Option<&str>) -> &'static [Oracle] {
    class.and_then(|class| class.parse::<GemmClass>().ok()).map_or(ANY, GemmClass::oracles)
}

pub fn judge_dense(inputs: &Tensors, class: Option<&str>, outputs: &Tensors) -> Result<Vec<Check>, String> {
    let ([m, k], [n, _]) = (inputs.shape("a")?, inputs.shape::<2>("b")?);
    let blocks = k.div_ceil(128);
    let own = GemmInputs {
        m,
        n,
        k,
        parts: 1,
        a: inputs.get("a", &[m, k])?,
        sfa: inputs.get("sfa", &[blocks, m])?,
        b: inputs.get("b", &[n, k])?,
        sfb: inputs.get("sfb", &[n.div_ceil(128), blocks])?,
    };
    let (d, rounding) = results(outputs, [m, n])?;
    judged(&own, oracles_of(class), &d, rounding)
}

pub fn judge_grouped(inputs: &Tensors, class: Option<&str>, outputs: &Tensors) -> Result<Vec<Check>, String> {
    let ([rows, k], [experts, n, _]) = (inputs.shape("a")?, inputs.shape::<3>("b")?);
    let blocks = k.div_ceil(128);
    let a: Vec<F8E4M3> = inputs.get("a", &[rows, k])?;
    let sfa: Vec<f32> = inputs.get("sfa", &[blocks, rows])?;
    let b: Vec<F8E4M3> = inputs.get("b", &[experts, n, k])?;
    let sfb: Vec<f32> = inputs.get("sfb", &[experts, n.div_ceil(128), blocks])?;
    let offsets: Vec<i32> = inputs.get("offsets", &[experts + 1])?;
    let fits = offsets.windows(2).all(|pair| 0 <= pair[0] && pair[0] <= pair[1]);
    if !fits || offsets.last().is_some_and(|&end| end as usize > rows) || offsets[0] < 0 {
        return Err(inputs.wrong(format!("offsets must ascend from 0 to at most {rows}")));
    }
    let (d, rounding) = results(outputs, [rows, n])?;
    let mut joined = Vec::new();
    for (expert, pair) in offsets.windows(2).enumerate() {
        let range = pair[0] as usize..pair[1] as usize;
        if range.is_empty() {
            continue;
        }
        let lines = (0..blocks).flat_map(|block| sfa[block * rows..][range.clone()].to_vec());
        let scales = n.div_ceil(128) * blocks;
        let own = GemmInputs {
            m: range.len(),
            n,
            k,
            parts: 1,
            a: a[range.start * k..range.end * k].to_vec(),
            sfa: lines.collect(),
            b: b[expert * n * k..][..n * k].to_vec(),
            sfb: sfb[expert * scales..][..scales].to_vec(),
        };
        let mut checks = judged(&own, oracles_of(class), &d[range.start * n..range.end * n], rounding)?;
        for check in &mut checks {
            check.failure = check.failure.take().map(|failure| format!("expert {expert}: {failure}"));
        }
        joined = Check::join(joined, checks);
    }
    Ok(joined)
}

fn judged(own: &GemmInputs, oracles: &[Oracle], d: &[f32], rounding: Rounding) -> Result<Vec<Check>, String> {
    let operands = own.operands().map_err(|error| error.to_string())?;
    let got = |row: usize, column: usize| d[row * own.n + column];
    Ok(GemmJudge::new(Scrutiny::Thorough, oracles, &operands, &Epilogue::store(rounding), 1).judge(&got))
}
