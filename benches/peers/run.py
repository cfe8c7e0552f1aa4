"""Measures other libraries beside ours: the same cases, the same kind of inputs, on the same GPU, in the same way.

    deepseek-kernels bench --json ours.json
    python benches/peers/run.py --ours ours.json --json both.json
    deepseek-kernels bench --with both.json --report both.html

Every result is compared with float64 before it is timed, and a wrong one is not timed. What does not load is named.
Exit code: 0; 1 something failed or was wrong; 2 usage, or a file that cannot be read; 3 ours are of another GPU; 75 time did
not suffice; 77 no PyTorch or no GPU.
"""

import argparse
import functools
import glob
import os
import sys
import tempfile
import time
import zipfile

import cases
import libraries
import record

DEVICE = "cuda"
FAILED, USAGE, OTHER_DEVICE, UNFINISHED, NOT_HERE = 1, 2, 3, 75, 77


class Stop(Exception):
    """Ends the program with a line and a code."""

    def __init__(self, code, line):
        super().__init__(line)
        self.code = code


class Wrong(Exception):
    """A result that is further off than any correct kernel's."""


class Lost(Exception):
    """Behind what nothing runs any more: whoever comes next would be blamed for it."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Stop(USAGE, message)


def arguments(words):
    parser = Parser(prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: [name for name in text.split(",") if name]
    parser.add_argument("--ours", metavar="FILE", help="cases and results of `deepseek-kernels bench --json`")
    parser.add_argument("--json", metavar="FILE", help="gets those and the peers' rows")
    parser.add_argument(
        "--csv", metavar="FILE", help="timings.csv of a run on a GPU host instead of both: rows are appended"
    )
    parser.add_argument(
        "--earlier", metavar="FILE", action="append", default=[], help="rows of such files count as well"
    )
    parser.add_argument(
        "--op", metavar="NAME,...", type=names, default=[], help="only these operations, as `bench --op`"
    )
    parser.add_argument("--shape", metavar="TEXT", help="only cases of this shape, as `bench --shape`")
    parser.add_argument("--peer", metavar="NAME,...", type=names, default=[], help="only these libraries")
    parser.add_argument("--list", action="store_true", help="say what would be measured, and measure nothing")
    parser.add_argument(
        "--budget", metavar="SECONDS", type=float, default=600, help="nothing begins after so long (600)"
    )
    parser.add_argument("--seconds", metavar="SECONDS", type=float, default=1.0, help="that one number may take (1)")
    parser.add_argument("--wheels", metavar="FOLDER", help="wheels in it are unpacked and found")
    given = parser.parse_args(words)
    if given.csv is None and (given.ours is None or (given.json is None and not given.list)):
        parser.error("expected --ours FILE and --json FILE, or --csv FILE")
    if given.csv is not None and (given.ours or given.json):
        parser.error("expected --ours and --json, or --csv, got both")
    if given.earlier and given.csv is None:
        parser.error("--earlier goes with --csv")
    for name in ("budget", "seconds"):
        if not getattr(given, name) >= 0:
            parser.error(f"--{name}: expected seconds, got {getattr(given, name)}")
    known = [library.WHO for library in libraries.ALL]
    if unknown := [name for name in given.peer if name not in known]:
        parser.error(f"no library is called {unknown[0]}; there are {', '.join(known)}")
    return given


def selected(given, book):
    """Our rows with the cases they mean, each case once, and why others have none."""
    operations = {row["operation"] for row in book.ours}
    for name in given.op:
        if not any(cases.matches(operation, name, operations) for operation in operations):
            raise Stop(USAGE, f"no operation is called {name}; there are {', '.join(sorted(operations))}")
    chosen, skipped, seen = [], {}, set()
    for row in book.ours:
        label, shape = book.label(row), row["shape"]
        if given.op and not any(cases.matches(row["operation"], name, operations) for name in given.op):
            continue
        if given.shape is not None and not cases.has_shape(label, shape, given.shape):
            continue
        if (row["operation"], label) in seen:
            continue
        seen.add((row["operation"], label))
        try:
            chosen.append((row, cases.parse(row["operation"], label, shape)))
        except cases.NoCase as reason:
            skipped.setdefault(f"{row['operation']}: {reason}", []).append(label)
    if not chosen and not skipped:
        raise Stop(USAGE, f"no case has the shape {given.shape}")
    for reason, labels in skipped.items():
        print(f"not compared: {len(labels)} of {reason}")
    return chosen


def wanted(given):
    return [library for library in libraries.ALL if not given.peer or library.WHO in given.peer]


def main(words):
    given = arguments(words)
    if given.csv is not None:
        book = record.Csv(given.csv, given.earlier)
    else:
        book = record.Json(given.ours, given.json)
    chosen = selected(given, book)
    if given.list:
        for row, case in chosen:
            forms = [f"{library.WHO} {library.instance(case)}" for library in wanted(given) if library.instance(case)]
            print(f"{row['operation']}/{book.label(row)}: {', '.join(forms) or 'nobody'}")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        unpack(given.wheels, scratch)
        return Bench(book, given).all(chosen)


def unpack(wheels, scratch):
    """Wheels are archives; their compiled modules must lie in a folder."""
    os.environ.setdefault("DG_JIT_CACHE_DIR", os.path.join(scratch, "jit"))
    for wheel in sorted(glob.glob(os.path.join(wheels, "*.whl"))) if wheels else []:
        zipfile.ZipFile(wheel).extractall(os.path.join(scratch, "wheels"))
        print(f"unpacked {os.path.basename(wheel)}")
    sys.path.insert(0, os.path.join(scratch, "wheels"))


def gpu(book):
    """PyTorch with a GPU, which is the one that ours ran on."""
    try:
        import torch
    except Exception as error:  # a broken installation fails in many ways
        raise Stop(NOT_HERE, f"PyTorch is not here: {error}") from None
    if not torch.cuda.is_available():
        raise Stop(NOT_HERE, "PyTorch sees no GPU")
    card = torch.cuda.get_device_name(0).replace(",", " ")
    if card != book.card.replace(",", " "):
        raise Stop(OTHER_DEVICE, f"ours ran on {book.card}, this is {card}: times of two GPUs are not compared")
    return torch


class Bench:
    """Runs cases, one library after the other, and keeps what they gave."""

    def __init__(self, book, given):
        torch = gpu(book)
        book.begin()
        self.book, self.given = book, given
        self.deadline = time.monotonic() + given.budget
        self.unfinished = self.failed = 0
        properties = torch.cuda.get_device_properties(0)
        self.l2 = properties.L2_cache_size
        # As nvidia-smi calls it, who numbers GPUs in an order of its own.
        self.gpu = f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else "0"

    def all(self, chosen):
        there = []
        for library in wanted(self.given):
            if reason := libraries.missing(library):
                print(f"{library.WHO} is skipped: {reason}")
            else:
                there.append(library)
        for library in there:
            if hasattr(library, "compile_all") and not self.late(0):
                library.compile_all([case for row, case in chosen if self.wants(row, case, library)])
        try:
            if self.book.ceilings and any(library.WHO == "torch" for library in there):
                self.ceilings()
            for row, case in chosen:
                self.case(row, case, [library for library in there if self.wants(row, case, library)])
        except Lost as error:
            print(f"{error}: the GPU's context is lost, the rest is left for another time")
        if self.unfinished:
            print(f"{self.unfinished} measurements are left for another time")
        return FAILED if self.failed else UNFINISHED if self.unfinished else 0

    def wants(self, row, case, library):
        """Whether it takes the case and has not done so before."""
        instance = library.instance(case)
        return bool(instance) and not self.book.has(row, library.WHO, instance)

    def ceilings(self):
        from libraries import torch_cublaslt as library

        n = library.CEILING
        for operation, instance, size, prepare in library.ceilings(DEVICE):
            row = {"operation": operation, "shape": f"{n}x{n}x{n}", "flops": 2 * n**3, "bytes": size}

            def prepared(prepare=prepare):
                run, expected = prepare()
                return run, expected.worst, ()

            self.one(row, library.WHO, instance, prepared)

    def case(self, row, case, there):
        """All get the same operands. The first set is judged; the others have its values in memory of their own."""
        if not there or self.late(len(there)):
            return
        import inputs
        import reference
        import timing

        @functools.cache
        def drawn():
            operands = inputs.draw(case, f"{row['operation']}/{self.book.label(row)}", DEVICE)
            return operands, reference.expected(case, operands)

        sets = timing.cold_sets(row["bytes"], self.l2)
        for library in there:

            def prepared(library=library):
                operands, expected = drawn()
                run, result = library.prepare(case, operands)
                more = (library.prepare(case, operands.clone())[0] for _ in range(sets - 1))
                return run, lambda d: expected.worst(result(d)), more

            self.one(row, library.WHO, library.instance(case), prepared)

    def one(self, row, who, instance, prepared):
        """`prepared` gives a run, a judge of what it returns, and more runs for a cold L2."""
        if self.book.has(row, who, instance) or self.late(1):
            return
        import timing

        title = f"{who} {row['operation']} {self.book.label(row)} {instance}"
        try:
            run, judge, more = prepared()
            worst = judge(run())
            if not worst <= 1:
                raise Wrong(f"|error| is {worst:.3g} times its bound: not timed")
            times = timing.measure([run, *more], timing.once(run), self.given.seconds, self.gpu)
        except Exception as error:  # whatever another library raises: the rest goes on
            self.failed += 1
            wrong = isinstance(error, Wrong)
            why = str(error) if wrong else f"{type(error).__name__}: {error}".splitlines()[0]
            self.book.add(row, who, instance, failure={"wrong": wrong, "why": why})
            print(f"{title}: FAILED: {why}", flush=True)
            if not timing.answers():
                raise Lost(title) from None
            return
        self.book.add(row, who, instance, worst=worst, times=times)
        seconds = record.middle(times["cold"]["seconds"])
        print(f"{title}: {1e6 * seconds:.1f} us cold, {row['flops'] / seconds / 1e12:.1f} TFLOP/s", flush=True)

    def late(self, measurements):
        over = time.monotonic() > self.deadline
        self.unfinished += measurements if over else 0
        return over


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except record.BadFile as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except Stop as stop:
        # The last line of what is printed tells why a run on a GPU host skipped it.
        print(f"error: {stop}" if stop.code != NOT_HERE else stop, file=sys.stderr)
        sys.exit(stop.code)
