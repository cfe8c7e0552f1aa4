"""Cases of `deepseek-kernels bench`, from their names and shapes: what a peer can be asked to run.

A name is `operation/label`. Labels are those of crates/check: `4096x7168x2048_bf16`, `8x4096x7168x2048`,
`b128q1s4096h128`. What a label leaves open, the keys of sequences that differ, stands in the shape: `1 x 16 x 4500+45000`.
"""

import re
from dataclasses import dataclass

PAGE = 64
LATENT, ROPE = 512, 64
KEY = LATENT + ROPE
SOFTMAX_SCALE = 0.13523378  # of DeepSeek-V3


class NoCase(Exception):
    """Why no peer is asked."""


@dataclass(frozen=True)
class Gemm:
    """D = A B^T: E4M3, scales of 1x128 of A and of 128x128 of B."""

    m: int
    n: int
    k: int
    output: str  # "bf16" or "f32"


@dataclass(frozen=True)
class Grouped:
    """Experts with rows and weights of their own; BF16 D."""

    rows: tuple
    n: int
    k: int
    masked: bool = False  # each with room for as many rows as any


@dataclass(frozen=True)
class Decode:
    """Attention of a decode step over a latent cache."""

    cache: str  # "bf16", "fp8" or "fp8_per_tensor"
    lengths: tuple
    q_tokens: int
    heads: int
    causal: bool


def parse(operation, label, shape=""):
    """The case that an operation's label means; `NoCase` where there is none, or none that anybody else runs."""
    if operation not in READERS:
        raise NoCase("it is no operation that others have")
    return READERS[operation](operation, label, shape)


def gemm(_, label, __):
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)_(bf16|f32)(_accumulate)?(_\w+)?", label)
    if not match:
        raise NoCase(f"expected a label like 64x2112x7168_bf16, got {label}")
    m, n, k, output, accumulate, instance = match.groups()
    if accumulate:
        raise NoCase("no other library adds to D with these scales")
    whole(instance)
    return Gemm(int(m), int(n), int(k), output)


def grouped(_, label, __):
    match = re.fullmatch(r"(\d+x\d+|\d+(?:\+\d+)*)x(\d+)x(\d+)(_masked)?(_\w+)?", label)
    if not match:
        raise NoCase(f"expected a label like 8x4096x7168x2048, got {label}")
    rows, n, k, masked, instance = match.groups()
    whole(instance)
    if "x" in rows:
        experts, each = map(int, rows.split("x"))
        rows = spread(experts, each)
    else:
        rows = tuple(map(int, rows.split("+")))
    return Grouped(rows, int(n), int(k), bool(masked))


def decode(operation, label, shape):
    match = re.fullmatch(
        r"b(\d+)q(\d+)s(\d+)(-\d+)?h(\d+)(_c\d+)?(_split\d+)?(_causal|_full)?(_packed)?(_nope)?", label
    )
    if not match:
        raise NoCase(f"expected a label like b128q1s4096h128, got {label}")
    batch, tokens, keys, varied, heads, cluster, split, mask, packed, nope = match.groups()
    whole(cluster or split)
    if packed or nope:
        raise NoCase(
            "no other library packs query tokens" if packed else "no other library has keys without a position"
        )
    batch, tokens, keys, heads = map(int, (batch, tokens, keys, heads))
    lengths = (keys,) * batch
    if varied:
        lengths = tuple(int(keys) for keys in shape.replace(" ", "").split("x")[-1].split("+") if keys.isdigit())
        if len(lengths) != batch:
            raise NoCase(f"the keys of its sequences are not known: its shape is {shape or 'not given'}")
    causal = mask == "_causal" if tokens == 1 else mask != "_full"
    return Decode(operation.removeprefix("mla_decode_"), lengths, tokens, heads, causal)


def moe_layer(label):
    """Tokens, columns and width of a layer with DeepSeek-V3's router, all of whose experts are here."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)_8of256", label)
    if not match:
        raise NoCase("it is not DeepSeek-V3's router with all experts")
    return tuple(map(int, match.groups()))


READERS = {
    "fp8_gemm": gemm,
    "grouped_fp8_gemm": grouped,
    "mla_decode_bf16": decode,
    "mla_decode_fp8": decode,
    "mla_decode_fp8_per_tensor": decode,
}


def whole(choice):
    """A case that names a kernel or a split is compared with the one of ours that does not."""
    if choice:
        raise NoCase("it names what the planner would choose")


def spread(experts, rows):
    """0.7 to 1.3 times so many rows, as `timed_grouped` of the Rust cases has them."""
    return tuple(rows * (70 + 37 * expert % 61) // 100 for expert in range(experts))


def matches(operation, name, operations):
    """Whether `--op` means it: a name, or one that it lengthens if no operation is called so itself."""
    return operation == name or (name not in operations and operation.startswith(name + "_"))


def has_shape(label, shape, text):
    """Whether `--shape` means it: a part of the label or of the shape that cuts no number."""
    text = text.replace(" ", "").replace("X", "x").replace("\u00d7", "x")
    before = r"(?<!\d)" if text[:1].isdigit() else ""
    behind = r"(?!\d)" if text[-1:].isdigit() else ""
    part = re.compile(before + re.escape(text) + behind)
    return bool(text) and any(part.search(whole) for whole in (label, shape.replace(" ", "")))
