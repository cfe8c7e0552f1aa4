import torch


@torch.no_grad()
def run(a, b, a_scale, b_scale, offsets):
    """Rows offsets[g] to offsets[g + 1] of A times B[g]^T in FP32; scales as of one GEMM."""
    wide = lambda scale, times, dim, length: scale.repeat_interleave(times, dim).narrow(dim, 0, length)
    m, k = a.shape
    groups, n, _ = b.shape
    left = a.float() * wide(a_scale.t(), 128, 1, k)
    out = torch.zeros(m, n, dtype=torch.bfloat16, device=a.device)
    for group in range(groups):
        rows = slice(int(offsets[group]), int(offsets[group + 1]))
        right = b[group].float() * wide(wide(b_scale[group], 128, 0, n), 128, 1, k)
        out[rows] = (left[rows] @ right.t()).to(torch.bfloat16)
    return out
