import torch


@torch.no_grad()
def run(q, kv_cache, block_table, seq_lens, sm_scale):
    """Queries of the last tokens of each sequence over its keys, whose first 512 elements are the values; FP32. A token sees
    the keys up to its own. lse is the natural logarithm of the sum of the exponentials, -inf where there is no key."""
    batch, tokens, heads, width = q.shape
    out = torch.zeros(batch, tokens, heads, 512, dtype=torch.bfloat16, device=q.device)
    lse = torch.full((batch, tokens, heads), float("-inf"), device=q.device)
    for sequence in range(batch):
        length = int(seq_lens[sequence])
        pages = block_table[sequence, : -(-length // kv_cache.shape[1])].long()
        keys = kv_cache[pages].reshape(-1, width)[:length].float()
        for token in range(tokens):
            seen = keys[: length - tokens + token + 1] if length - tokens + token + 1 > 0 else keys[:0]
            if seen.shape[0] == 0:
                continue
            logits = q[sequence, token].float() @ seen.t() * sm_scale
            lse[sequence, token] = logits.logsumexp(-1)
            out[sequence, token] = (logits.softmax(-1) @ seen[:, :512]).to(torch.bfloat16)
    return out, lse
