"""What torch makes of keys in an FP8 cache with a per-tensor scale: writes kv_per_tensor.txt, which tests/cases/mla/per_tensor.rs reads.

    pip install torch && python make_kv_per_tensor.py   (made with torch 2.15.0, on a CPU)

A code is the nearest E4M3 of x / scale in FP32, clamped as CUDA's conversion saturates (vLLM's `concat_and_cache_mla` with
`fp8`); a value is code * scale in FP32, rounded to BF16. A line holds the number of a key, its codes and the bits of its
values. Keys are those of `key` below: from some that saturate to some of which only subnormal codes are left.
"""

import torch
from generator import integers

KEYS = 6
SCALE = torch.tensor(0.0123, dtype=torch.float32)


def key(number):
    """Integers in [-128, 128), times three quarters of a power of two that falls from key to key."""
    values = torch.tensor(list(integers(576, number)), dtype=torch.float64)
    return (values * 0.75 * 2.0 ** (-2 - 3 * number)).to(torch.bfloat16)


with open("kv_per_tensor.txt", "w") as file:
    for number in range(KEYS):
        codes = (key(number).float() / SCALE).clamp(-448, 448).to(torch.float8_e4m3fn)
        values = (codes.float() * SCALE).to(torch.bfloat16).view(torch.int16)
        bits = "".join(f"{word & 0xFFFF:04x}" for word in values.tolist())
        file.write(f"{number} {bytes(codes.view(torch.uint8).tolist()).hex()} {bits}\n")
