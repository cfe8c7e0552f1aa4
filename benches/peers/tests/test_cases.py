"""Names and shapes."""

import unittest

import cases
import libraries


class Names(unittest.TestCase):
    def test_a_gemm_is_its_three_sizes_and_its_type(self):
        self.assertEqual(cases.parse("fp8_gemm", "64x2112x7168_bf16"), cases.Gemm(64, 2112, 7168, "bf16"))
        self.assertEqual(cases.parse("fp8_gemm", "1x8x128_f32"), cases.Gemm(1, 8, 128, "f32"))

    def test_experts_are_spread_as_ours_are_or_listed(self):
        spread = cases.parse("grouped_fp8_gemm", "8x4096x7168x2048")
        self.assertEqual(spread.rows, (2867, 4382, 3399, 4915, 3932, 2949, 4464, 3481))
        self.assertEqual((spread.n, spread.k), (7168, 2048))
        self.assertEqual(cases.parse("grouped_fp8_gemm", "67+0+1+63x136x640").rows, (67, 0, 1, 63))
        self.assertEqual(cases.parse("grouped_fp8_gemm", "2x100x8x128_masked"), cases.Grouped((70, 107), 8, 128, True))
        self.assertEqual(cases.parse("grouped_fp8_gemm", "67x136x640").rows, (67,))

    def test_sequences_have_the_keys_of_the_label_or_of_the_shape(self):
        read = lambda label, shape="": cases.parse("mla_decode_bf16", label, shape)
        self.assertEqual(read("b2q1s4096h128"), cases.Decode("bf16", (4096, 4096), 1, 128, False))
        varied = read("b4q4s0-45118h16", "4 x 16 x 0+45118+1730+1696")
        self.assertEqual((varied.lengths, varied.causal), ((0, 45118, 1730, 1696), True))
        self.assertFalse(read("b2q2s64h16_full").causal)
        self.assertTrue(read("b2q1s64h16_causal").causal)
        self.assertEqual(cases.parse("mla_decode_fp8_per_tensor", "b1q1s1h1").cache, "fp8_per_tensor")

    def test_what_nobody_else_runs_says_why(self):
        for operation, label, why in [
            ("rms_norm", "64x7168", "it is no operation that others have"),
            ("fp8_gemm", "64x8x128_f32_accumulate", "adds to D"),
            ("fp8_gemm", "64x8x128_bf16_fp8_gemm_m64_n16_c1_bf16", "the planner would choose"),
            ("fp8_gemm", "64x8_bf16", "expected a label like"),
            ("fp8_gemm", "", "expected a label like"),
            ("grouped_fp8_gemm", "2x64x8x128_grouped_fp8_gemm_m64_n128_c1_bf16", "the planner would choose"),
            ("grouped_fp8_gemm", "+x8x128", "expected a label like"),
            ("mla_decode_bf16", "b2q1s64h16_split64", "the planner would choose"),
            ("mla_decode_bf16", "b2q1s64h16_c1", "the planner would choose"),
            ("mla_decode_bf16", "b2q4s64h16_packed", "packs query tokens"),
            ("mla_decode_bf16", "b2q1s64h16_nope", "without a position"),
            ("mla_decode_bf16", "b2q1s0-64h16", "are not known"),
            ("mla_decode_bf16", "64x64", "expected a label like"),
        ]:
            with self.assertRaises(cases.NoCase, msg=label) as raised:
                cases.parse(operation, label)
            self.assertIn(why, str(raised.exception))

    def test_operations_are_chosen_as_bench_does(self):
        there = {"fp8_gemm", "grouped_fp8_gemm", "mla_decode_bf16", "mla_decode_fp8", "mla_decode_fp8_per_tensor"}
        chosen = lambda name: {operation for operation in there if cases.matches(operation, name, there)}
        self.assertEqual(chosen("mla_decode"), {"mla_decode_bf16", "mla_decode_fp8", "mla_decode_fp8_per_tensor"})
        self.assertEqual(chosen("mla_decode_fp8"), {"mla_decode_fp8"})
        self.assertEqual(chosen("gemm"), set())

    def test_a_shape_is_found_whole_or_in_part_and_no_number_is_cut(self):
        for text, found in [
            ("200 x 2112 x 256", True),
            ("200X2112\u00d7256", True),
            ("200x2112x256_bf16", True),
            ("2112x256", True),
            ("112x256", False),
            ("2112x25", False),
            ("", False),
        ]:
            self.assertEqual(cases.has_shape("200x2112x256_bf16", "200 x 2112 x 256", text), found, text)


class Libraries(unittest.TestCase):
    def test_each_case_has_the_libraries_that_take_it(self):
        for operation, label, takers in [
            ("fp8_gemm", "64x2112x7168_bf16", "deep_gemm torch triton"),
            ("fp8_gemm", "64x2112x7168_f32", "torch triton"),
            ("grouped_fp8_gemm", "8x64x2112x7168", "deep_gemm torch"),
            ("mla_decode_bf16", "b2q1s64h16", "flash_mla fa3"),
            ("mla_decode_fp8", "b2q1s64h16", ""),
            ("mla_decode_fp8_per_tensor", "b2q1s64h16", "flash_mla"),
        ]:
            case = cases.parse(operation, label)
            self.assertEqual([peer.WHO for peer in libraries.ALL if peer.instance(case)], takers.split(), label)

    def test_the_first_module_that_is_there_is_loaded(self):
        import json

        self.assertIs(libraries.load(("no_such_module", "json")), json)
        self.assertIs(libraries.load(("json", "no_such_module")), json)
        with self.assertRaises(ModuleNotFoundError):
            libraries.load(("no_such_module", "nor_this"))

    def test_rows_are_padded_to_128_and_few_are_masked(self):
        from libraries.deep_gemm import padded_rows

        self.assertEqual(padded_rows((0, 1, 128, 129)), ([256] * 4, True))
        self.assertEqual(padded_rows((1000, 100)), ([1024, 128], False))
        self.assertEqual(padded_rows((1000, 100), True), ([1024, 1024], True))
        self.assertEqual(padded_rows(()), ([], False))


if __name__ == "__main__":
    unittest.main()
