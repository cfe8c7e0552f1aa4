use float8::F8E4M3;
use half::bf16;

use crate::gemm::{Epilogue, Operands, Output, Sample, bit_model, reference};
use crate::moe::{Combined, SwigluModel, combine, local_experts, swiglu_quantize};
use crate::quant::{Quantized, quantize_1x128};
use crate::router::{GateModel, GateOptions, gate_logits, gate_select};
use crate::{ShapeError, blocks, check_length};

/// The quantised matrices of one projection of all experts: `[experts, n, k]` and their scales.
#[derive(Clone, Copy, Debug)]
pub struct ExpertMatrices<'a> {
    /// `[experts, n, k]`.
    pub weight: &'a [F8E4M3],
    /// `[experts, ceil(n/128), ceil(k/128)]`; of gate and up, either has rows of its own.
    pub scales: &'a [f32],
}

/// A layer of routed experts.
#[derive(Clone, Copy, Debug)]
pub struct MoeLayerModel<'a> {
    /// The router; none of its experts is shared.
    pub gate: GateModel,
    /// The router's weight `[experts, hidden]`.
    pub gate_weight: &'a [f32],
    /// What the choice depends on besides the logits.
    pub options: GateOptions<'a>,
    /// Which of the layer's experts an id of the router means, `[experts]`, or -1; None: itself.
    pub local_ids: Option<&'a [i32]>,
    /// Length of a token's hidden state.
    pub hidden: usize,
    /// Width of an expert.
    pub intermediate: usize,
    /// Gate and up, or up and gate: n = 2 * intermediate, k = hidden.
    pub gate_up: ExpertMatrices<'a>,
    /// Down: n = hidden, k = intermediate.
    pub down: ExpertMatrices<'a>,
    /// The activation, by whose quantiser the tokens are quantised too.
    pub swiglu: SwigluModel,
}

/// What a layer makes of its tokens.
#[derive(Clone, Debug)]
pub struct MoeLayerOutput {
    /// `[tokens, hidden]`: the bits that the pinned order of every step gives.
    pub bits: Vec<bf16>,
    /// `[tokens, hidden]`: the last product and the combination in f64, from the same quantised operands.
    pub exact: Vec<f64>,
}

/// The layer as a chain of the references of its steps: route, gather, quantise, multiply, SwiGLU, multiply, combine.
pub fn moe_layer(
    model: &MoeLayerModel,
    x: &[bf16],
    shared: Option<&[bf16]>,
    residual: Option<&[bf16]>,
) -> Result<MoeLayerOutput, ShapeError> {
    let MoeLayerModel { gate: GateModel { experts, top_k, .. }, hidden, .. } = *model;
    let tokens = x.len() / hidden.max(1);
    check_length("x", tokens * hidden, x.len())?;
    let logits = gate_logits(x, model.gate_weight, tokens, experts, hidden)?;
    let routed = gate_select(&model.gate, &logits, model.options)?;

    let chosen =
        model.local_ids.map_or(routed.ids.clone(), |local_ids| local_experts(&routed.ids, local_ids));

    let routes = tokens * top_k;
    let mut y = vec![bf16::ZERO; routes * hidden];
    let mut exact = vec![0.0; routes * hidden];
    for expert in 0..experts {
        let own: Vec<usize> = (0..routes).filter(|&route| chosen[route] == expert as i32).collect();
        if own.is_empty() {
            continue;
        }
        let rows: Vec<bf16> =
            own.iter().flat_map(|route| &x[route / top_k * hidden..][..hidden]).copied().collect();
        let (bits, values) = run_expert(model, expert, &rows)?;
        for (row, route) in own.iter().enumerate() {
            y[route * hidden..][..hidden].copy_from_slice(&bits[row * hidden..][..hidden]);
            exact[route * hidden..][..hidden].copy_from_slice(&values[row * hidden..][..hidden]);
        }
    }

    // Here the row of a route is the route.
    let route_row: Vec<i32> =
        chosen.iter().zip(0..).map(|(&expert, route)| if expert < 0 { -1 } else { route }).collect();
    let addends = Combined { weights: Some(&routed.weights), shared, residual };
    let added = |addend: Option<&[bf16]>, i: usize| addend.map_or(0.0, |values| values[i].to_f64());
    let sum = |i: usize| {
        let (token, column) = (i / hidden, i % hidden);
        let of_route = |route: usize| f64::from(routed.weights[route]) * exact[route * hidden + column];
        (token * top_k..(token + 1) * top_k).map(of_route).sum::<f64>()
            + added(shared, i)
            + added(residual, i)
    };
    Ok(MoeLayerOutput {
        bits: combine(&y, (tokens, top_k, hidden), &route_row, &addends)?,
        exact: (0..tokens * hidden).map(sum).collect(),
    })
}

/// `[rows, hidden]` of an expert: to the bit, and the last product in f64.
fn run_expert(model: &MoeLayerModel, expert: usize, x: &[bf16]) -> Result<(Vec<bf16>, Vec<f64>), ShapeError> {
    let MoeLayerModel { hidden, intermediate, .. } = *model;
    let rows = x.len() / hidden.max(1);
    let x = quantize_1x128(x, rows, hidden, hidden, model.swiglu.quantize)?;
    let (gate_up, _) = multiply(&model.gate_up, expert, (rows, 2 * intermediate, hidden), 2, &x)?;
    let h = swiglu_quantize(&model.swiglu, &gate_up, (rows, intermediate), &|_| Some(1.0))?;
    multiply(&model.down, expert, (rows, hidden, intermediate), 1, &h)
}

fn multiply(
    matrices: &ExpertMatrices,
    expert: usize,
    (rows, n, k): (usize, usize, usize),
    parts: usize,
    x: &Quantized,
) -> Result<(Vec<bf16>, Vec<f64>), ShapeError> {
    let blocks = parts * blocks(n / parts) * blocks(k);
    let of_expert = |operand, data: usize, size: usize| {
        check_length(operand, (expert + 1) * size, data.min((expert + 1) * size)).map(|()| expert * size)
    };
    let weight = &matrices.weight[of_expert("weight", matrices.weight.len(), n * k)?..][..n * k];
    let scales = &matrices.scales[of_expert("scales", matrices.scales.len(), blocks)?..][..blocks];
    let operands = Operands::in_parts((rows, n, k), parts, &x.q, &x.sf, weight, scales)?;
    let all = Sample::all(rows, n);
    let bits = bit_model(&operands, &Epilogue::store(Output::Bf16), &all);
    Ok((bits.into_iter().map(bf16::from_f32).collect(), reference(&operands, &all)))
}
