"""What torch on a CPU makes of heads that are rotated: writes rotate.txt, which tests/cases/mla/rope.rs reads.

    pip install torch && python make_rotate.py   (made with torch 2.15.0, on a CPU with AVX-512)

Halves as Hugging Face's `apply_rotary_pos_emb` with `rotate_half`, neighbours as DeepSeek's `apply_rotary_emb` with complex
numbers, both in FP32 and rounded to BF16 once. A line holds the kind of pairs, the columns, and the bits of x
[3, 2, columns], of cos and sin in turn [3, columns], and of the result.
"""

import torch


def words(tensor, integer, mask, digits):
    return " ".join(f"{word & mask:0{digits}x}" for word in tensor.contiguous().view(integer).flatten().tolist())


def halves(x, angles):
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1)[:, None] for f in (torch.cos, torch.sin))
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def neighbours(x, angles):
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(2)


torch.manual_seed(7)
with open("rotate.txt", "w") as file:
    for rotate in (halves, neighbours):
        for columns in (4, 36, 64, 128):
            x = torch.randn(3, 2, columns).to(torch.bfloat16)
            angles = torch.rand(3, columns // 2) * 50
            table = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
            out = rotate(x.float(), angles).to(torch.bfloat16)
            fields = [
                words(x, torch.int16, 0xFFFF, 4),
                words(table, torch.int32, 0xFFFFFFFF, 8),
                words(out, torch.int16, 0xFFFF, 4),
            ]
            file.write(f"{rotate.__name__} {columns} " + " | ".join(fields) + "\n")
