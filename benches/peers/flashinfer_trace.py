"""FlashInfer-Bench's Trace format: our cases and results as its definitions, workloads and traces, and its workloads as our
cases.

    python benches/peers/flashinfer_trace.py export --ours ours.json --to DIR
    python benches/peers/flashinfer_trace.py import DIR [--json FILE]

Exit code: 0, or 2 for usage and files that cannot be read or written.
"""

import argparse
import datetime
import json
import os
import random
import sys
import uuid

import cases
import record
from trace_data import BadTrace, definition_of, load_lines, load_object, save_tensors, shape_of

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "definitions")
RANDOM = {"type": "random"}


def var(description):
    return {"type": "var", "description": description}


def const(value):
    return {"type": "const", "value": value}


def tensor(dtype, *shape):
    return {"shape": list(shape) if shape else None, "dtype": dtype}


def define(name, op_type, source, axes, inputs, outputs):
    with open(os.path.join(FOLDER, source), encoding="utf-8") as file:
        reference = file.read()
    parts = {"axes": axes, "inputs": inputs, "outputs": outputs, "reference": reference}
    return {"name": name, "op_type": op_type, "tags": ["status:unverified"], **parts}


def blocks(length):
    return -(-length // 128)


class Exported:
    """A case: its definition, the workload's axes and inputs, and tensors that are not random."""

    def __init__(self, definition, axes, tensors=None, scalars=None):
        self.definition, self.axes, self.tensors = definition, axes, tensors or {}
        self.inputs = {name: RANDOM for name in definition["inputs"]}
        self.inputs |= {name: {"type": "scalar", "value": value} for name, value in (scalars or {}).items()}


def matrices(n, k, *before):
    """Inputs of a product with block scales."""
    return {
        "a": tensor("float8_e4m3fn", "M", "K"),
        "b": tensor("float8_e4m3fn", *before, "N", "K"),
        "a_scale": tensor("float32", "K_blocks", "M"),
        "b_scale": tensor("float32", *before, "N_blocks", "K_blocks"),
    }, {"M": var("rows"), "N": const(n), "K": const(k), "N_blocks": const(blocks(n)), "K_blocks": const(blocks(k))}


def gemm(case):
    if case.output != "bf16":
        raise cases.NoCase("its result is FP32")
    inputs, axes = matrices(case.n, case.k)
    outputs = {"out": tensor("bfloat16", "M", "N")}
    name = f"gemm_fp8_block_scaled_n{case.n}_k{case.k}"
    return Exported(define(name, "gemm", "gemm.py", axes, inputs, outputs), {"M": case.m})


def grouped(case):
    if case.masked:
        raise cases.NoCase("its experts have room between their rows")
    inputs, axes = matrices(case.n, case.k, "num_groups")
    axes |= {"num_groups": const(len(case.rows)), "len_offsets": const(len(case.rows) + 1)}
    inputs["offsets"] = tensor("int32", "len_offsets")
    outputs = {"out": tensor("bfloat16", "M", "N")}
    name = f"gemm_fp8_block_scaled_grouped_g{len(case.rows)}_n{case.n}_k{case.k}"
    definition = define(name, "gemm", "grouped.py", axes, inputs, outputs)
    offsets = [sum(case.rows[:expert]) for expert in range(len(case.rows) + 1)]
    return Exported(definition, {"M": sum(case.rows)}, {"offsets": ([len(offsets)], offsets)})


def decode(case):
    if case.cache != "bf16":
        raise cases.NoCase("its cache is no BF16")
    if case.q_tokens > 1 and not case.causal:
        raise cases.NoCase("its query tokens see all keys")
    axes = {
        "batch_size": var("sequences"), "q_tokens": var("query tokens of a sequence"), "num_pages": var("pages"),
        "max_pages": var("pages of the longest sequence"), "num_qo_heads": const(case.heads),
        "head_dim_qk": const(cases.KEY), "head_dim_ckv": const(cases.LATENT), "page_size": const(cases.PAGE),
    }  # fmt: skip
    inputs = {
        "q": tensor("bfloat16", "batch_size", "q_tokens", "num_qo_heads", "head_dim_qk"),
        "kv_cache": tensor("bfloat16", "num_pages", "page_size", "head_dim_qk"),
        "block_table": tensor("int32", "batch_size", "max_pages"),
        "seq_lens": tensor("int32", "batch_size"),
        "sm_scale": tensor("float32"),
    }
    out = ("batch_size", "q_tokens", "num_qo_heads")
    outputs = {"output": tensor("bfloat16", *out, "head_dim_ckv"), "lse": tensor("float32", *out)}
    name = f"mla_paged_decode_joined_h{case.heads}_ckv{cases.LATENT}_kpe{cases.ROPE}_ps{cases.PAGE}"
    batch, columns = len(case.lengths), max(1, -(-max(case.lengths) // cases.PAGE))
    pages = list(range(batch * columns))
    random.Random(1).shuffle(pages)
    sizes = {"batch_size": batch, "q_tokens": case.q_tokens, "num_pages": batch * columns, "max_pages": columns}
    tensors = {"block_table": ([batch, columns], pages), "seq_lens": ([batch], case.lengths)}
    definition = define(name, "mla_paged", "mla.py", axes, inputs, outputs)
    return Exported(definition, sizes, tensors, {"sm_scale": cases.SOFTMAX_SCALE})


def moe(label):
    tokens, hidden, width = cases.moe_layer(label)
    experts = 256
    axes = {"seq_len": var("tokens")} | {
        name: const(value)
        for name, value in {
            "num_experts": experts, "hidden_size": hidden, "intermediate_size": width, "gemm1_out_size": 2 * width,
            "num_hidden_blocks": blocks(hidden), "num_intermediate_blocks": blocks(width),
            "num_gemm1_out_blocks": 2 * blocks(width),
        }.items()
    }  # fmt: skip
    rows = ("seq_len", "hidden_size")
    inputs = {
        "hidden_states": tensor("bfloat16", *rows),
        "router_weight": tensor("float32", "num_experts", "hidden_size"),
        "routing_bias": tensor("float32", "num_experts"),
        "gemm1_weights": tensor("float8_e4m3fn", "num_experts", "gemm1_out_size", "hidden_size"),
        "gemm1_weights_scale": tensor("float32", "num_experts", "num_gemm1_out_blocks", "num_hidden_blocks"),
        "gemm2_weights": tensor("float8_e4m3fn", "num_experts", "hidden_size", "intermediate_size"),
        "gemm2_weights_scale": tensor("float32", "num_experts", "num_hidden_blocks", "num_intermediate_blocks"),
        "shared_output": tensor("bfloat16", *rows),
        "residual": tensor("bfloat16", *rows),
        "routed_scaling_factor": tensor("float32"),
    }
    name = f"moe_fp8_block_scale_router_topk8_ng8_kg4_e{experts}_h{hidden}_i{width}"
    definition = define(name, "moe", "moe.py", axes, inputs, {"output": tensor("bfloat16", *rows)})
    return Exported(definition, {"seq_len": tokens}, None, {"routed_scaling_factor": 2.5})


def exported(row):
    """Of a row; `NoCase` where the format has no such thing."""
    operation, label = row["operation"], record.Json.label(row)
    if operation == "moe_layer":
        return moe(label)
    case = cases.parse(operation, label, row["shape"])
    forms = {cases.Gemm: gemm, cases.Grouped: grouped, cases.Decode: decode}
    return forms[type(case)](case)


def evaluation(row, device, version, moment):
    """What a row of a GPU says; nothing where it has neither a time nor a wrong result."""
    about = {
        "environment": {"hardware": device["name"], "libs": {"deepseek-kernels": version}},
        "timestamp": moment,
        "log": "",
    }
    # Errors are judged as parts of their bounds: the format's own two figures are not known.
    unknown = {"max_relative_error": "NaN", "max_absolute_error": "NaN"}
    if (failure := row["failure"]) and failure["wrong"]:
        told = {"log": failure["why"], "status": "INCORRECT_NUMERICAL", "correctness": unknown, "performance": None}
        return about | told
    samples = row.get("times", {}).get("cold", {}).get("seconds")
    if not samples:
        return None
    correctness = unknown | {"extra": {"worst_error_over_bound": row["worst"]}}
    # The reference is not measured: 0, as where the format leaves it out.
    performance = {"latency_ms": 1e3 * sum(samples) / len(samples), "reference_latency_ms": 0.0, "speedup_factor": 0.0}
    return about | {"status": "PASSED", "correctness": correctness, "performance": performance}


def export(ours, to):
    """Definitions, workloads, tensors and traces of a file of `bench --json`, below a folder."""
    held = record.load(ours)
    moment = datetime.datetime.fromtimestamp(os.path.getmtime(ours), datetime.timezone.utc).isoformat()
    definitions, workloads, traces, skipped = {}, {}, {}, {}
    for row in held["rows"]:
        try:
            case = exported(row)
        except cases.NoCase as reason:
            skipped.setdefault(f"{row['operation']}: {reason}", []).append(row["name"])
            continue
        name, op_type = case.definition["name"], case.definition["op_type"]
        definitions[name] = case.definition
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"deepseek-kernels/{row['name']}"))
        inputs = dict(case.inputs)
        if case.tensors:
            path = f"blob/workloads/{op_type}/{name}/{name}_{identity}.safetensors"
            save_tensors(os.path.join(to, path), case.tensors)
            inputs |= {key: {"type": "safetensors", "path": path, "tensor_key": key} for key in case.tensors}
        workload = {"axes": case.axes, "inputs": inputs, "uuid": identity}
        line = {"definition": name, "workload": workload, "solution": None, "evaluation": None}
        workloads.setdefault((op_type, name), {})[identity] = line
        told = evaluation(row, held["device"], held["version"], moment) if held["device"]["kind"] == "gpu" else None
        if told:
            # What stands behind the kernel's name are words for people.
            solution = f"{'deepseek-kernels' if row['who'] == 'ours' else row['who']}_{row['instance'].split(' ')[0]}"
            traces.setdefault((op_type, name), []).append(line | {"solution": solution, "evaluation": told})
    for name, definition in definitions.items():
        record.save(os.path.join(to, "definitions", definition["op_type"], f"{name}.json"), definition)
    for (op_type, name), lines in workloads.items():
        record.save(os.path.join(to, "workloads", op_type, f"{name}.jsonl"), *lines.values())
    for (op_type, name), lines in traces.items():
        record.save(os.path.join(to, "traces", op_type, f"{name}.jsonl"), *lines)
    for reason, names in skipped.items():
        print(f"not exported: {len(names)} of {reason}")
    count = lambda parts: sum(len(lines) for lines in parts.values())
    print(f"{len(definitions)} definitions, {count(workloads)} workloads, {count(traces)} traces")


def imported(root):
    """Workloads below a folder as our cases, and why others are none."""
    definitions = {}
    for path, value in load_object(os.path.join(root, "definitions")):
        definition = definition_of(path, value)
        definitions[definition["name"]] = definition
    if not definitions:
        raise BadTrace(f"{root} holds no definitions")
    found, skipped = [], {}
    for path, line in load_lines(os.path.join(root, "workloads")):
        name = line["definition"]
        try:
            if name not in definitions:
                raise cases.NoCase("it is not defined")
            operation, shape = shape_of(root, path, definitions[name], line["workload"])
        except cases.NoCase as reason:
            skipped.setdefault(f"{name}: {reason}", []).append(line)
            continue
        found.append({"op": operation, "shape": shape, "definition": name, "uuid": line["workload"]["uuid"]})
    return found, {reason: len(lines) for reason, lines in skipped.items()}


def main(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="a file of `bench --json` as definitions, workloads and traces")
    out.add_argument("--ours", required=True, metavar="FILE")
    out.add_argument("--to", required=True, metavar="DIR")
    into = commands.add_parser("import", help="workloads as cases: a JSON list of op and shape")
    into.add_argument("root", metavar="DIR")
    into.add_argument("--json", metavar="FILE", help="gets the list, which is printed otherwise")
    given = parser.parse_args(words)
    if given.command == "export":
        export(given.ours, given.to)
        return
    found, skipped = imported(given.root)
    for reason, count in skipped.items():
        print(f"no case of ours: {count} of {reason}", file=sys.stderr)
    if given.json:
        record.save(given.json, found)
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (record.BadFile, BadTrace) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
