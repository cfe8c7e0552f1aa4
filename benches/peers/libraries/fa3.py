"""FlashAttention-3 (`fa3-fwd`, or its own package). `fa3-fwd` is built without pages: the cache is contiguous, and no page
table is read."""

from cases import KEY, LATENT, SOFTMAX_SCALE, Decode

WHO, MODULES = "fa3", ("fa3_fwd_interface", "flash_attn_interface")


def instance(case):
    return "contiguous" if isinstance(case, Decode) and case.cache == "bf16" else None


def prepare(case, step):
    import torch

    from libraries import load

    interface = load(MODULES)
    batch = len(case.lengths)
    cache = step.cache[step.table.view(-1).long()].view(batch, -1, 1, KEY)
    v, k = cache[..., :LATENT], cache[..., LATENT:]
    q, q_rope = step.q[..., :LATENT], step.q[..., LATENT:]
    metadata = interface.get_scheduler_metadata(
        batch, case.q_tokens, cache.shape[1], case.heads, 1, KEY - LATENT, step.lengths, torch.bfloat16,
        headdim_v=LATENT, causal=case.causal,
    )  # fmt: skip

    def run():
        return interface.flash_attn_with_kvcache(
            q_rope, k, v, qv=q, cache_seqlens=step.lengths, softmax_scale=SOFTMAX_SCALE, causal=case.causal,
            num_splits=0, scheduler_metadata=metadata,
        )  # fmt: skip

    return run, lambda out: out
