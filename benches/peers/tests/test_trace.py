"""The Trace format: out, in, and back."""

import contextlib
import io
import json
import os
import subprocess
import sys
import unittest

import cases
import flashinfer_trace as trace
import record
import trace_data
from tests.test_record import BOTH, OURS, Folder

try:
    import torch
except ImportError:
    torch = None

DTYPES = "float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 bool".split()
STATUSES = {"PASSED": (True, True), "INCORRECT_NUMERICAL": (True, False)}


def quietly(act, *words):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        act(*words)
    return printed.getvalue()


class Trace(Folder):
    def export(self, ours=OURS):
        self.printed = quietly(trace.export, ours, self.folder.name)
        return self.folder.name

    def objects(self, part, ending):
        for path in trace_data.files(os.path.join(self.folder.name, part), ending):
            for text in self.text(path).splitlines() if ending == "jsonl" else [self.text(path)]:
                yield path, json.loads(text)

    def test_definitions_say_all_that_the_format_asks_for(self):
        self.export()
        names = []
        for path, definition in self.objects("definitions", "json"):
            names.append(definition["name"])
            self.assertEqual(
                path, os.path.join(self.folder.name, "definitions", definition["op_type"], names[-1] + ".json")
            )
            trace_data.definition_of(path, definition)
            self.assertFalse(set(definition["inputs"]) & set(definition["outputs"]))
            for spec in (definition["inputs"] | definition["outputs"]).values():
                self.assertIn(spec["dtype"], DTYPES)
            reference = compile(definition["reference"], path, "exec")
            self.assertIn("run", reference.co_names)
        self.assertEqual(
            names,
            [
                "gemm_fp8_block_scaled_grouped_g4_n136_k640",
                "gemm_fp8_block_scaled_grouped_g8_n7168_k2048",
                "gemm_fp8_block_scaled_n2112_k7168",
                "gemm_fp8_block_scaled_n7168_k2048",
                "gemm_fp8_block_scaled_n8_k128",
                "mla_paged_decode_joined_h128_ckv512_kpe64_ps64",
                "mla_paged_decode_joined_h16_ckv512_kpe64_ps64",
                "moe_fp8_block_scale_router_topk8_ng8_kg4_e256_h7168_i2048",
            ],
        )
        self.assertIn("8 definitions, 8 workloads, 7 traces", self.printed)
        self.assertIn("not exported: 1 of rms_norm: it is no operation that others have", self.printed)

    def test_workloads_bind_every_axis_and_every_input(self):
        self.export()
        definitions = {definition["name"]: definition for _, definition in self.objects("definitions", "json")}
        workloads = list(self.objects("workloads", "jsonl"))
        for path, line in workloads:
            definition = definitions[line["definition"]]
            var = {name for name, axis in definition["axes"].items() if axis["type"] == "var"}
            self.assertEqual(set(line["workload"]["axes"]), var)
            self.assertEqual(set(line["workload"]["inputs"]), set(definition["inputs"]))
            self.assertEqual((line["solution"], line["evaluation"]), (None, None))
            bound = trace_data.Bound(self.folder.name, path, definition, line["workload"])
            for name, given in line["workload"]["inputs"].items():
                if given["type"] == "safetensors":
                    size = 1
                    for axis in bound.shape(name):
                        size *= axis
                    self.assertEqual(len(bound.integers(name)), size)
                self.assertEqual(given["type"] == "scalar", definition["inputs"][name]["shape"] is None)
        self.assertEqual(len({line["workload"]["uuid"] for _, line in workloads}), len(workloads))

    def test_traces_have_what_their_status_asks_for(self):
        self.export(BOTH)
        solutions = set()
        for _, line in self.objects("traces", "jsonl"):
            told = line["evaluation"]
            solutions.add((line["solution"], told["status"]))
            wanted = STATUSES[told["status"]]
            self.assertEqual((told["correctness"] is not None, told["performance"] is not None), wanted)
            self.assertEqual(told["environment"]["hardware"], "NVIDIA H100 80GB HBM3")
        self.assertIn(("deep_gemm_1d2d", "PASSED"), solutions)
        self.assertIn(("torch_cublaslt_blockwise", "INCORRECT_NUMERICAL"), solutions)
        self.assertFalse([solution for solution, _ in solutions if solution.startswith("fa3") or " " in solution])
        first = next(
            line for _, line in self.objects("traces", "jsonl") if line["solution"].endswith("m64_n16_c1_bf16")
        )
        self.assertAlmostEqual(first["evaluation"]["performance"]["latency_ms"], 11e-3)

    def test_without_a_gpu_there_are_no_traces(self):
        held = record.load(OURS)
        for kind in ("emulated", "fake_gpu"):
            ours = self.path("ours.json", json.dumps(held | {"device": held["device"] | {"kind": kind}}))
            self.export(ours)
            self.assertIn("8 workloads, 0 traces", self.printed)

    def test_what_went_out_comes_back(self):
        found, skipped = trace.imported(self.export())
        self.assertEqual(skipped, {})
        ours = {}
        for row in record.load(OURS)["rows"]:
            with contextlib.suppress(cases.NoCase):
                trace.exported(row)
                ours[row["operation"], row["shape"].replace(" ", "")] = row
        back = {(case["op"], case["shape"].replace(" ", "")) for case in found}
        spread = "+".join(map(str, cases.spread(8, 4096)))
        asked = {
            (op, shape.replace("8x4096x", spread + "x") if op.startswith("grouped") else shape) for op, shape in ours
        }
        self.assertEqual(back, asked)
        again, _ = trace.imported(self.export())
        self.assertEqual(found, again)

    def definition(self, name, op_type, axes, inputs, out):
        axes = {
            axis: {"type": "var"} if size is None else {"type": "const", "value": size} for axis, size in axes.items()
        }
        tensors = {key: {"shape": shape and shape.split(), "dtype": dtype} for key, (shape, dtype) in inputs.items()}
        outputs = {"out": {"shape": out.split(), "dtype": "bfloat16"}}
        value = {"name": name, "op_type": op_type, "axes": axes, "inputs": tensors, "outputs": outputs}
        record.save(self.path(f"definitions/{op_type}/{name}.json"), value | {"reference": "def run(): pass"})

    def workload(self, name, axes, inputs):
        line = {"definition": name, "workload": {"axes": axes, "inputs": inputs, "uuid": f"of {name}"}}
        record.save(self.path(f"workloads/{name}.jsonl"), line)

    def test_workloads_of_others_are_our_cases(self):
        """With inputs called and laid out as FlashInfer's definitions have them."""
        e4m3, f32 = "float8_e4m3fn", "float32"
        axes = {"M": None, "N": 1536, "K": 7168, "KB": None, "NB": None}
        inputs = {"a": ("M K", e4m3), "b": ("N K", e4m3), "a_scale": ("M KB", f32), "b_scale": ("KB NB", f32)}
        self.definition("groupwise", "gemm_fp8", axes, inputs, "M N")
        self.workload("groupwise", {"M": 17, "KB": 56, "NB": 12}, {})
        half = {"A": ("M K", "float16"), "B": ("N K", "float16")}
        self.definition("half", "gemm", {"M": None, "N": 1536, "K": 7168}, half, "M N")
        self.workload("half", {"M": 17}, {})
        rows = {"a": ("M K", e4m3), "b": ("N K", e4m3), "a_scale": ("M", f32), "b_scale": ("N", f32)}
        self.definition("by_row", "gemm", {"M": None, "N": 1536, "K": 7168}, rows, "M N")
        self.workload("by_row", {"M": 17}, {})
        axes = {"M": None, "G": 2, "N": 128, "K": 128, "B": 1}
        grouped = {
            "a": ("M K", e4m3),
            "b": ("G N K", e4m3),
            "as": ("M B", f32),
            "bs": ("G B B", f32),
            "m": ("M", "int32"),
        }
        self.definition("grouped", "gemm_fp8", axes, grouped, "M N")
        trace_data.save_tensors(self.path("blob/m"), {"m": ([5], [0, 0, 0, 1, 1])})
        given = lambda path, key: {"type": "safetensors", "path": path, "tensor_key": key}
        self.workload("grouped", {"M": 5}, {"m": given("blob/m", "m")})
        for page in (1, 64):
            axes = {"batch": None, "h": 16, "ckv": 512, "kpe": 64, "pages": None, "page": page, "len": None, "n": None}
            inputs = {
                "q_nope": ("batch h ckv", "bfloat16"), "q_pe": ("batch h kpe", "bfloat16"),
                "ckv_cache": ("pages page ckv", "bfloat16"), "kpe_cache": ("pages page kpe", "bfloat16"),
                "kv_indptr": ("len", "int32"), "kv_indices": ("n", "int32"), "sm_scale": (None, f32),
            }  # fmt: skip
            if page > 1:
                inputs["kv_last_page_len"] = ("batch", "int32")
            self.definition(f"mla{page}", "mla_paged", axes, inputs, "batch h ckv")
            tensors = {"kv_indptr": ([4], [0, 3, 3, 10]), "kv_last_page_len": ([3], [7, 0, 64])}
            trace_data.save_tensors(self.path("blob/mla"), tensors)
            lists = {name: given("blob/mla", name) for name in tensors}
            self.workload(f"mla{page}", {"batch": 3, "pages": 10, "len": 4, "n": 10}, lists)
        axes = {"seq_len": None, "E": 256, "L": 32, "H": 7168, "I2": 4096}
        inputs = {"hidden_states": ("seq_len H", e4m3), "gemm1_weights": ("L I2 H", e4m3)}
        self.definition("moe", "moe", axes, inputs, "seq_len H")
        self.workload("moe", {"seq_len": 19}, {})
        self.workload("stray", {}, {})
        found, skipped = trace.imported(self.folder.name)
        self.assertEqual(
            {case["definition"]: (case["op"], case["shape"]) for case in found},
            {
                "groupwise": ("fp8_gemm", "17 x 1536 x 7168"),
                "grouped": ("grouped_fp8_gemm", "3+2 x 128 x 128"),
                "mla1": ("mla_decode_bf16", "1 x 16 x 3+0+7"),
                "mla64": ("mla_decode_bf16", "1 x 16 x 135+0+448"),
                "moe": ("moe_layer", "19 x 2048 x 7168"),
            },
        )
        self.assertEqual(
            skipped,
            {
                "half: it is no product of E4M3": 1,
                "by_row: its scales are not those of blocks": 1,
                "stray: it is not defined": 1,
            },
        )

    def start(self, *words):
        script = os.path.abspath(trace.__file__)
        return subprocess.run([sys.executable, script, *words], capture_output=True, text=True)

    def fails(self, said, *words):
        done = self.start(*words)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done)
        self.assertIn(said, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_bad_files_are_a_line_and_code_2(self):
        root = self.folder.name
        self.fails("holds no definitions", "import", self.path("nowhere"))
        self.fails("No such file", "export", "--ours", self.path("nowhere"), "--to", root)
        self.path("file", "")
        self.fails("Not a directory", "export", "--ours", OURS, "--to", self.path("file/below"))
        self.export()
        good = self.path("workloads/gemm/gemm_fp8_block_scaled_n2112_k7168.jsonl")
        line = json.loads(self.text(good))
        table = next(path for path in trace_data.files(self.path("workloads/mla_paged"), "jsonl"))
        step = json.loads(self.text(table))
        outside = {"seq_lens": {"type": "safetensors", "path": "../../etc/passwd", "tensor_key": "seq_lens"}}
        for said, path, text in [
            ("jsonl:1 is no JSON", good, "{"),
            ("jsonl:1 is no object", good, "[]"),
            ("jsonl:1 is no workload", good, json.dumps(line | {"workload": None})),
            ("it has no uuid", good, json.dumps(line | {"workload": {"axes": {}, "inputs": {}}})),
            ("an axis is no size", good, json.dumps(line | {"workload": line["workload"] | {"axes": {"M": -1}}})),
            ("has no size of M", good, json.dumps(line | {"workload": line["workload"] | {"axes": {}}})),
            ("lies outside", table, json.dumps(step | {"workload": step["workload"] | {"inputs": outside}})),
        ]:
            before = self.text(path)
            self.path(path, text)
            self.fails(said, "import", root)
            self.path(path, before)
        blob = next(path for path in trace_data.files(self.path("blob"), "safetensors"))
        for data in (b"", b"\0" * 8, b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}"):
            with open(blob, "wb") as file:
                file.write(data)
            self.fails("holds no integers", "import", root)
        definition = self.path("definitions/gemm/gemm_fp8_block_scaled_n2112_k7168.json")
        held = json.loads(self.text(definition))
        for said, changed in [
            ("is no definition", {}),
            ("neither var nor const", held | {"axes": {"M": {"type": "const"}}}),
            ("has the axis M, which is not defined", held | {"axes": {}}),
            ("has no dtype", held | {"inputs": {"a": {}}}),
        ]:
            self.path(definition, json.dumps(changed))
            self.fails(said, "import", root)

    def test_a_list_can_go_to_a_file(self):
        root = self.export()
        done = self.start("import", root)
        self.assertEqual(done.returncode, 0, done)
        out = self.path("list.json")
        self.assertEqual(self.start("import", root, "--json", out).returncode, 0)
        self.assertEqual(json.loads(self.text(out)), json.loads(done.stdout))


@unittest.skipUnless(torch, "PyTorch is not here")
class References(unittest.TestCase):
    """The code in the definitions, on a CPU."""

    @staticmethod
    def run_of(name):
        scope = {}
        with open(os.path.join(trace.FOLDER, name)) as file:
            exec(file.read(), scope)
        return scope["run"]

    def test_products_are_those_of_our_reference(self):
        import inputs
        import reference

        for case in (cases.Gemm(5, 136, 400, "bf16"), cases.Grouped((3, 0, 4), 136, 400)):
            operands = inputs.draw(case, "name", "cpu")
            expected = reference.expected(case, operands)
            lines = operands.sfa.t().contiguous()
            if isinstance(case, cases.Gemm):
                out = self.run_of("gemm.py")(operands.a, operands.b[0], lines, operands.sfb[0])
            else:
                out = self.run_of("grouped.py")(operands.a, operands.b, lines, operands.sfb, torch.tensor([0, 3, 3, 7]))
            self.assertLess(expected.worst(out), 1)

    def test_attention_is_that_of_our_reference(self):
        import inputs
        import reference

        case = cases.Decode("bf16", (70, 0, 2), 3, 4, True)
        operands = inputs.draw(case, "name", "cpu")
        cache = operands.cache[:, :, 0]
        out, lse = self.run_of("mla.py")(operands.q, cache, operands.table, operands.lengths, cases.SOFTMAX_SCALE)
        self.assertLess(reference.expected(case, operands).worst(out), 1)
        self.assertEqual(lse[1].max(), float("-inf"))

    def test_a_layer_routes_its_tokens(self):
        """Where each expert's second product is a multiple of the identity, the weights of a token add up to the factor."""
        tokens, hidden, width, experts = 5, 128, 128, 16
        one = torch.ones
        e4m3 = lambda x: x.to(torch.float8_e4m3fn)
        x = torch.randn(tokens, hidden).to(torch.bfloat16)
        first = e4m3(torch.cat([torch.eye(width), torch.eye(width)]).repeat(experts, 1, 1))
        arguments = (
            x, torch.randn(experts, hidden), torch.randn(experts), first, one(experts, 2, 1),
            e4m3(torch.eye(hidden).repeat(experts, 1, 1)), one(experts, 1, 1),
        )  # fmt: skip
        shared, residual = torch.zeros(tokens, hidden), one(tokens, hidden)
        out = self.run_of("moe.py")(*arguments, shared, residual, 2.5)
        expected = 1 + 2.5 * torch.nn.functional.silu(x.float()) * x.float()
        self.assertEqual(out.dtype, torch.bfloat16)
        self.assertTrue(torch.allclose(out.float(), expected, rtol=0.15, atol=0.05))


if __name__ == "__main__":
    unittest.main()
