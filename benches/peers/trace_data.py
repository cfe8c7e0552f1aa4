"""Files of FlashInfer-Bench's Trace format, read with every field checked that is used; what a workload's shapes mean."""

import array
import glob
import json
import os
import struct
import sys

import cases
import record

KINDS = {"I32": ("i", 4), "I64": ("q", 8)}
MOST = 1 << 24  # bytes of a header


class BadTrace(Exception):
    """What is wrong with a file, in one line."""


def save_tensors(path, tensors):
    """A safetensors file of INT32: by name a shape and values."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}i", *values)
        header[name] = {"dtype": "I32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    record.replace(path, struct.pack("<Q", len(text)) + text + data)


def load_tensor(root, path, key):
    """Integers of a safetensors file below a folder."""
    whole = os.path.realpath(os.path.join(root, path))
    if not whole.startswith(os.path.realpath(root) + os.sep):
        raise BadTrace(f"{path} lies outside {root}")
    try:
        with open(whole, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MOST:
                raise ValueError(f"its header has {length} bytes")
            entry = json.loads(file.read(length))[key]
            code, size = KINDS[entry["dtype"]]
            begin, end = entry["data_offsets"]
            file.seek(8 + length + begin)
            values = array.array(code)
            values.frombytes(file.read(end - begin))
    except OSError as error:
        raise BadTrace(f"{whole}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise BadTrace(f"{whole} holds no integers {key}: {type(error).__name__}: {error}") from None
    if sys.byteorder == "big":
        values.byteswap()
    if len(values) * size != end - begin:
        raise BadTrace(f"{whole} is cut off: {key} has {len(values)} values")
    return list(values)


def files(folder, ending):
    return sorted(glob.glob(os.path.join(glob.escape(folder), "**", f"*.{ending}"), recursive=True))


def parsed(where, text):
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadTrace(f"{where} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadTrace(f"{where} is no object")
    return value


def text_of(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def load_object(folder):
    """Every JSON object below a folder, with its path."""
    for path in files(folder, "json"):
        yield path, parsed(path, text_of(path))


def load_lines(folder):
    """Every workload below a folder, with where it stands."""
    for path in files(folder, "jsonl"):
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if line.strip():
                where = f"{path}:{number}"
                value = parsed(where, line)
                workload = value.get("workload")
                fields = isinstance(workload, dict) and [workload.get("axes"), workload.get("inputs")]
                if not (
                    isinstance(value.get("definition"), str) and fields and all(isinstance(x, dict) for x in fields)
                ):
                    raise BadTrace(f"{where} is no workload: it needs definition, workload.axes and workload.inputs")
                if not isinstance(workload.get("uuid"), str):
                    raise BadTrace(f"{where} is no workload: it has no uuid")
                if not all(type(size) is int and size >= 0 for size in workload["axes"].values()):
                    raise BadTrace(f"{where}: an axis is no size")
                yield where, value


def definition_of(path, value):
    """A definition, checked: what stands in shapes is an axis."""
    axes, inputs, outputs = (value.get(name) for name in ("axes", "inputs", "outputs"))
    named = isinstance(value.get("name"), str) and isinstance(value.get("op_type"), str)
    if not named or not all(isinstance(part, dict) for part in (axes, inputs, outputs)):
        raise BadTrace(f"{path} is no definition: it needs name, op_type, axes, inputs and outputs")
    for name, axis in axes.items():
        kind = axis.get("type") if isinstance(axis, dict) else None
        if kind not in ("var", "const") or (kind == "const" and type(axis.get("value")) is not int):
            raise BadTrace(f"{path}: axis {name} is neither var nor const with a value")
    for name, spec in (inputs | outputs).items():
        shape = spec.get("shape", ()) if isinstance(spec, dict) else ()
        if not isinstance(spec, dict) or not isinstance(spec.get("dtype"), str):
            raise BadTrace(f"{path}: {name} has no dtype")
        if unknown := [axis for axis in shape or () if axis not in axes]:
            raise BadTrace(f"{path}: {name} has the axis {unknown[0]}, which is not defined")
    return value


class Bound:
    """A definition with the sizes of a workload."""

    def __init__(self, root, where, definition, workload):
        self.root, self.where, self.definition, self.workload = root, where, definition, workload
        self.sizes = {name: axis["value"] for name, axis in definition["axes"].items() if axis["type"] == "const"}
        self.sizes |= workload["axes"]

    def spec(self, name):
        return self.definition["inputs"].get(name)

    def shape(self, name):
        """The sizes of an input; none where there is no such input."""
        axes = (self.spec(name) or {}).get("shape")
        if axes and (missing := [axis for axis in axes if axis not in self.sizes]):
            raise BadTrace(f"{self.where}: the workload has no size of {missing[0]}")
        return [self.sizes[axis] for axis in axes] if axes else None

    def integers(self, name):
        given = self.workload["inputs"].get(name)
        if not isinstance(given, dict) or given.get("type") != "safetensors":
            raise cases.NoCase(f"{name} is not given")
        if not all(isinstance(given.get(part), str) for part in ("path", "tensor_key")):
            raise BadTrace(f"{self.where}: {name} has no path or no tensor_key")
        return load_tensor(self.root, given["path"], given["tensor_key"])

    def of_type(self, dtype, rank):
        return [
            name
            for name, spec in self.definition["inputs"].items()
            if spec["dtype"] == dtype and len(spec.get("shape") or ()) == rank
        ]


def shape_of(root, where, definition, workload):
    """Our operation and its shape, as `bench --op` and `--shape` take them; `NoCase` where it is none of ours."""
    bound = Bound(root, where, definition, workload)
    return {"mla_paged": decode, "moe": layer}.get(definition["op_type"], product)(bound)


def product(bound):
    matrices, stacks = (bound.of_type("float8_e4m3fn", rank) for rank in (2, 3))
    if len(matrices) + len(stacks) != 2 or not matrices:
        raise cases.NoCase("it is no product of E4M3")
    if len(bound.of_type("float32", 2)) + len(bound.of_type("float32", 3)) != 2:
        raise cases.NoCase("its scales are not those of blocks")
    m, k = bound.shape(matrices[0])
    if not stacks:
        n, other = bound.shape(matrices[1])
        if other != k:
            raise cases.NoCase("its matrices do not have their columns in common")
        return "fp8_gemm", f"{m} x {n} x {k}"
    groups, n, _ = bound.shape(stacks[0])
    return "grouped_fp8_gemm", f"{'+'.join(map(str, group_rows(bound, groups, m)))} x {n} x {k}"


def group_rows(bound, groups, m):
    """Rows of each group, by where they begin or by whose each row is."""
    for name in bound.of_type("int32", 1) + bound.of_type("int64", 1):
        if bound.shape(name) == [groups + 1]:
            offsets = bound.integers(name)
            return [end - begin for begin, end in zip(offsets, offsets[1:])]
        if bound.shape(name) == [m]:
            owners = bound.integers(name)
            return [owners.count(group) for group in range(groups)]
    raise cases.NoCase("the rows of its groups are not given")


def decode(bound):
    inputs = bound.definition["inputs"]
    if "qo_indptr" in inputs or not ({"q", "seq_lens"} <= set(inputs) or {"q_nope", "ckv_cache"} <= set(inputs)):
        raise cases.NoCase("it is no decode step")
    query = bound.shape("q") or bound.shape("q_nope")
    tokens, heads = (query[1], query[2]) if len(query) == 4 else (1, query[1])
    cache = "kv_cache" if "kv_cache" in inputs else "ckv_cache"
    if inputs[cache]["dtype"] != "bfloat16":
        raise cases.NoCase(f"its cache is {inputs[cache]['dtype']}")
    if (query[-1], bound.shape(cache)[-1]) not in ((cases.KEY, cases.KEY), (cases.LATENT, cases.LATENT)):
        raise cases.NoCase("its keys have another width")
    lengths = lengths_of(bound, bound.shape(cache)[1])
    return "mla_decode_bf16", f"{tokens} x {heads} x {'+'.join(map(str, lengths))}"


def lengths_of(bound, page_size):
    """Keys of each sequence."""
    if bound.spec("seq_lens"):
        return bound.integers("seq_lens")
    pages = bound.integers("kv_indptr")
    counts = [end - begin for begin, end in zip(pages, pages[1:])]
    if page_size == 1:
        return counts
    if not bound.spec("kv_last_page_len"):
        raise cases.NoCase("how full the last pages are is not given")
    last = bound.integers("kv_last_page_len")
    return [max(0, (count - 1) * page_size + keys) if count else 0 for count, keys in zip(counts, last)]


def layer(bound):
    inputs = bound.definition["inputs"]
    if inputs.get("gemm1_weights", {}).get("dtype") != "float8_e4m3fn" or "hidden_states" not in inputs:
        raise cases.NoCase("its experts are no E4M3")
    tokens, hidden = bound.shape("hidden_states")
    _, doubled, _ = bound.shape("gemm1_weights")
    return "moe_layer", f"{tokens} x {doubled // 2} x {hidden}"
