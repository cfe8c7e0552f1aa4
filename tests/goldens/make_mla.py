"""What Hugging Face's latent attention of DeepSeek-V3 computes: writes mla.txt, which check::mla::golden reads.

    pip install torch transformers && python make_mla.py         (made with torch 2.15.0, transformers 5.23.0, on a CPU)

Only what lies between the projections is of interest: their modules are replaced by slices of the hidden states, which hold
the queries, the normalised latent vectors and the keys' rope part side by side, and the output projection by nothing. The
rest is the library's: YaRN, the rotation, the cache, the up-projection of keys and values, eager attention. It runs in FP64;
frequencies, angles, their cosines and sines, and the softmax are in FP32 there too.

Inputs are integers from a generator that the test repeats, times powers of two, exact in BF16.

Two lines hold the frequencies and the softmax scale. Another holds the sequence, the token, and its output, heads one
after the other.
"""

import torch
from generator import small
from torch import nn
from transformers import DynamicCache
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

HEADS, LATENT, ROPE, NOPE, VALUE = 4, 512, 64, 128, 128
QUERY = HEADS * (NOPE + ROPE)
# Tokens of the prompt, and the distance of positions: not every one, so that few tokens reach far beyond 4096.
SEQUENCES = [(70, 1), (130, 131)]
# Tokens that are decoded at once, after the prompt.
STEPS = [1, 2]


class Columns(nn.Module):
    def __init__(self, start, end):
        super().__init__()
        self.columns = slice(start, end)

    def forward(self, hidden):
        return hidden[..., self.columns]


def between_the_projections(config):
    attention = DeepseekV3Attention(config, layer_idx=0)
    attention.q_a_proj = attention.q_a_layernorm = attention.kv_a_layernorm = attention.o_proj = nn.Identity()
    attention.q_b_proj = Columns(0, QUERY)
    attention.kv_a_proj_with_mqa = Columns(QUERY, QUERY + LATENT + ROPE)
    attention.kv_b_proj.weight.copy_(small((HEADS * (NOPE + VALUE), LATENT), 21, 2.0**-6))
    return attention


def inputs(tokens, seed):
    q = small((tokens, QUERY), seed, 2.0**-2)
    latent = small((tokens, LATENT), seed + 1, 2.0**-3)
    rope = small((tokens, ROPE), seed + 2, 2.0**-2)
    return torch.cat([q, latent, rope], dim=-1).unsqueeze(0)


def main():
    config = DeepseekV3Config(
        hidden_size=QUERY + LATENT + ROPE, num_attention_heads=HEADS, num_key_value_heads=HEADS, num_hidden_layers=1,
        kv_lora_rank=LATENT, qk_rope_head_dim=ROPE, qk_nope_head_dim=NOPE, v_head_dim=VALUE, q_lora_rank=32,
        max_position_embeddings=163840, rope_interleave=True,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
        },
    )
    config._attn_implementation = "eager"
    with torch.no_grad(), open("mla.txt", "w") as file:
        attention, rope = between_the_projections(config).double(), DeepseekV3RotaryEmbedding(config)
        print("frequencies", *(f"{frequency:.9g}" for frequency in rope.inv_freq.tolist()), file=file)
        print("scale", f"{attention.scaling:.17g}", file=file)
        for sequence, (prompt, distance) in enumerate(SEQUENCES):
            hidden = inputs(prompt + sum(STEPS), 100 * (sequence + 1)).double()
            cache, done = DynamicCache(), 0
            for step, tokens in enumerate([prompt, *STEPS]):
                seen = done + tokens
                new = hidden[:, done:seen]
                positions = torch.arange(done, seen).unsqueeze(0) * distance
                mask = torch.full((tokens, seen), -torch.inf, dtype=torch.float64).triu(done + 1)[None, None]
                output, _ = attention(new, rope(new, positions), mask, past_key_values=cache)
                if step > 0:
                    for token, values in zip(range(done, seen), output[0]):
                        print(sequence, token, *(f"{value:.9g}" for value in values.tolist()), file=file)
                done = seen


if __name__ == "__main__":
    main()
