"""What four published rules make of blocks of 128 BF16 values: writes quantize.txt, which tests/oracles/quantize.rs reads.

    pip install torch && python make_quantize.py   (made with torch 2.15.0, on a CPU)

The rules, as torch computes them in FP32, each operation rounded once:

* TileKernels and DeepEP: amax at least 1e-4; x * (448 / amax); the scale amax / 448, its exponent rounded up for a power of
  two, and then x * (1 / scale).
* DeepGEMM (`per_token_cast_to_fp8`): amax at least 1e-4; the scale amax / 448, or 2^ceil(log2) of it; x * (1 / scale).
* DeepSeek-V3 (`inference/kernel.py`): the same scales; x / scale.
* Transformer Engine (`compute_scale_from_amax`, epsilon 0): the factor 448 / amax, 1 for a block of zeros, the largest BF16
  where that is Inf, its mantissa cut for a power of two; x * factor, clamped; the scale 1 / factor.

A line holds a rule, the block's number, the bits of the scale and the codes. Blocks are those of `block` below.
"""

import torch
from generator import integers

ROWS = 24
MOST = torch.tensor(448.0)  # a number over a tensor would be its reciprocal times the number


def block(row):
    """Integers in [-128, 128), times three quarters of a power of two that falls from row to row, down to 2^-133; zeros at last."""
    if row == ROWS - 1:
        return torch.zeros(128, dtype=torch.bfloat16)
    values = torch.tensor(list(integers(128, row)), dtype=torch.float64)
    return (values * 0.75 * 2.0 ** (20 - 7 * row)).to(torch.bfloat16)


def e4m3(x):
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)


def power(x):
    return torch.ldexp(torch.ones_like(x), torch.ceil(torch.log2(x.double())).to(torch.int32))


def tile_kernels(x, two):
    amax = x.abs().max().clamp(min=1e-4)
    scale = amax / 448.0
    if two:
        scale = power(scale)
        return scale, e4m3(x * (1.0 / scale))
    return scale, e4m3(x * (MOST / amax))


def deep_gemm(x, two):
    scale = x.abs().max().clamp(min=1e-4) / 448.0
    scale = power(scale) if two else scale
    return scale, e4m3(x * (1.0 / scale))


def deepseek(x, two):
    scale = x.abs().max().clamp(min=1e-4) / 448.0
    scale = power(scale) if two else scale
    return scale, e4m3(x / scale)


def transformer_engine(x, two):
    amax = x.abs().max()
    factor = torch.tensor(1.0) if amax == 0 else MOST / amax
    if torch.isinf(factor):
        factor = torch.tensor(torch.finfo(torch.bfloat16).max)
    if two:
        factor = (factor.view(torch.int32) & ~0x7FFFFF).view(torch.float32)
    return 1.0 / factor, e4m3(x * factor)


with open("quantize.txt", "w") as file:
    for rule in [tile_kernels, deep_gemm, deepseek, transformer_engine]:
        for two in [False, True]:
            for row in range(ROWS):
                scale, codes = rule(block(row).float(), two)
                name = rule.__name__ + ("_power_of_two" if two else "")
                bits = scale.float().view(torch.int32).item() & 0xFFFFFFFF
                file.write(f"{name} {row} {bits:08x} {bytes(codes.tolist()).hex()}\n")
