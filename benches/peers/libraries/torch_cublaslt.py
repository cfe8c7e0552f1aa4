"""PyTorch: cuBLASLt's block-scaled GEMM, and the ceilings of the tensor core."""

from cases import Gemm, Grouped

WHO, MODULES = "torch", ("torch",)


def instance(case):
    if isinstance(case, Gemm):
        return "cublaslt_blockwise"
    # It has no grouped form: a call per expert, all in one graph.
    return "cublaslt_blockwise_per_expert" if isinstance(case, Grouped) else None


def prepare(case, operands):
    import torch

    output = torch.float32 if getattr(case, "output", "bf16") == "f32" else torch.bfloat16
    a, sfa = operands.a.split(operands.rows), operands.sfa.split(operands.rows)
    calls = [product(*parts, output) for parts in zip(a, sfa, operands.b, operands.sfb) if parts[0].shape[0]]
    counts = [count for count in operands.rows if count]
    run = lambda: [call() for call in calls]
    return run, lambda results: torch.cat([d[:count] for d, count in zip(results, counts)])


def product(a, sfa, b, sfb, output):
    """It wants a multiple of four rows, scales of A by column, and those of B padded to four lines."""
    import torch
    from torch.nn.functional import ScalingType, scaled_mm

    pad = torch.nn.functional.pad
    rows, lines = -a.shape[0] % 4, -sfb.shape[1] % 4
    a = pad(a.view(torch.uint8), (0, 0, 0, rows)).view(a.dtype)
    # Copied: of a single line, `contiguous` would leave strides as they are.
    sfa = torch.empty(sfa.shape[1], a.shape[0], device=a.device).copy_(pad(sfa, (0, 0, 0, rows), value=1.0).t()).t()
    scales = (sfa, ScalingType.BlockWise1x128, pad(sfb, (0, lines)).t(), ScalingType.BlockWise128x128)
    return lambda: scaled_mm(a, b.t(), *scales, output_dtype=output)


CEILING = 8192


def ceilings(device):
    """What the tensor core gives at most, by cuBLAS: operation, instance, bytes, and what gives a run and what it must be."""
    import torch

    from inputs import generator
    from reference import JUDGED, Expected, promoted, spread, stored

    n = CEILING

    def prepared(kind, run_of):
        random = generator("ceilings", device)
        a, b = (torch.randn(n, n, generator=random, device=device).to(kind) for _ in range(2))
        some = spread(n, JUDGED, device)
        one = torch.ones(n, 1, device=device)
        # Fast accumulation: nothing is promoted.
        value, bound = promoted(a[some], one[some], b, one, block=n)
        return run_of(a, b), Expected(some, value, stored(value, bound, "bf16"))

    def bf16(a, b):
        d = torch.empty(n, n, device=device, dtype=torch.bfloat16)
        return lambda: torch.mm(a, b.t(), out=d)

    def fp8(a, b):
        one = torch.ones((), device=device)
        return lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    yield "bf16_gemm", "cublas", 6 * n * n, lambda: prepared(torch.bfloat16, bf16)
    yield "fp8_gemm_tensorwise", "cublaslt", 4 * n * n, lambda: prepared(torch.float8_e4m3fn, fp8)
