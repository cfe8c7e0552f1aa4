"""Times of a run on a GPU, as crates/check/src/bench/timing.rs takes ours: replays of a captured graph between events."""

import collections
import subprocess
import time

L2_TURNS = 3  # how often a set's bytes must fit L2 over before it is used again
RUNS = 20  # in a graph, unless more sets are needed or one takes long
LEAST = 10  # samples
DEVIATION = 0.005  # of the samples, relative: they are steady
SECONDS = 0.5  # that the samples of one measurement may take
TRIES = 3  # while the GPU holds its clocks down
THROTTLED = 0x0000_0000_0000_00E8  # hardware and software slowdown, by heat, and the power brake; not the power cap


def cold_sets(size, l2):
    """Sets of operands that make every run cold: what it reads was last touched so long ago that L2 has forgotten it."""
    return max(1, -(-L2_TURNS * l2 // max(size, 1)))


def runs_per_graph(sets, one, seconds=SECONDS):
    """Runs that are captured: every set at least once, and no more than the samples have time for."""
    return max(sets, min(RUNS, int(seconds / (2 * LEAST * max(one, 1e-9)))), 1)


def sample(take, seconds=SECONDS, clock=time.monotonic):
    """Samples of take() until they are steady or time is up, and which of the two it was."""
    begin, samples, mean, squares = clock(), [], 0.0, 0.0
    while True:
        samples.append(take())
        off = samples[-1] - mean
        mean += off / len(samples)
        squares += off * (samples[-1] - mean)
        if len(samples) >= LEAST and squares <= len(samples) * (DEVIATION * mean) ** 2:
            return samples, "deviation"
        if clock() - begin > seconds and len(samples) > 1:
            return samples, "time"


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


def state():
    """Clocks, temperature and power of the first GPU; none where nobody tells."""
    asked = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active"
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_state(told.strip())


def steady(take, look=state):
    """A measurement: samples, why they ended, the GPU's state around them. One that was held down is repeated."""
    for _ in range(TRIES):
        before = look()
        samples, stop = sample(take)
        behind = look()
        states = [before, behind] if before and behind else None
        disturbed = bool(states) and any(state["throttled"] for state in states)
        if not disturbed:
            break
    return {"seconds": samples, "stop": stop, "state": states, "disturbed": disturbed}


def measure(runs, one):
    """Cold and warm: `runs` take turns on sets of operands, or the first alone; `one` is about what a run takes."""
    return {name: steady(replays(some, runs_per_graph(len(some), one))) for name, some in (("cold", runs), ("warm", runs[:1]))}


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
