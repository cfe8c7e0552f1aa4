"""When there are enough samples of a time: NVBench's two criteria, as crates/check/src/bench/statistics.rs has them."""

import bisect
import math

LEAST = 10  # fewer samples tell of no distribution
DEVIATION = 0.005  # relative, that is low enough
WINDOW = 299  # samples over which the entropy is looked at
ANGLE = 0.048  # degrees: its greatest slope
EXPLAINED = 0.36  # the least part of its variance that a line explains


class Stopping:
    """Samples, in their order."""

    def __init__(self):
        self.samples, self.ordered, self.entropies = [], [], []
        self.mean = self.squares = 0.0

    def add(self, sample):
        """Takes a sample; why it is the last one, if it should be."""
        self.samples.append(sample)
        bisect.insort(self.ordered, sample)
        count, off = len(self.samples), sample - self.mean
        self.mean += off / count
        self.squares += off * (sample - self.mean)
        self.entropies.append(entropy(self.ordered))
        if count < LEAST:
            return None
        if self.squares / (count - 1) < (DEVIATION * self.mean) ** 2:
            return "deviation"
        if count < WINDOW:
            return None
        slope, explained = line(self.entropies[-WINDOW:])
        return "entropy" if math.degrees(math.atan(slope)) < ANGLE and explained >= EXPLAINED else None


def entropy(ordered):
    """Of the samples' distribution, in bits, samples told apart to a thousandth of their median."""
    count = len(ordered)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    bins = {}
    for sample in ordered:
        place = round(1000 * sample / median)
        bins[place] = bins.get(place, 0) + 1
    return -sum(held / count * math.log2(held / count) for held in bins.values())


def line(values):
    """The slope of the line of least squares through values at 0, 1, .., and the part of their variance that it explains."""
    x_mean, y_mean = (len(values) - 1) / 2, sum(values) / len(values)
    xx = sum((x - x_mean) ** 2 for x in range(len(values)))
    xy = sum((x - x_mean) * (y - y_mean) for x, y in enumerate(values))
    yy = sum((y - y_mean) ** 2 for y in values)
    return (xy / xx, xy * xy / (xx * yy)) if yy else (0.0, 1.0)
