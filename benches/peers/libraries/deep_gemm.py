"""DeepGEMM (`sgl-deep-gemm`): dense, and experts with rows padded to 128 or, where they are few or ours are, masked."""

import os

from cases import Gemm, Grouped

WHO, MODULES = "deep_gemm", ("deep_gemm",)
ALIGNMENT = 128
DECODE = 512  # rows of an expert from which on it is no decode


def instance(case):
    if isinstance(case, Gemm):
        return "1d2d" if case.output == "bf16" else None
    return "m_grouped" if isinstance(case, Grouped) else None


def prepare(case, operands):
    import deep_gemm
    import torch

    if isinstance(case, Grouped):
        return grouped(operands, case.masked)
    sfa = deep_gemm.get_mn_major_tma_aligned_tensor(operands.sfa)
    d = torch.empty(case.m, case.n, device=operands.a.device, dtype=torch.bfloat16)

    def run():
        deep_gemm.fp8_gemm_nt((operands.a, sfa), (operands.b[0], operands.sfb[0]), d, compiled_dims="nk")
        return d

    return run, lambda d: d


def padded_rows(rows, masked=False):
    """Rows that each expert has with its padding, and whether all have the same: then it is the masked form."""
    masked = masked or sum(rows) < DECODE * len(rows)
    padded = [-(-count // ALIGNMENT) * ALIGNMENT for count in rows]
    return ([max(padded, default=0)] * len(rows) if masked else padded), masked


def grouped(operands, masked):
    import deep_gemm
    import torch

    rows, device = operands.rows, operands.a.device
    experts, n, k = operands.b.shape
    padded, masked = padded_rows(rows, masked)
    owners = torch.full((sum(padded),), -1, device=device, dtype=torch.int32)
    begin = 0
    for expert, (count, height) in enumerate(zip(rows, padded)):
        owners[begin : begin + count] = expert
        begin += height
    real = owners >= 0
    a = torch.zeros(sum(padded), k, device=device, dtype=torch.uint8)
    a[real] = operands.a.view(torch.uint8)
    a = a.view(operands.a.dtype)
    sfa = torch.ones(sum(padded), operands.sfa.shape[1], device=device)
    sfa[real] = operands.sfa
    weights = operands.b, operands.sfb
    d = torch.empty(sum(padded), n, device=device, dtype=torch.bfloat16)
    aligned = deep_gemm.get_mn_major_tma_aligned_tensor
    if masked:
        block = (experts, padded[0])
        left = a.view(*block, k), aligned(sfa.view(*block, -1))
        counts = torch.tensor(rows, device=device, dtype=torch.int32)
        expected = max(1, int(1.2 * sum(rows) / experts))

        def run():
            deep_gemm.fp8_m_grouped_gemm_nt_masked(left, weights, d.view(*block, n), counts, expected)
            return d

    else:
        left = a, aligned(sfa)

        def run():
            deep_gemm.m_grouped_fp8_gemm_nt_contiguous(left, weights, d, owners)
            return d

    return run, lambda d: d[real]


def compile_all(cases):
    """It compiles a kernel per shape at its first use, seconds each: done beforehand, all at once."""
    import multiprocessing

    cases = sorted({case for case in cases if isinstance(case, Gemm)}, key=str)
    if cases:
        with multiprocessing.get_context("spawn").Pool(min(len(cases), os.cpu_count(), 12)) as pool:
            pool.map(compile_one, cases, chunksize=1)


def compile_one(case):
    try:
        import inputs

        prepare(case, inputs.draw(case, str(case), "cuda"))[0]()
    except Exception:  # told when its turn comes
        pass
