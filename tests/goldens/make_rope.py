"""What torch on a CPU computes as the frequencies of a rotary embedding, in FP32: writes rope.txt, which
tests/cases/mla/rope.rs reads.

    pip install torch && python make_rope.py   (made with torch 2.15.0, on a CPU with AVX-512)

As Hugging Face's `compute_default_rope_parameters` and DeepSeek's `precompute_freqs_cis` do: 1 / theta ** (2i / 64). A line holds
theta and the bits of the 32 frequencies.
"""

import torch

THETAS = [10000.0, 50000.0, 100000.0, 160000.0, 500000.0, 1e6, 5e6, 8e6, 1e7, 2.5e7, 3.2e7, 1e8]

with open("rope.txt", "w") as file:
    for theta in THETAS:
        frequencies = 1.0 / (theta ** (torch.arange(0, 64, 2).float() / 64))
        bits = " ".join(f"{word & 0xFFFFFFFF:08x}" for word in frequencies.view(torch.int32).tolist())
        file.write(f"{theta} {bits}\n")
