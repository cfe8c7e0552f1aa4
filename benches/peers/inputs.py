"""Operands of a case: the same bytes for every library, drawn from the case's name."""

import zlib
from dataclasses import dataclass, fields

import torch

from cases import KEY, PAGE, Decode, Gemm

E4M3 = torch.float8_e4m3fn


class Operands:
    """Tensors of one run."""

    def clone(self):
        """The same values in memory of their own."""
        copied = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: x.clone() if torch.is_tensor(x) else x for name, x in copied.items()})


@dataclass
class Matrices(Operands):
    """A of all experts below each other, and their B; one expert is a GEMM."""

    rows: tuple
    a: torch.Tensor  # [sum of rows, k]
    sfa: torch.Tensor  # [sum of rows, k / 128]
    b: torch.Tensor  # [experts, n, k]
    sfb: torch.Tensor  # [experts, n / 128, k / 128]


@dataclass
class Step(Operands):
    """Queries of a decode step and a paged cache; E4M3 where the cache has one scale for all, which is 1."""

    case: object
    q: torch.Tensor  # [batch, q_tokens, heads, 576]
    cache: torch.Tensor  # [pages, 64, 1, 576]
    table: torch.Tensor  # [batch, columns]
    lengths: torch.Tensor  # [batch]

    def keys(self, sequence):
        """Of a sequence, by its page table."""
        pages = self.table[sequence].long()
        return self.cache[pages].view(-1, KEY)[: self.case.lengths[sequence]]


def draw(case, name, device):
    """Of any case."""
    if isinstance(case, Decode):
        return step(case, name, device)
    rows = (case.m,) if isinstance(case, Gemm) else case.rows
    return matrices(rows, case.n, case.k, name, device)


def generator(name, device):
    return torch.Generator(device).manual_seed(zlib.crc32(name.encode()))


def quantised(x, block_rows):
    """E4M3 codes of [experts, rows, k] and a scale per block_rows x 128: amax / 448."""
    experts, rows, k = x.shape
    x = torch.nn.functional.pad(x, (0, -k % 128, 0, -rows % block_rows))
    blocks = x.view(experts, -1, block_rows, x.shape[2] // 128, 128)
    scales = blocks.abs().amax(dim=(2, 4)).clamp(min=1e-4) / 448
    codes = (blocks / scales[:, :, None, :, None]).to(E4M3).view(x.shape)
    return codes[:, :rows, :k].contiguous(), scales


def matrices(rows, n, k, name, device):
    """Normal data. Every expert has weights of its own."""
    random = generator(name, device)
    normal = lambda *shape: torch.randn(*shape, generator=random, device=device)
    a, sfa = quantised(normal(1, sum(rows), k), 1)
    b, sfb = zip(*(quantised(normal(1, n, k), 128) for _ in rows))
    b = torch.cat([codes.view(torch.uint8) for codes in b]).view(E4M3)
    return Matrices(tuple(rows), a[0], sfa[0], b, torch.cat(sfb))


def step(case, name, device):
    """Normal data over 10, pages in no order."""
    random = generator(name, device)
    batch, columns = len(case.lengths), max(1, -(-max(case.lengths, default=0) // PAGE))
    kind = E4M3 if case.cache == "fp8_per_tensor" else torch.bfloat16
    normal = lambda *shape: (torch.randn(*shape, generator=random, device=device) / 10).clamp(-1, 1).to(kind)
    q = normal(batch, case.q_tokens, case.heads, KEY)
    cache = normal(batch * columns, PAGE, 1, KEY)
    table = torch.randperm(batch * columns, generator=random, device=device).to(torch.int32).view(batch, columns)
    return Step(case, q, cache, table, torch.tensor(case.lengths, device=device, dtype=torch.int32))
