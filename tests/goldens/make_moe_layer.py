"""What Hugging Face's mixture-of-experts block of DeepSeek-V3 computes: writes moe_layer.txt, which
tests/cases/moe/layer.rs reads.

    pip install torch transformers && python make_moe_layer.py   (made with torch 2.15.0, transformers 5.23.0, on a CPU)

Weights are small integers times powers of two, exact in E4M3; so are the hidden states, with a power of two as scale. What
the layer rounds and this block does not are the activations between the two products, and the result. The shared expert is
zero. Tokens without a defined choice are left out, as in make_gate.py.

A line holds the token and its output.
"""

import torch
from generator import integers, small
from make_gate import defined
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

TOKENS, HIDDEN, WIDTH, EXPERTS, TOPK, GROUPS, KEPT = 40, 128, 128, 32, 8, 8, 4


def main():
    config = DeepseekV3Config(
        hidden_size=HIDDEN, moe_intermediate_size=WIDTH, n_routed_experts=EXPERTS, n_shared_experts=1,
        num_experts_per_tok=TOPK, n_group=GROUPS, topk_group=KEPT, routed_scaling_factor=2.5, norm_topk_prob=True,
    )
    config._experts_implementation = "eager"
    block = DeepseekV3MoE(config)
    hidden = small((TOKENS, HIDDEN), 11, 2.0**-2)
    router = torch.tensor(list(integers(EXPERTS * HIDDEN, 12)), dtype=torch.float32).reshape(EXPERTS, HIDDEN)
    with torch.no_grad(), open("moe_layer.txt", "w") as file:
        block.gate.weight.copy_(router * 2.0**-12)
        block.gate.e_score_correction_bias.copy_(torch.tensor(list(integers(EXPERTS, 13))) * 2.0**-10 - 1.5)
        block.experts.gate_up_proj.copy_(small((EXPERTS, 2 * WIDTH, HIDDEN), 14, 2.0**-6))
        block.experts.down_proj.copy_(small((EXPERTS, HIDDEN, WIDTH), 15, 2.0**-6))
        for parameter in block.shared_experts.parameters():
            parameter.zero_()
        output = block(hidden.unsqueeze(0))[0]
        for token, (known, values) in enumerate(zip(defined(block.gate, hidden, GROUPS, KEPT, TOPK), output)):
            if known:
                file.write(" ".join([str(token), *(f"{value:.7g}" for value in values.tolist())]) + "\n")


if __name__ == "__main__":
    main()
