"""Times the ceilings of this GPU and other libraries beside ours: same shapes, same card, same columns as timings.csv.

    python3 peers.py --csv timings.csv [--earlier timings.csv] --wheels wheels --deadline 40

Shapes are those of the rows that are in the files already. PyTorch gives the ceilings (BF16 and FP8 matrix products) and
cuBLASLt's block-scaled GEMM; DeepGEMM and FlashMLA run if their wheels lie in the folder. What is not there is said.
A result is compared with float64 before it is timed; `worst` is its relative error as a part of BAR.
Exit code 75: time did not suffice, 77: no PyTorch or no GPU.
"""

import argparse
import csv
import glob
import os
import re
import sys
import tempfile
import time
import zipfile

BAR = 1e-2  # ||out - reference|| / ||reference||: BF16 results of FP8 operands come to a few 1e-3
L2_TURNS = 3  # as timings does it: sets of operands that fill L2 so often over
RUNS, REPLAYS = 20, 9
PAGE = 64

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

    def run(self, who, operation, shape, instance, flops, size, make):
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
            if not error < BAR:
                raise ValueError(f"relative error {error:.3e}, expected below {BAR}: not timed")
            times = replay([run for run, _ in made])
        except Exception as error:  # whatever another library raises: the rest goes on
            self.failed += 1
            print(f"{who} {operation} {shape}: FAILED: {type(error).__name__}: {error}")
            return
        row |= dict(median_us=times[len(times) // 2], min_us=times[0], max_us=times[-1])
        row |= dict(flops=flops, bytes=size, worst=error / BAR, card=self.card)
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


def flash_mla(batch, q_tokens, length, heads):
    from flash_mla import flash_mla_with_kvcache, get_mla_metadata

    columns = -(-length // PAGE)
    q = torch.randn(batch, q_tokens, heads, 576, device="cuda", dtype=torch.bfloat16) / 10
    cache = torch.randn(batch * columns, PAGE, 1, 576, device="cuda", dtype=torch.bfloat16) / 10
    table = torch.randperm(batch * columns, device="cuda", dtype=torch.int32).view(batch, columns)
    lengths = torch.full((batch,), length, device="cuda", dtype=torch.int32)
    scale, causal = 0.1352337788608801, q_tokens > 1
    metadata, _ = get_mla_metadata()

    def run():
        return flash_mla_with_kvcache(
            q, cache, table, lengths, 512, metadata, None, scale, causal, use_legacy=True
        )[0]

    keys = cache[table[0].long()].view(-1, 576)[:length].double()
    scores = q[0].double() @ keys.t() * scale
    if causal:
        last = torch.arange(q_tokens, device="cuda") + length - q_tokens
        scores.masked_fill_((torch.arange(length, device="cuda") > last[:, None])[:, None, :], float("-inf"))
    return run, relative_error(run()[0], scores.softmax(-1) @ keys[:, :512])


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
    for row in bench.ours:
        if row["l2"] != "cold" or row["variant"] != "current":
            continue
        work = int(row["flops"]), int(row["bytes"])
        if gemm := re.fullmatch(r"(\d+)x(\d+)x(\d+)_bf16", row["shape"]):
            m, n, k = map(int, gemm.groups())
            shape = row["shape"]
            bench.run("torch", "fp8_gemm", shape, "cublaslt_blockwise", *work, lambda: blockwise(m, n, k))
            if with_deep_gemm:
                bench.run("deep_gemm", "fp8_gemm", shape, "1d2d", *work, lambda: deep_gemm(m, n, k))
        step = re.fullmatch(r"b(\d+)q(\d+)s(\d+)h(\d+)", row["shape"])
        if step and with_flash_mla and row["operation"] == "mla_decode_bf16":
            batch, q_tokens, length, heads = map(int, step.groups())
            make = lambda: flash_mla(batch, q_tokens, length, heads)
            bench.run("flash_mla", row["operation"], row["shape"], "dense", *work, make)
    sys.exit(1 if bench.failed else 75 if bench.unfinished else 0)


main()
