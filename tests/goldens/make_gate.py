"""What Hugging Face's router of DeepSeek-V3 chooses: writes gate.txt, which tests/cases/router/gate.rs reads.

    pip install torch transformers && python make_gate.py        (made with torch 2.15.0, transformers 5.23.0, on a CPU)

Inputs are integers from a linear congruential generator that the test repeats, scaled by powers of two: every logit is
exact in FP32 whatever the order of its sum, so the choice does not depend on it. Tokens with two biased scores or two
group scores so near each other that a rounding could exchange them have no defined choice here and are left out.

A line holds the case, the token, its eight experts in ascending order, and their weights.
"""

import torch
from generator import tensor
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

TOKENS, HIDDEN, EXPERTS, TOPK, GROUPS, KEPT = 256, 64, 256, 8, 8, 4
# Sums of scores in FP32 are within a few units of 2^-24 of each other's.
NEAR = 2e-6


def defined(router, hidden, groups, kept, topk):
    """Whether each token's choice is the same whichever way FP32 rounds."""
    biased = torch.sigmoid(hidden.double() @ router.weight.double().T) + router.e_score_correction_bias.double()
    grouped = biased.view(len(hidden), groups, -1)
    scores = grouped.topk(2, dim=-1)[0].sum(-1)
    order = scores.sort(-1, descending=True)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[1][:, :kept], True)
    left = grouped.masked_fill(~chosen.unsqueeze(-1), -torch.inf).flatten(1).sort(-1, descending=True)[0]
    groups_apart = order[0][:, kept - 1] - order[0][:, kept] > NEAR
    return groups_apart & (left[:, topk - 1] - left[:, topk] > NEAR)


def main():
    torch.use_deterministic_algorithms(True)
    config = DeepseekV3Config(
        hidden_size=HIDDEN, n_routed_experts=EXPERTS, num_experts_per_tok=TOPK, n_group=GROUPS, topk_group=KEPT,
        routed_scaling_factor=2.5, norm_topk_prob=True,
    )
    router = DeepseekV3TopkRouter(config)
    hidden = tensor(TOKENS, HIDDEN, 1, 2.0**-6)
    bias = tensor(1, EXPERTS, 3, 2.0**-10)[0]
    with torch.no_grad(), open("gate.txt", "w") as file:
        router.weight.copy_(tensor(EXPERTS, HIDDEN, 2, 2.0**-10))
        for case, shift in enumerate([None, 0.0, -1.5]):
            router.e_score_correction_bias.copy_(torch.zeros(EXPERTS) if shift is None else bias + shift)
            _, weights, ids = router(hidden)
            ids, order = ids.sort(-1)
            weights = weights.gather(1, order)
            for token in defined(router, hidden, GROUPS, KEPT, TOPK).nonzero().flatten().tolist():
                values = " ".join(f"{weight:.9g}" for weight in weights[token].tolist())
                print(case, token, *ids[token].tolist(), values, file=file)


if __name__ == "__main__":
    main()
