"""Inputs and references, against PyTorch's own products and attention on a CPU."""

import importlib.util
import os
import subprocess
import sys
import unittest

import cases

try:
    import torch

    import inputs
    import reference
    from libraries import deep_gemm
except ImportError as error:
    raise unittest.SkipTest(f"PyTorch is not here: {error}") from None


def dequantised(codes, scales, block_rows):
    wide = scales.double().repeat_interleave(block_rows, 0)[: codes.shape[0]].repeat_interleave(128, 1)
    return codes.double() * wide[:, : codes.shape[1]]


class Products(unittest.TestCase):
    def test_codes_and_scales_are_the_data(self):
        x = torch.randn(1, 70, 400)
        for rows in (1, 128):
            codes, scales = inputs.quantised(x, rows)
            self.assertEqual((codes.shape, scales.shape), ((1, 70, 400), (1, -(-70 // rows), 4)))
            self.assertLessEqual((dequantised(codes[0], scales[0], rows) - x[0]).abs().max(), 2**-4 * x.abs().max())
            self.assertEqual(codes.float().abs().max(), 448)

    def test_a_case_gets_the_same_operands_each_time_and_sets_have_their_own_memory(self):
        case = cases.Gemm(5, 136, 256, "bf16")
        first, second = (inputs.draw(case, "name", "cpu") for _ in range(2))
        self.assertTrue(torch.equal(first.a.float(), second.a.float()))
        copy = first.clone()
        self.assertTrue(torch.equal(first.b.float(), copy.b.float()))
        self.assertNotEqual(first.b.data_ptr(), copy.b.data_ptr())
        self.assertFalse(torch.equal(first.a.float(), inputs.draw(case, "other", "cpu").a.float()))

    def test_products_of_experts_are_theirs(self):
        case = cases.Grouped((3, 0, 70, 1), 136, 400)
        operands = inputs.draw(case, "name", "cpu")
        begin, exact = 0, []
        for expert, count in enumerate(case.rows):
            rows = slice(begin, begin + count)
            left = dequantised(operands.a[rows], operands.sfa[rows], 1)
            exact.append(left @ dequantised(operands.b[expert], operands.sfb[expert], 128).t())
            begin += count
        exact = torch.cat(exact)
        expected = reference.expected(case, operands)
        self.assertTrue(torch.allclose(exact[expected.rows], expected.value, rtol=1e-9))
        self.assertEqual((expected.rows.min(), expected.rows.max()), (0, 73))
        self.assertLess(expected.worst(exact.to(torch.bfloat16)), 1)

    def test_a_wrong_element_a_lost_block_and_another_scale_are_wrong(self):
        case = cases.Gemm(40, 136, 2048, "bf16")
        operands = inputs.draw(case, "name", "cpu")
        expected = reference.expected(case, operands)
        exact = dequantised(operands.a, operands.sfa, 1) @ dequantised(operands.b[0], operands.sfb[0], 128).t()
        self.assertLess(expected.worst(exact.to(torch.bfloat16)), 1)
        wrong = exact.clone()
        wrong[39, 135] = 0
        self.assertGreater(expected.worst(wrong), 1)
        short = (
            dequantised(operands.a, operands.sfa, 1)[:, 128:]
            @ dequantised(operands.b[0], operands.sfb[0], 128)[:, 128:].t()
        )
        self.assertGreater(expected.worst(short), 1)
        self.assertGreater(expected.worst(exact * 1.0625), 1)
        self.assertEqual(expected.worst(exact * float("nan")), float("inf"))

    def test_an_fp32_result_has_no_room_for_a_rounding_to_bf16(self):
        operands = inputs.draw(cases.Gemm(4, 8, 128, "f32"), "name", "cpu")
        wide, narrow = (reference.product(operands, output) for output in ("f32", "bf16"))
        self.assertTrue((wide.bound < narrow.bound).all())

    def test_padding_is_nobodys(self):
        self.assertEqual(list(reference.spread(5, 8, "cpu")), [0, 1, 2, 3, 4])
        self.assertEqual(list(reference.spread(4096, 3, "cpu")), [0, 2047, 4095])
        self.assertEqual(list(reference.spread(9, 1, "cpu")), [0])
        self.assertEqual(deep_gemm.padded_rows((1,))[0], [128])


IN_TRITONS_INTERPRETER = """
import cases, inputs, reference
from libraries import triton_gemm
for case in (cases.Gemm(70, 136, 400, "f32"), cases.Gemm(1, 200, 128, "f32")):
    operands = inputs.draw(case, "name", "cpu")
    run, result = triton_gemm.prepare(case, operands)
    print(reference.expected(case, operands).worst(result(run())) < 1)
"""


class Triton(unittest.TestCase):
    @unittest.skipUnless(importlib.util.find_spec("triton"), "Triton is not here")
    def test_the_kernel_is_right_at_every_border(self):
        """In a process of its own: Triton asks once whether it is to interpret. Of FP32 D, for the interpreter rounds BF16 in
        a way of its own."""
        environment = {
            **os.environ,
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.path.dirname(os.path.abspath(cases.__file__)),
        }
        command = [sys.executable, "-c", IN_TRITONS_INTERPRETER]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        self.assertEqual(done.stdout, "True\nTrue\n", done)


class Attention(unittest.TestCase):
    def attend(self, operands, case, shift=0):
        """By PyTorch's attention in FP32."""
        out = torch.zeros(len(case.lengths), case.q_tokens, case.heads, cases.LATENT)
        for sequence, length in enumerate(case.lengths):
            keys = operands.keys(sequence).float()[: max(0, length - shift)]
            if not keys.shape[0]:
                continue
            seen = torch.arange(keys.shape[0]) <= torch.arange(case.q_tokens)[:, None] + length - case.q_tokens
            mask = seen if case.causal else torch.ones_like(seen)
            q = operands.q[sequence].float().transpose(0, 1)
            shared = keys.expand(case.heads, *keys.shape)
            attended = torch.nn.functional.scaled_dot_product_attention(
                q, shared, shared[..., : cases.LATENT], attn_mask=mask, scale=cases.SOFTMAX_SCALE
            )
            out[sequence] = torch.nan_to_num(attended).transpose(0, 1)
        return out

    def test_right_is_within_the_bound_and_a_lost_key_is_not(self):
        for cache in ("bf16", "fp8_per_tensor"):
            for tokens, causal, lengths in [(1, False, (70, 0, 200)), (3, True, (70, 2, 64)), (2, False, (65, 1))]:
                case = cases.Decode(cache, lengths, tokens, 4, causal)
                operands = inputs.draw(case, "name", "cpu")
                expected = reference.expected(case, operands)
                right = self.attend(operands, case)
                self.assertLess(expected.worst(right.to(torch.bfloat16)), 1, case)
                self.assertGreater(expected.worst(self.attend(operands, case, shift=1)), 1, case)
                self.assertGreater(expected.worst(right.flip(-1)), 1, case)

    def test_e4m3_weights_of_many_keys_are_told_from_nothing(self):
        case = cases.Decode("fp8_per_tensor", (4096,), 1, 2, False)
        operands = inputs.draw(case, "name", "cpu")
        expected = reference.expected(case, operands)
        keys = operands.keys(0).float()
        p = torch.exp((operands.q[0].float() @ keys.t() * cases.SOFTMAX_SCALE).sub(0.2))
        rounded = p.to(inputs.E4M3).float() @ keys[:, : cases.LATENT] / p.sum(-1, keepdim=True)
        self.assertLess(expected.worst(rounded[None].to(torch.bfloat16)), 1)
        self.assertGreater(expected.worst(torch.zeros_like(rounded[None])), 1)

    def test_pages_lie_in_no_order(self):
        case = cases.Decode("bf16", (640,), 1, 1, False)
        table = inputs.draw(case, "name", "cpu").table
        self.assertEqual(sorted(table[0].tolist()), list(range(10)))
        self.assertNotEqual(table[0].tolist(), list(range(10)))


if __name__ == "__main__":
    unittest.main()
