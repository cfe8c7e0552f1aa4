"""The linear congruential generator from which the scripts of this folder, and the tests that read what they write, take their inputs."""

import torch


def states(count, seed):
    for _ in range(count):
        seed = (seed * 1664525 + 1013904223) % 2**32
        yield seed


def integers(count, seed):
    """In [-128, 128)."""
    return ((state >> 24) - 128 for state in states(count, seed))


def tensor(rows, columns, seed, scale):
    values = torch.tensor(list(integers(rows * columns, seed)), dtype=torch.float32)
    return (values * scale).reshape(rows, columns)


def small(shape, seed, scale):
    """Integers in [-8, 8), times a scale."""
    count = torch.Size(shape).numel()
    return torch.tensor([x // 16 for x in integers(count, seed)], dtype=torch.float32).reshape(shape) * scale
