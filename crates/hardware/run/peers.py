"""Times the ceilings of this GPU and other libraries beside ours: same shapes, same card, same columns as timings.csv.

    python3 peers.py --csv timings.csv [--earlier timings.csv] --wheels wheels --deadline 40

Shapes are those of the rows that are in the files already. PyTorch gives the ceilings (BF16 and FP8 matrix products) and
cuBLASLt's block-scaled GEMM; DeepGEMM, FlashMLA and FA3 run if their wheels lie in the folder. What is not there is said.
A result is compared with float64 before it is timed; `worst` is its relative error as a part of its bar.
Exit code 75: time did not suffice, 77: no PyTorch or no GPU.
"""

import argparse
import csv
import glob
import multiprocessing
import os
import re
import sys
import tempfile
import time
import zipfile

BAR = 1e-2  # ||out - reference|| / ||reference||: BF16 results of FP8 operands come to a few 1e-3
BAR_E4M3 = 6.25e-2  # where the library rounds Q, K, V and P to E4M3 with one scale: half a step of it
L2_TURNS = 3  # as timings does it: sets of operands that fill L2 so often over
RUNS, REPLAYS = 20, 9
PAGE = 64
GEMM = re.compile(r"(\d+)x(\d+)x(\d+)_bf16")

try:
    import torch
except ImportError as error:
    print(f"PyTorch is not here: {error}")
    sys.exit(77)


