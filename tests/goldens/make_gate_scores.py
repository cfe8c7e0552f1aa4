"""What torch gives for sqrt(softplus(x)), and a router with such scores: writes gate_scores.txt, which
tests/cases/router/gate_scores.rs reads.

    pip install torch && python make_gate_scores.py        (made with torch 2.15.0, on a CPU)

The router is the published definition in five calls of torch: scores, a bias for the choice only, the best K, weights that add
up to a factor. Inputs are integers from a linear congruential generator that the test repeats, scaled by powers of two. Tokens
with two biased scores so near each other that a rounding could exchange them have no defined choice and are left out.

A line `score` holds x, the score in FP64, and that in FP32; a line `route` the experts, the token, its own in ascending order, and
their weights.
"""

import torch
from generator import tensor

TOKENS, SCALE = 64, 1.5
# Experts, and those of a token.
ROUTERS = [(384, 8), (896, 16)]
# Scores below 3 in FP32 are within a few units of 2^-23 of each other's.
NEAR = 2e-6


def score(x):
    return torch.nn.functional.softplus(x).sqrt()


def route(file, experts, topk):
    # A sum of two integers of eight bits has sixteen, so that few scores are equal.
    logits = tensor(TOKENS, experts, 21, 2.0**-5) + tensor(TOKENS, experts, 22, 2.0**-13)
    bias = tensor(1, experts, 23, 2.0**-9)[0]
    biased = (score(logits.double()) + bias.double()).sort(-1, descending=True)[0]
    defined = biased[:, topk - 1] - biased[:, topk] > NEAR
    scores = score(logits)
    ids = (scores + bias).topk(topk, dim=-1)[1].sort(-1)[0]
    weights = scores.gather(1, ids)
    weights = weights / weights.sum(-1, keepdim=True) * SCALE
    for token in defined.nonzero().flatten().tolist():
        values = " ".join(f"{weight:.9g}" for weight in weights[token].tolist())
        print("route", experts, token, *ids[token].tolist(), values, file=file)


def main():
    torch.use_deterministic_algorithms(True)
    points = [0.0, 1e-30, 1e-3, 0.5, 1.0, 19.5, 20.5, 88.0, 104.0, 1e4, 1e19, 3e38, float("inf")]
    points = torch.tensor([sign * x for x in points for sign in [1, -1] if sign > 0 or x <= 80])
    with open("gate_scores.txt", "w") as file:
        for x, exact, single in zip(points.tolist(), score(points.double()).tolist(), score(points).tolist()):
            print("score", f"{x:.9g} {exact:.17g} {single:.9g}", file=file)
        for experts, topk in ROUTERS:
            route(file, experts, topk)


if __name__ == "__main__":
    main()
