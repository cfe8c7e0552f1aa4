"""FlashMLA (`sgl-flash-mla`): dense decode, of BF16 and of E4M3 with one scale for all. Its schedule is made once, outside
the time, as in its own benchmark."""

from cases import LATENT, SOFTMAX_SCALE, Decode

WHO, MODULES = "flash_mla", ("flash_mla",)


def instance(case):
    forms = {"bf16": "dense", "fp8_per_tensor": "dense_per_tensor"}
    return forms.get(case.cache) if isinstance(case, Decode) else None


def prepare(case, step):
    import flash_mla
    import torch

    options = {"use_legacy": True}
    if case.cache == "fp8_per_tensor":
        from flash_mla.flash_mla_interface import FlashMLASchedMeta

        metadata = FlashMLASchedMeta()
        metadata.tile_scheduler_metadata, metadata.num_splits = flash_mla.get_mla_decoding_metadata(
            step.lengths, case.q_tokens * case.heads, 1, is_fp8_kvcache=True, use_legacy=True
        )
        one = torch.ones(1, device=step.q.device)
        options |= {"is_fp8_kvcache": True, "descale_q": one, "descale_k": one}
    else:
        metadata, _ = flash_mla.get_mla_metadata()

    def run():
        return flash_mla.flash_mla_with_kvcache(
            step.q, step.cache, step.table, step.lengths, LATENT, metadata, None, SOFTMAX_SCALE, case.causal, **options
        )[0]

    return run, lambda out: out
