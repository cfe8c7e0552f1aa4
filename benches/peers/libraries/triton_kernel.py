"""A block-scaled GEMM in Triton. Apart from its peer, which is there where Triton is not."""

import triton
import triton.language as tl
from triton import cdiv

__all__ = ["block_scaled", "cdiv"]


@triton.jit
def block_scaled(a, sfa, b, sfb, d, m, n, k, lines, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tiles = tl.cdiv(m, ROWS)
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) // tiles * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, 128)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for line in range(0, tl.cdiv(k, 128)):
        within = line * 128 + inner < k
        at_a = row[:, None].to(tl.int64) * k + line * 128 + inner[None, :]
        at_b = column[None, :].to(tl.int64) * k + line * 128 + inner[:, None]
        left = tl.load(a + at_a, (row < m)[:, None] & within[None, :], 0.0)
        right = tl.load(b + at_b, (column < n)[None, :] & within[:, None], 0.0)
        scale_a = tl.load(sfa + row * lines + line, row < m, 0.0)
        scale_b = tl.load(sfb + column // 128 * lines + line, column < n, 0.0)
        total += tl.dot(left, right) * scale_a[:, None] * scale_b[None, :]
    at_d = row[:, None].to(tl.int64) * n + column[None, :]
    tl.store(d + at_d, total.to(d.dtype.element_ty), (row < m)[:, None] & (column < n)[None, :])