class Bench:
    """Appends rows, each flushed before the next begins."""

    def __init__(self, path, earlier, deadline):
        self.deadline = time.monotonic() + deadline
        self.unfinished = self.failed = 0
        begun = read(path)
        rows = [row for file in earlier for row in read(file)] + begun
        if not rows:
            print(f"{path} has no rows: their shapes are the ones to run")
            sys.exit(77)
        self.columns = list(rows[0])
        self.ours = [row for row in rows if row["who"] == "ours"]
        self.done = {self.key(row) for row in rows}
        self.file = open(path, "a", newline="")
        if self.file.tell() == 0:
            self.file.write(",".join(self.columns) + "\n")
        self.card = torch.cuda.get_device_name(0).replace(",", " ")
        self.l2 = torch.cuda.get_device_properties(0).L2_cache_size

    @staticmethod
    def key(row):
        return tuple(row[name] for name in ("who", "operation", "shape", "instance", "variant", "l2"))

    def run(self, who, operation, shape, instance, flops, size, make, bar=BAR):
        """make() returns a function that runs, and its relative error."""
        row = dict(who=who, operation=operation, shape=shape, instance=instance, variant="current", l2="cold")
        if self.key(row) in self.done:
            return
        if time.monotonic() > self.deadline:
            self.unfinished += 1
            return
        try:
            sets = max(1, -(-L2_TURNS * self.l2 // max(size, 1)))
            made = [make() for _ in range(min(sets, 64))]
            error = made[0][1]
            if not error < bar:
                raise ValueError(f"relative error {error:.3e}, expected below {bar}: not timed")
            times = replay([run for run, _ in made])
        except Exception as error:  # whatever another library raises: the rest goes on
            self.failed += 1
            print(f"{who} {operation} {shape}: FAILED: {type(error).__name__}: {error}")
            return
        row |= dict(median_us=times[len(times) // 2], min_us=times[0], max_us=times[-1])
        row |= dict(flops=flops, bytes=size, worst=error / bar, card=self.card)
        self.write(row)

    def write(self, row):
        number = lambda value: f"{value:.4f}" if isinstance(value, float) else str(value)
        self.file.write(",".join(number(row[name]) for name in self.columns) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        rate = row["flops"] / row["median_us"] / 1e6
        print(f"{row['who']} {row['operation']} {row['shape']}: {row['median_us']:.1f} us, {rate:.1f} TFLOP/s")


def read(path):
    """The rows of a file, none if it is not there."""
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def replay(runs):
    """Microseconds of one run, ascending: graphs of runs that take turns on sets of operands."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for run in runs:
            run()
    torch.cuda.synchronize()
    count = max(RUNS, len(runs))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            runs[i % len(runs)]()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / count)
    return sorted(times)


def relative_error(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


def quantised(rows, k, block_rows):
    """E4M3 codes and scales of normal data: one scale per block_rows x 128."""
    x = torch.randn(rows, k, device="cuda")
    pad = -rows % block_rows
    blocks = torch.nn.functional.pad(x, (0, 0, 0, pad)).view(-1, block_rows, k // 128, 128)
    scales = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-4) / 448
    codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn).view(-1, k)[:rows]
    return codes.contiguous(), scales


def dequantised(codes, scales, block_rows, rows):
    wide = scales.double().repeat_interleave(block_rows, 0)[: codes.shape[0]].repeat_interleave(128, 1)
    return codes[rows].double() * wide[rows]


def gemm_operands(m, n, k):
    a, sfa = quantised(m, k, 1)
    b, sfb = quantised(n, k, 128)
    judged = torch.arange(0, m, max(1, m // 32), device="cuda")
    everything = slice(None)
    expected = dequantised(a, sfa, 1, judged) @ dequantised(b, sfb, 128, everything).t()
    return a, sfa, b, sfb, lambda d: relative_error(d[judged], expected)


def ceilings(bench):
    n = 8192
    flops = 2 * n**3

    def bf16():
        a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        d = torch.empty(n, n, device="cuda", dtype=torch.bfloat16)
        run = lambda: torch.mm(a, b.t(), out=d)
        run()
        return run, relative_error(d[:32], a[:32].double() @ b.double().t())

    def fp8():
        a, b = (torch.randn(n, n, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device="cuda")
        run = lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return run, relative_error(run()[:32], a[:32].double() @ b.double().t())

    bench.run("torch", "bf16_gemm", f"{n}x{n}x{n}", "cublas", flops, 6 * n * n, bf16)
    bench.run("torch", "fp8_gemm_tensorwise", f"{n}x{n}x{n}", "cublaslt", flops, 4 * n * n, fp8)


def blockwise(m, n, k):
    """cuBLASLt's GEMM with our scales; it wants a multiple of four rows."""
    from torch.nn.functional import ScalingType, scaled_mm

    a, sfa, b, sfb, error = gemm_operands(-(-m // 4) * 4, n, k)
    lines = k // 128
    sfa = sfa.t().contiguous().t()
    padded = torch.zeros(sfb.shape[0], -(-lines // 4) * 4, device="cuda")
    padded[:, :lines] = sfb
    scales = (sfa, ScalingType.BlockWise1x128, padded.t(), ScalingType.BlockWise128x128)
    run = lambda: scaled_mm(a, b.t(), *scales, output_dtype=torch.bfloat16)
    return run, error(run())


def deep_gemm(m, n, k):
    import deep_gemm as library

    a, sfa, b, sfb, error = gemm_operands(m, n, k)
    sfa = library.get_mn_major_tma_aligned_tensor(sfa)
    d = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    run = lambda: library.fp8_gemm_nt((a, sfa), (b, sfb), d, compiled_dims="nk")
    run()
    return run, error(d)


def compile_deep_gemm(shape):
    """DeepGEMM compiles a kernel per shape at its first use, seconds each: done beforehand, all at once."""
    try:
        deep_gemm(*shape)
    except Exception as error:  # told when its turn comes
        print(f"deep_gemm {shape}: {type(error).__name__}: {error}")


def segment_rows(experts, rows):
    """As `timed_grouped` of the Rust cases spreads them."""
    return [rows * (70 + 37 * i % 61) // 100 for i in range(experts)]


def deep_gemm_grouped(experts, rows, n, k):
    """Contiguous rows padded to its alignment; few rows an expert, as in decode: its masked form."""
    import deep_gemm as library

    counts = segment_rows(experts, rows)
    masked = rows < 512
    padded = [-(-count // 128) * 128 for count in counts]
    if masked:
        padded = [max(padded)] * experts
    a, sfa = quantised(sum(padded), k, 1)
    b, sfb = quantised(n, k, 128)
    first = sum(padded[:-1])
    judged = torch.arange(first, first + counts[-1], max(1, counts[-1] // 32), device="cuda")
    expected = dequantised(a, sfa, 1, judged) @ dequantised(b, sfb, 128, slice(None)).t()
    weights = b.expand(experts, n, k).contiguous(), sfb.expand(experts, *sfb.shape).contiguous()
    d = torch.empty(sum(padded), n, device="cuda", dtype=torch.bfloat16)
    if masked:
        shape = (experts, padded[0])
        rows_of_a = a.view(*shape, k), library.get_mn_major_tma_aligned_tensor(sfa.view(*shape, -1))
        numbers = torch.tensor(counts, device="cuda", dtype=torch.int32)
        run = lambda: library.fp8_m_grouped_gemm_nt_masked(
            rows_of_a, weights, d.view(*shape, n), numbers, int(1.2 * rows)
        )
    else:
        rows_of_a = a, library.get_mn_major_tma_aligned_tensor(sfa)
        owners = torch.full((sum(padded),), -1, device="cuda", dtype=torch.int32)
        begin = 0
        for expert, (count, height) in enumerate(zip(counts, padded)):
            owners[begin : begin + count] = expert
            begin += height
        run = lambda: library.m_grouped_fp8_gemm_nt_contiguous(rows_of_a, weights, d, owners)
    run()
    return run, relative_error(d[judged], expected)


class Attention:
    """A decode step's operands, and the result of its first sequence in float64."""

    scale = 0.1352337788608801

    def __init__(self, batch, q_tokens, length, heads):
        columns = -(-length // PAGE)
        self.shape, self.causal = (batch, q_tokens, length, heads), q_tokens > 1
        self.q = torch.randn(batch, q_tokens, heads, 576, device="cuda", dtype=torch.bfloat16) / 10
        self.cache = torch.randn(batch * columns, PAGE, 1, 576, device="cuda", dtype=torch.bfloat16) / 10
        self.table = torch.randperm(batch * columns, device="cuda", dtype=torch.int32).view(batch, columns)
        self.lengths = torch.full((batch,), length, device="cuda", dtype=torch.int32)

    def keys(self):
        """Of the first sequence, by its page table."""
        return self.cache[self.table[0].long()].view(-1, 576)[: self.shape[2]]

    def expected(self, keys):
        _, q_tokens, length, _ = self.shape
        keys = keys.double()
        scores = self.q[0].double() @ keys.t() * self.scale
        if self.causal:
            last = torch.arange(q_tokens, device="cuda") + length - q_tokens
            hidden = torch.arange(length, device="cuda") > last[:, None]
            scores.masked_fill_(hidden[:, None, :], float("-inf"))
        return scores.softmax(-1) @ keys[:, :512]


def flash_mla(*shape):
    from flash_mla import flash_mla_with_kvcache, get_mla_metadata

    step = Attention(*shape)
    metadata, _ = get_mla_metadata()

    def run():
        return flash_mla_with_kvcache(
            step.q, step.cache, step.table, step.lengths, 512, metadata, None, step.scale, step.causal,
            use_legacy=True,
        )[0]

    return run, relative_error(run()[0], step.expected(step.keys()))


def flash_mla_fp8(*shape):
    """Its dense FP8 cache: one scale for all, 576 bytes a key and RoPE rounded too; ours has 656."""
    from flash_mla import flash_mla_with_kvcache, get_mla_decoding_metadata
    from flash_mla.flash_mla_interface import FlashMLASchedMeta

    step = Attention(*shape)
    _, q_tokens, _, heads = shape
    metadata = FlashMLASchedMeta()
    metadata.tile_scheduler_metadata, metadata.num_splits = get_mla_decoding_metadata(
        step.lengths, q_tokens * heads, 1, is_fp8_kvcache=True, use_legacy=True
    )
    q, cache = step.q.to(torch.float8_e4m3fn), step.cache.to(torch.float8_e4m3fn)
    one = torch.ones(1, device="cuda")

    def run():
        return flash_mla_with_kvcache(
            q, cache, step.table, step.lengths, 512, metadata, None, step.scale, step.causal,
            is_fp8_kvcache=True, use_legacy=True, descale_q=one, descale_k=one,
        )[0]

    return run, relative_error(run()[0], step.expected(step.keys()))


def fa3(*shape):
    """FA3's kernel has no pages: the cache is contiguous."""
    from fa3_fwd_interface import flash_attn_with_kvcache, get_scheduler_metadata

    batch, q_tokens, length, heads = shape
    step = Attention(*shape)
    cache = step.cache.view(batch, -1, 1, 576)
    v, k = cache[..., :512], cache[..., 512:]
    q, q_rope = step.q[..., :512], step.q[..., 512:]
    metadata = get_scheduler_metadata(
        batch, q_tokens, cache.shape[1], heads, 1, 64, step.lengths, torch.bfloat16, headdim_v=512, causal=step.causal
    )

    def run():
        return flash_attn_with_kvcache(
            q_rope, k, v, qv=q, cache_seqlens=step.lengths, softmax_scale=step.scale, causal=step.causal,
            num_splits=0, scheduler_metadata=metadata,
        )

    return run, relative_error(run()[0], step.expected(cache[0, :length, 0]))


def unpack(folder):
    """Wheels are archives; their compiled modules must lie in a folder."""
    wheels = sorted(glob.glob(os.path.join(folder, "*.whl")))
    place = tempfile.mkdtemp()
    for wheel in wheels:
        zipfile.ZipFile(wheel).extractall(place)
        print(f"unpacked {os.path.basename(wheel)}")
    sys.path.insert(0, place)
    os.environ.setdefault("DG_JIT_CACHE_DIR", tempfile.mkdtemp())


def available(module):
    try:
        __import__(module)
        return True
    except Exception as error:  # a wheel for another PyTorch fails in many ways
        print(f"{module} is not here: {type(error).__name__}: {error}")
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", required=True, help="rows are appended to this file")
    parser.add_argument("--earlier", action="append", default=[], help="rows of these count as well")
    parser.add_argument("--wheels", default="wheels", help="folder of wheels of other libraries")
    parser.add_argument("--deadline", type=float, default=60, help="seconds after which nothing begins")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        sys.exit(77)
    unpack(arguments.wheels)
    bench = Bench(arguments.csv, arguments.earlier, arguments.deadline)
    torch.manual_seed(9)
    ceilings(bench)
    with_deep_gemm, with_flash_mla = available("deep_gemm"), available("flash_mla")
    with_fa3 = available("fa3_fwd_interface")
    rows = [row for row in bench.ours if row["l2"] == "cold" and row["variant"] == "current"]
    gemms = {row["shape"] for row in rows if GEMM.fullmatch(row["shape"])}
    if with_deep_gemm and gemms:
        shapes = [tuple(map(int, GEMM.fullmatch(shape).groups())) for shape in sorted(gemms)]
        with multiprocessing.get_context("spawn").Pool(min(len(shapes), os.cpu_count(), 12)) as pool:
            pool.map(compile_deep_gemm, shapes, chunksize=1)
    for row in rows:
        operation, shape = row["operation"], row["shape"]
        work = int(row["flops"]), int(row["bytes"])
        if gemm := GEMM.fullmatch(shape):
            sizes = tuple(map(int, gemm.groups()))
            if with_deep_gemm:
                bench.run("deep_gemm", operation, shape, "1d2d", *work, lambda: deep_gemm(*sizes))
            bench.run("torch", operation, shape, "cublaslt_blockwise", *work, lambda: blockwise(*sizes))
        if operation == "grouped_fp8_gemm" and with_deep_gemm:
            sizes = tuple(map(int, shape.split("x")))
            bench.run("deep_gemm", operation, shape, "m_grouped", *work, lambda: deep_gemm_grouped(*sizes))
        if step := re.fullmatch(r"b(\d+)q(\d+)s(\d+)h(\d+)", shape):
            sizes = tuple(map(int, step.groups()))
            if operation == "mla_decode_bf16" and with_flash_mla:
                bench.run("flash_mla", operation, shape, "dense", *work, lambda: flash_mla(*sizes))
            if operation == "mla_decode_bf16" and with_fa3:
                bench.run("fa3", operation, shape, "contiguous", *work, lambda: fa3(*sizes))
            if operation == "mla_decode_fp8_per_tensor" and with_flash_mla:
                make = lambda: flash_mla_fp8(*sizes)
                bench.run("flash_mla", operation, shape, "dense_per_tensor", *work, make, BAR_E4M3)
    sys.exit(1 if bench.failed else 75 if bench.unfinished else 0)


if __name__ == "__main__":
    main()
