import torch


@torch.no_grad()
def run(
    hidden_states,
    router_weight,
    routing_bias,
    gemm1_weights,
    gemm1_weights_scale,
    gemm2_weights,
    gemm2_weights_scale,
    shared_output,
    residual,
    routed_scaling_factor,
):
    """A layer as DeepSeek-V3 has it, the router's product included: sigmoid, 4 of 8 groups by their two best experts, 8
    experts, weights without the bias; SwiGLU; activations in E4M3 with powers of two per 1x128; plus shared and residual.
    """
    groups, kept_groups, top_k = 8, 4, 8
    tokens = hidden_states.shape[0]
    experts, doubled, _ = gemm1_weights.shape

    def quantised(x):
        blocks = x.float().reshape(x.shape[0], -1, 128)
        scale = torch.exp2(torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448)))
        return ((blocks / scale).to(torch.float8_e4m3fn).float() * scale).reshape(x.shape)

    def dequantised(weight, scale):
        return weight.float() * scale.repeat_interleave(128, 0).repeat_interleave(128, 1)

    score = torch.sigmoid(hidden_states.float() @ router_weight.t())
    biased = (score + routing_bias).view(tokens, groups, -1)
    best = biased.topk(2, -1).values.sum(-1).topk(kept_groups, -1).indices
    dropped = torch.ones(tokens, groups, dtype=torch.bool, device=score.device).scatter(1, best, False)
    chosen = biased.masked_fill(dropped[:, :, None], float("-inf")).view(tokens, experts).topk(top_k, -1).indices
    weight = score.gather(1, chosen)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-20) * routed_scaling_factor

    x = quantised(hidden_states)
    total = shared_output.float() + residual.float()
    for expert in range(experts):
        token, route = (chosen == expert).nonzero(as_tuple=True)
        if token.numel() == 0:
            continue
        both = (
            (x[token] @ dequantised(gemm1_weights[expert], gemm1_weights_scale[expert]).t()).to(torch.bfloat16).float()
        )
        gate, up = both.split(doubled // 2, 1)
        h = quantised(torch.nn.functional.silu(gate) * up)
        out = h @ dequantised(gemm2_weights[expert], gemm2_weights_scale[expert]).t()
        total.index_add_(0, token, out.to(torch.bfloat16).float() * weight[token, route, None])
    return total.to(torch.bfloat16)
