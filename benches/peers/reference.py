"""What a result must be, in float64, and how far from it any correct kernel may be.

Bounds are per element, as docs/numerics.md has them under "How a result is judged". None is fitted to what a library
gives. A library's largest |error| / bound is its `worst`, as ours is.
"""

from dataclasses import dataclass

import torch

from cases import KEY, LATENT, SOFTMAX_SCALE, Decode

JUDGED = 64  # rows of D, at equal distances, with every column
BF16 = 2.0**-8  # a rounding to BF16, relative
F32 = 2.0**-24


@dataclass
class Expected:
    """Elements of a result."""

    rows: torch.Tensor  # which rows of the result
    value: torch.Tensor
    bound: torch.Tensor

    def worst(self, got):
        """Largest |error| / bound of a whole result; infinite where it is NaN."""
        error = (got[self.rows].double() - self.value).abs()
        parts = torch.where(error == 0, 0.0, error / self.bound)
        return torch.nan_to_num(parts, nan=float("inf")).max().item() if parts.numel() else 0.0


def expected(case, operands):
    """Of any case."""
    if isinstance(case, Decode):
        return attention(operands)
    return product(operands, getattr(case, "output", "bf16"))


def stored(value, bound, output):
    if output == "bf16":
        return bound * (1 + BF16) + BF16 * value.abs() + 2.0**-133
    return bound


def exponents(x):
    """floor(log2 |x|), of codes below the least normal of E4M3 that one's; far below all others for 0."""
    return torch.where(x == 0, -1000, (torch.frexp(x.abs()).exponent - 1).clamp(min=-6)).to(torch.int16)


def promoted(a, sfa, b, sfb, block=128, step=32):
    """Product of some rows and how far off it may be, by a tensor core that sums `step` products with 13 fraction bits, cuts
    them, and hands its sum to FP32 every `block`: the bound of crates/oracles/src/gemm/bound.rs."""
    value = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64, device=a.device)
    bound = torch.zeros_like(value)
    a, b = a.double(), b.double()
    exponents_a, exponents_b = exponents(a), exponents(b)
    for number, begin in enumerate(range(0, a.shape[1], block)):
        total, off = torch.zeros_like(value), torch.zeros_like(value)
        for first in range(begin, min(begin + block, a.shape[1]), step):
            part = slice(first, min(first + step, begin + block))
            products = (a[:, part] != 0).double() @ (b[:, part] != 0).double().t()
            largest = (exponents_a[:, None, part] + exponents_b[None, :, part]).amax(-1)
            so_far = total.abs() + off
            largest = torch.maximum(largest, exponents(so_far)).clamp(min=-500)
            cut = (products + (so_far != 0)) * torch.exp2(largest.double() - 13)
            total += a[:, part] @ b[:, part].t()
            off += cut + 2.0**-13 * (total.abs() + off + cut)
        scale = sfa[:, number, None].double() * sfb[None, :, number].double()
        value += scale * total
        before = bound + scale.abs() * (off * (1 + 2.0**-23) + F32 * (total.abs() + off))
        bound = before + F32 * (value.abs() + before)
    return value, bound


def product(operands, output="bf16"):
    """Of the experts' rows, each with its own B."""
    rows, values, bounds = [], [], []
    begin = 0
    for expert, count in enumerate(operands.rows):
        most = max(1, -(-JUDGED // len(operands.rows)))
        some = begin + spread(count, most, operands.a.device)
        sfb = operands.sfb[expert].repeat_interleave(128, 0)[: operands.b.shape[1]]
        value, bound = promoted(operands.a[some], operands.sfa[some], operands.b[expert], sfb)
        rows.append(some)
        values.append(value)
        bounds.append(stored(value, bound, output))
        begin += count
    return Expected(torch.cat(rows), torch.cat(values), torch.cat(bounds))


def spread(count, most, device):
    """At most so many of `count` indices, the first and the last included."""
    if count <= most:
        return torch.arange(count, device=device)
    return (torch.arange(most, device=device) * (count - 1)).div(max(1, most - 1), rounding_mode="floor")


def attention(operands):
    """Of the first sequence, the middle one and the last, all heads and query tokens."""
    batch = len(operands.case.lengths)
    chosen = sorted({0, batch // 2, batch - 1})
    values, bounds = zip(*(one_sequence(operands, sequence) for sequence in chosen))
    rows = torch.tensor(chosen, device=operands.q.device)
    return Expected(rows, torch.stack(values), torch.stack(bounds))


def one_sequence(operands, sequence):
    """out = sum p v, p = softmax(q k), of every query token and head."""
    case = operands.case
    q, keys = operands.q[sequence].double(), operands.keys(sequence).double()
    count = keys.shape[0]
    if count == 0:
        nothing = torch.zeros(*q.shape[:2], LATENT, dtype=torch.float64, device=q.device)
        return nothing, nothing
    logits = q @ keys.t() * SOFTMAX_SCALE
    absolute = q.abs() @ keys.abs().t() * SOFTMAX_SCALE
    if case.causal:
        last = torch.arange(case.q_tokens, device=q.device) + count - case.q_tokens
        hidden = torch.arange(count, device=q.device) > last[:, None]
        logits = logits.masked_fill(hidden[:, None, :], float("-inf"))
    p = torch.nan_to_num(logits.softmax(-1))  # a row of hidden keys alone gives 0
    values = keys[:, :LATENT]
    out = p @ values
    form = e4m3_weights if case.cache == "fp8_per_tensor" else bf16_weights
    return out, stored(out, form(p, absolute, values, out), "bf16")


def bf16_weights(p, absolute, values, out):
    """How far off a kernel with P in BF16 may be, with FP32 sums in any order and blocks of 32 keys or more: the terms are
    those of crates/oracles/src/mla/attention.rs."""
    count = p.shape[-1]
    blocks = -(-count // 32)
    a_step = 17 * 2.0**-25 + 2.0**-23  # of 16 products, relative to the sum of the absolute values
    of_scores = absolute * (KEY // 16 * a_step)
    exponent = of_scores + (absolute.amax(-1, keepdim=True) + blocks + 1) * 2.0**-22 + count * F32
    off = p * (torch.exp(exponent + 2 * blocks * a_step) * (1 + BF16) - 1)
    of_sum = torch.expm1(exponent.amax(-1, keepdim=True))
    return (off @ values.abs() + out.abs() * of_sum) / (1 - of_sum)


def e4m3_weights(p, _, values, out):
    """With P in E4M3 and sums that the tensor core cuts to 13 bits what holds for all data would be no bound: of 4096 keys it
    is larger than the result. So roundings count as independent, six standard deviations of them, beside half a step of
    E4M3 twice of the result, for what roundings have in common."""
    half = 2.0**-4
    least = 2.0**-10 * p.amax(-1, keepdim=True)  # half a step of weights below the least normal
    variance = ((half * p) ** 2 + least**2) @ values**2 / 3
    return 2 * half * out.abs() + 6 * variance.sqrt()
