"""Times of a run on a GPU, as crates/check/src/bench/timing.rs takes ours: replays of a captured graph between events."""

import collections
import subprocess
import time

from stopping import Stopping

L2_TURNS = 3  # how often a set's bytes must fit L2 over before it is used again
RUNS = 20  # in a graph, unless more sets are needed or one takes long
SECONDS = 1.0  # that the samples of one number may take
TRIES, REST = 3, 2.0  # while the GPU holds its clocks down, and seconds between them
THROTTLED = 0x8 | 0x20 | 0x40 | 0x80  # a slowdown by hardware, heat, and the power supply; not the limit of power


def cold_sets(size, l2):
    """Sets of operands that make every run cold: what it reads was last touched so long ago that L2 has forgotten it."""
    return max(1, -(-L2_TURNS * l2 // max(size, 1)))


def runs_per_graph(sets, one, seconds=SECONDS):
    """Runs that are captured: every set at least once, and no more than the samples have time for."""
    return max(sets, min(RUNS, int(seconds / (20 * max(one, 1e-9)))), 1)


def sample(take, seconds=SECONDS, clock=time.monotonic):
    """Samples of take() until there are enough or time is up, and why they ended."""
    begin, stopping = clock(), Stopping()
    while True:
        stop = stopping.add(take()) or ("time" if clock() - begin >= seconds else None)
        if stop:
            return stopping.samples, stop


def parse_state(line):
    """What nvidia-smi says in a line, none if it is not what was asked for."""
    try:
        clock, memory, celsius, watts, reasons = (field.strip() for field in line.split(","))
        return {
            "clock_mhz": int(clock), "memory_clock_mhz": int(memory), "celsius": int(celsius), "watts": float(watts),
            "throttled": int(reasons, 16) & THROTTLED != 0,
        }  # fmt: skip
    except ValueError:
        return None


def state(gpu="0"):
    """Clocks, temperature and power of a GPU; none where nobody tells."""
    asked = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active"
    command = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_state(told.strip())


def steady(take, seconds=SECONDS, look=state, rest=REST):
    """A number: samples, why they ended, the GPU's state around them. What was held down is measured again."""
    for left in reversed(range(TRIES)):
        before = look()
        samples, stop = sample(take, seconds)
        behind = look()
        states = [before, behind] if before and behind else None
        disturbed = bool(states) and any(state["throttled"] for state in states)
        if not disturbed or left == 0:
            return {"seconds": samples, "stop": stop, "state": states, "disturbed": disturbed}
        time.sleep(rest)


def measure(runs, one, seconds=SECONDS, gpu="0"):
    """Cold and warm: `runs` take turns on sets of operands, or the first alone; `one` is about what a run takes."""
    times = {}
    for name, some in {"cold": runs, "warm": runs[:1]}.items():
        take = replays(some, runs_per_graph(len(some), one, seconds))
        times[name] = steady(take, seconds, lambda: state(gpu))
    return times


def replays(runs, count):
    """Captures `count` runs; what it returns replays them and gives seconds of one."""
    import torch

    # What a run returns is its own memory until its set has its turn again, as ours is.
    results = collections.deque(maxlen=len(runs))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for run in runs:
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            results.append(runs[i % len(runs)]())
    graph.replay()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def take():
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / count

    return take


def once(run):
    """Seconds of a run by itself, the first use behind it."""
    import torch

    torch.cuda.synchronize()
    begin = time.monotonic()
    run()
    torch.cuda.synchronize()
    return time.monotonic() - begin


def answers():
    """Whether the GPU still runs anything in this process."""
    import torch

    try:
        torch.cuda.synchronize()
        return True
    except Exception:  # what a kernel did wrong before
        return False
