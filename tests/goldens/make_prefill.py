"""What torch's scaled_dot_product_attention makes of heads as DeepSeek-V3 and GLM-5 have them: writes prefill.txt.

    pip install torch && python make_prefill.py         (made with torch 2.15.0, on a CPU)

In FP64, with an explicit mask: the last query token sees all keys, each one before it a key less. A prompt behind a prefix,
one with more tokens than keys, whose first ones see none, and one without a mask; the first and the last kind with wider heads.

Inputs are integers from a generator that the test repeats, times powers of two, exact in BF16.

A line holds the sequence, the query token, its logarithm of the sum of the exponentials, and its output.
"""

import torch
from generator import small

# Columns of a key and of a value.
DEEPSEEK_V3, GLM_5 = (192, 128), (256, 256)
# Those, query tokens, keys, and whether there is a mask.
SEQUENCES = [
    (DEEPSEEK_V3, 3, 140, True),
    (DEEPSEEK_V3, 5, 3, True),
    (DEEPSEEK_V3, 2, 131, False),
    (GLM_5, 3, 140, True),
    (GLM_5, 2, 67, False),
]
SCALE = 0.125


def main():
    lines = []
    for sequence, ((key, value), tokens, keys, causal) in enumerate(SEQUENCES):
        seed = 10 * (sequence + 1)
        shapes = [(tokens, key), (keys, key), (keys, value)]
        q, k, v = (small(shape, seed + i, 2.0**-3).double() for i, shape in enumerate(shapes))
        seen = torch.ones(tokens, keys, dtype=torch.bool)
        if causal:
            seen = seen.tril(keys - tokens)
        out = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], seen[None], scale=SCALE)[0]
        scores = (q @ k.T * SCALE).masked_fill(~seen, float("-inf"))
        lse = torch.logsumexp(scores, -1)
        for token in range(tokens):
            if not seen[token].any():
                continue
            numbers = [lse[token].item(), *out[token].tolist()]
            lines.append(f"{sequence} {token} " + " ".join(f"{x:.17g}" for x in numbers) + "\n")
    with open("prefill.txt", "w") as file:
        file.writelines(lines)


if __name__ == "__main__":
    main()
