"""The program, as its users start it; and what it does with libraries that are right, wrong or broken."""

import contextlib
import io
import json
import os
import subprocess
import sys
import types
import unittest
from unittest import mock

import libraries
import record
import run
from tests.test_record import OURS, Csv, Folder

try:
    import torch
except ImportError:
    torch = None

SCRIPT = os.path.abspath(run.__file__)


class Program(Folder):
    def start(self, *words, env=None):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **(env or {})}
        return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, env=environment)

    def fails(self, code, said, *words):
        done = self.start(*words)
        self.assertEqual(done.returncode, code, done)
        self.assertIn(said, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_bad_usage_is_a_line_and_code_2(self):
        out = self.path("out.json")
        files = ("--ours", OURS, "--json", out)
        for said, words in [
            ("expected --ours FILE and --json FILE, or --csv FILE", ()),
            ("expected --ours FILE and --json FILE", ("--ours", OURS)),
            ("or --csv, got both", (*files, "--csv", out)),
            ("--earlier goes with --csv", (*files, "--earlier", out)),
            ("unrecognized arguments: --fast", (*files, "--fast")),
            ("invalid float value: 'soon'", (*files, "--budget", "soon")),
            ("--budget: expected seconds, got -1.0", (*files, "--budget", "-1")),
            ("--budget: expected seconds, got nan", (*files, "--budget", "nan")),
            ("--seconds: expected seconds, got -1.0", (*files, "--seconds", "-1")),
            ("no library is called cutlass; there are deep_gemm, torch, ", (*files, "--peer", "cutlass")),
            ("no operation is called gemm; there are fp8_gemm, ", (*files, "--op", "gemm")),
            ("no case has the shape 9x9", (*files, "--shape", "9x9")),
            ("No such file", ("--ours", self.path("nowhere"), "--json", out)),
            ("has no rows of ours", ("--csv", out)),
        ]:
            self.fails(2, said, *words)
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_a_list_says_who_takes_what_and_measures_nothing(self):
        done = self.start("--ours", OURS, "--list")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(
            "fp8_gemm/64x2112x7168_bf16: deep_gemm 1d2d, torch cublaslt_blockwise, triton tiled\n", done.stdout
        )
        self.assertIn("not compared: 1 of moe_layer: it is no operation that others have\n", done.stdout)
        some = self.start("--ours", OURS, "--list", "--op", "fp8_gemm", "--shape", "2112x7168", "--peer", "torch")
        self.assertEqual(some.stdout.splitlines()[1:], ["fp8_gemm/64x2112x7168_bf16: torch cublaslt_blockwise"])

    def test_without_a_gpu_it_says_so_and_writes_nothing(self):
        out = self.path("both.json")
        why = "PyTorch sees no GPU" if torch else "PyTorch is not here"
        self.fails(77, why, "--ours", OURS, "--json", out)
        rows = self.path("timings.csv", Csv.HEAD + Csv.ROW.format(l2="cold"))
        self.fails(77, why, "--csv", rows, "--wheels", self.folder.name)
        self.assertEqual(self.text(rows), Csv.HEAD + Csv.ROW.format(l2="cold"))
        self.assertEqual(os.listdir(self.folder.name), ["timings.csv"])


def library(who, result, module="json"):
    """A library that takes every case, a GEMM, and answers with result(reference)."""

    def prepare(case, operands):
        import reference

        exact = reference.promoted(
            operands.a, operands.sfa, operands.b[0], operands.sfb[0].repeat_interleave(128, 0)[: case.n]
        )
        return lambda: result(exact[0]), lambda d: d.to(torch.bfloat16)

    return types.SimpleNamespace(WHO=who, MODULES=(module,), instance=lambda _: f"of_{who}", prepare=prepare)


def broken(*_):
    raise RuntimeError("no kernel\nfor this")


@unittest.skipUnless(torch, "PyTorch is not here")
class Flow(Folder):
    """On a CPU, with a clock that stands."""

    answers = True

    def bench(self, *words, peers, card="NVIDIA H100 80GB HBM3"):
        small = json.loads(self.text(OURS))
        row = small["rows"][1] | {"name": "fp8_gemm/5x136x256_bf16", "shape": "5 x 136 x 256", "bytes": 1 << 20}
        ours = self.path("ours.json", json.dumps(small | {"rows": [row]}))
        self.out = self.path("both.json")
        properties = types.SimpleNamespace(L2_cache_size=1 << 20)
        cuda = types.SimpleNamespace(
            is_available=lambda: True, get_device_name=lambda _: card, get_device_properties=lambda _: properties,
            synchronize=lambda: self.answers or broken(None),
        )  # fmt: skip
        self.sets = []

        def measure(runs, *_):
            self.sets.append(len([run() for run in runs]))
            return {"cold": {"seconds": [1e-5] * 3, "stop": "deviation", "state": None, "disturbed": False}}

        printed = io.StringIO()
        with (
            mock.patch.object(run, "DEVICE", "cpu"),
            mock.patch.object(torch, "cuda", cuda),
            mock.patch.object(libraries, "ALL", peers),
            mock.patch("timing.measure", measure),
            mock.patch("timing.once", lambda _: 1e-5),
            contextlib.redirect_stdout(printed),
        ):
            code = run.main(["--ours", ours, "--json", self.out, *words])
        return code, printed.getvalue()

    def theirs(self):
        return {row["who"]: row for row in record.load(self.out)["rows"] if row["who"] != "ours"}

    def test_right_is_timed_wrong_and_broken_are_not_and_absent_is_named(self):
        one_off = lambda exact: exact + (torch.arange(exact.numel()).view(exact.shape) == 7) * 3
        peers = (
            library("right", lambda exact: exact),
            library("wrong", one_off),
            library("nan", lambda exact: exact * float("nan")),
            library("broken", broken),
            library("absent", lambda exact: exact, "no_such_module"),
        )
        code, printed = self.bench(peers=peers)
        self.assertEqual(code, run.FAILED)
        rows = self.theirs()
        self.assertEqual(set(rows), {"right", "wrong", "nan", "broken"})
        self.assertLess(rows["right"]["worst"], 1)
        self.assertEqual(rows["right"]["times"]["cold"]["seconds"], [1e-5] * 3)
        self.assertEqual(rows["right"]["name"], "fp8_gemm/5x136x256_bf16")
        for who, wrong in [("wrong", True), ("nan", True), ("broken", False)]:
            self.assertNotIn("times", rows[who])
            self.assertEqual(rows[who]["failure"]["wrong"], wrong)
        self.assertEqual(rows["broken"]["failure"]["why"], "RuntimeError: no kernel")
        self.assertEqual(self.sets, [3], "the one that is right ran on as many sets as fill L2 three times")
        self.assertIn("absent is skipped: ModuleNotFoundError: No module named 'no_such_module'", printed)

    def test_no_time_is_told_and_a_second_call_goes_on(self):
        peers = (library("right", lambda exact: exact),)
        code, printed = self.bench("--budget", "0", peers=peers)
        self.assertEqual((code, self.theirs()), (run.UNFINISHED, {}))
        self.assertIn("1 measurements are left for another time", printed)
        self.assertEqual(self.bench(peers=peers)[0], 0)
        self.assertEqual(set(self.theirs()), {"right"})

    def test_behind_a_lost_context_nobody_is_blamed(self):
        self.answers = False
        code, printed = self.bench(peers=(library("broken", broken), library("right", lambda exact: exact)))
        self.assertEqual((code, set(self.theirs())), (run.FAILED, {"broken"}))
        self.assertIn("the GPU's context is lost", printed)

    def test_inputs_that_have_no_room_fail_each_library(self):
        peers = tuple(library(who, lambda exact: exact) for who in ("one", "two"))
        with mock.patch("inputs.draw", broken):
            code, _ = self.bench(peers=peers)
        self.assertEqual((code, set(self.theirs())), (run.FAILED, {"one", "two"}))

    def test_another_gpu_is_refused(self):
        with self.assertRaises(run.Stop) as raised:
            self.bench(peers=(), card="NVIDIA H200")
        self.assertEqual(raised.exception.code, run.OTHER_DEVICE)
        self.assertIn("ours ran on NVIDIA H100 80GB HBM3, this is NVIDIA H200", str(raised.exception))
        self.assertFalse(os.path.exists(self.out))


if __name__ == "__main__":
    unittest.main()
