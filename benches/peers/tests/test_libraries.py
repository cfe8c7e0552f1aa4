"""How operands are laid out for each library, on a CPU: stand-ins ask for what the library asks for, and compute."""

import contextlib
import sys
import types
import unittest
from unittest import mock

import cases

try:
    import torch

    import inputs
    import reference
    from libraries import deep_gemm, fa3, flash_mla, torch_cublaslt
except ImportError as error:
    raise unittest.SkipTest(f"PyTorch is not here: {error}") from None

GEMMS = [cases.Gemm(5, 136, 400, "bf16"), cases.Gemm(8, 16, 512, "bf16")]
RAGGED = cases.Grouped((3, 0, 70, 1), 136, 400)
LONG = cases.Grouped((1000, 0, 700, 520), 24, 256)


def product(a, sfa, b, sfb):
    wide = lambda scales, length: scales.repeat_interleave(128, 1)[:, :length]
    k, n = a.shape[1], b.shape[0]
    return (a.float() * wide(sfa, k)) @ (b.float() * wide(sfb.repeat_interleave(128, 0)[:n], k)).t()


def scaled_mm(a, b, sfa, of_a, sfb, of_b, output_dtype):
    """cuBLASLt's rules."""
    lines = -(-a.shape[1] // 128)
    assert (of_a.name, of_b.name) == ("BlockWise1x128", "BlockWise128x128")
    assert a.shape[0] % 4 == 0 and a.is_contiguous() and b.t().is_contiguous()
    assert sfa.shape == (a.shape[0], lines) and sfa.stride() == (1, a.shape[0])
    assert sfb.shape[0] % 4 == 0 and sfb.shape[0] - lines < 4 and sfb.stride() == (1, sfb.shape[0])
    return product(a, sfa, b.t(), sfb.t()[:, :lines]).to(output_dtype)


def module_of_deep_gemm():
    """Each block of 128 rows is one expert's, or each expert has a block of its own."""

    def contiguous(left, weights, d, owners):
        for block in owners.view(-1, 128):
            assert len(set(block[block >= 0].tolist())) <= 1
        for expert, parts in enumerate(zip(*weights)):
            rows = owners == expert
            codes = left[0].view(torch.uint8)[rows].view(left[0].dtype)
            d[rows] = product(codes, left[1][rows], *parts).to(d.dtype)

    def masked(left, weights, d, counts, expected):
        assert expected > 0 and left[0].shape[1] % 128 == 0 and d.shape[:2] == left[0].shape[:2]
        for expert, parts in enumerate(zip(*weights)):
            rows = slice(0, counts[expert])
            d[expert, rows] = product(left[0][expert, rows], left[1][expert, rows], *parts).to(d.dtype)

    def aligned(scales):
        return scales

    def dense(left, right, d, compiled_dims):
        assert compiled_dims == "nk"
        d.copy_(product(*left, *right))

    return types.SimpleNamespace(
        get_mn_major_tma_aligned_tensor=aligned, fp8_gemm_nt=dense, m_grouped_fp8_gemm_nt_contiguous=contiguous,
        fp8_m_grouped_gemm_nt_masked=masked,
    )  # fmt: skip


def attention(q, keys, length, scale, causal):
    """Of one sequence's query tokens."""
    tokens, heads, _ = q.shape
    out = torch.zeros(tokens, heads, cases.LATENT)
    for token in range(tokens):
        seen = keys[: max(0, length - tokens + token + 1 if causal else length)].float()
        if seen.shape[0]:
            out[token] = (q[token].float() @ seen.t() * scale).softmax(-1) @ seen[:, : cases.LATENT]
    return out.to(torch.bfloat16)


def module_of_flash_mla(kind):
    def attend(q, cache, table, lengths, width, metadata, _, scale, causal, use_legacy, **options):
        assert cache.shape[1:] == (64, 1, 576) and width == 512 and use_legacy and metadata is not None
        assert q.dtype == cache.dtype == kind and table.dtype == lengths.dtype == torch.int32
        assert bool(options.get("is_fp8_kvcache")) == (kind == inputs.E4M3)
        sequence = lambda i: cache[table[i].long()].view(-1, 576)
        attended = (attention(q[i], sequence(i), int(lengths[i]), scale, causal) for i in range(q.shape[0]))
        return torch.stack(list(attended)), None

    interface = types.SimpleNamespace(FlashMLASchedMeta=types.SimpleNamespace)
    return types.SimpleNamespace(
        get_mla_metadata=lambda: ("schedule", None), flash_mla_interface=interface, flash_mla_with_kvcache=attend,
        get_mla_decoding_metadata=lambda lengths, rows, kv_heads, is_fp8_kvcache, use_legacy: ("schedule", "splits"),
    )  # fmt: skip


def module_of_fa3():
    def attend(q_rope, k, v, qv, cache_seqlens, softmax_scale, causal, num_splits, scheduler_metadata):
        assert scheduler_metadata == "schedule" and k.shape[:2] == v.shape[:2] and num_splits == 0
        keys, q = torch.cat([v, k], -1)[:, :, 0], torch.cat([qv, q_rope], -1)
        lengths = cache_seqlens.tolist()
        return torch.stack([attention(*each, softmax_scale, causal) for each in zip(q, keys, lengths)])

    return types.SimpleNamespace(flash_attn_with_kvcache=attend, get_scheduler_metadata=lambda *_, **__: "schedule")


class Layouts(unittest.TestCase):
    @contextlib.contextmanager
    def with_modules(self, **modules):
        with mock.patch.dict(sys.modules, modules):
            yield

    def judge(self, library, case):
        operands = inputs.draw(case, "name", "cpu")
        run, result = library.prepare(case, operands)
        self.assertIsNotNone(library.instance(case))
        self.assertLess(reference.expected(case, operands).worst(result(run())), 1, case)

    def test_cublaslt_gets_four_rows_and_lines_at_a_time(self):
        with mock.patch("torch.nn.functional.scaled_mm", scaled_mm):
            for case in (*GEMMS, cases.Gemm(1, 16, 128, "f32"), RAGGED):
                self.judge(torch_cublaslt, case)

    def test_deep_gemm_gets_blocks_of_experts(self):
        with self.with_modules(deep_gemm=module_of_deep_gemm()):
            for case in (*GEMMS, RAGGED, LONG, cases.Grouped(LONG.rows, LONG.n, LONG.k, True)):
                self.judge(deep_gemm, case)

    def test_attention_gets_pages_or_none(self):
        for tokens, causal in [(1, False), (3, True), (2, False)]:
            step = cases.Decode("bf16", (70, 0, 200), tokens, 4, causal)
            with self.with_modules(flash_mla=module_of_flash_mla(torch.bfloat16)):
                self.judge(flash_mla, step)
            with mock.patch("libraries.load", lambda _: module_of_fa3()):
                self.judge(fa3, step)
            module = module_of_flash_mla(inputs.E4M3)
            with self.with_modules(
                **{"flash_mla": module, "flash_mla.flash_mla_interface": module.flash_mla_interface}
            ):
                self.judge(flash_mla, cases.Decode("fp8_per_tensor", (70, 0, 200), tokens, 4, causal))


if __name__ == "__main__":
    unittest.main()
