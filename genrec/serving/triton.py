"""A model repository of Triton (or KServe) from a graph: config.pbtxt, written from the signature and read back.

Knows names, types and sizes; must not know bundles or files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from genrec.errors import ConfigError

TYPES = {
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(float)": "TYPE_FP32",
    "tensor(bool)": "TYPE_BOOL",
}


class Entry(NamedTuple):
    """An input or output of a model as Triton sees it.

    Attributes:
        name: of the tensor.
        kind: its type.
        dims: sizes after the batch, -1 where free.
    """

    name: str
    kind: str
    dims: tuple[int, ...]


def entries_of(nodes: Sequence[object]) -> list[Entry]:
    """What ONNX Runtime reports of inputs or outputs (`get_inputs`, `get_outputs`), without the size of the batch."""
    return [
        Entry(
            node.name,  # type: ignore[attr-defined]
            TYPES[node.type],  # type: ignore[attr-defined]
            tuple(size if isinstance(size, int) else -1 for size in node.shape[1:]),  # type: ignore[attr-defined]
        )
        for node in nodes
    ]


def write_config(
    name: str, inputs: Sequence[Entry], outputs: Sequence[Entry], *, max_batch_size: int, max_queue_delay: int
) -> str:
    """config.pbtxt. A tensor of one number a request has dims [ 1 ] reshaped to none, as Triton wants it."""
    blocks = [_block("input", inputs), _block("output", outputs)]
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "onnxruntime"',
            'default_model_filename: "model.onnx"',
            f"max_batch_size: {max_batch_size}",
            *blocks,
            f"dynamic_batching {{ max_queue_delay_microseconds: {max_queue_delay} }}",
            "instance_group [ { kind: KIND_CPU } ]",
            "",
        ]
    )


def read_config(text: str) -> tuple[list[Entry], list[Entry]]:
    """The inputs and outputs that a config.pbtxt of `write_config` declares."""
    found: dict[str, list[Entry]] = {"input": [], "output": []}
    for part, body in re.findall(r"^(input|output) \[\n(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL):
        pattern = r'name: "([^"]+)"\s+data_type: (\w+)\s+dims: \[([^\]]*)\]( reshape: \{ shape: \[ \] \})?'
        for name, kind, dims, is_scalar in re.findall(pattern, body):
            sizes = () if is_scalar else tuple(int(size) for size in dims.split(","))
            found[part].append(Entry(name, kind, sizes))
    return found["input"], found["output"]


def check_config(text: str, inputs: Sequence[Entry], outputs: Sequence[Entry]) -> None:
    """Raises ConfigError unless the text declares exactly the tensors of the model."""
    declared = read_config(text)
    if declared != (list(inputs), list(outputs)):
        raise ConfigError("config.pbtxt does not fit the model", expected=(list(inputs), list(outputs)), found=declared)


def _block(part: str, entries: Sequence[Entry]) -> str:
    lines = []
    for entry in entries:
        dims = ", ".join(str(size) for size in entry.dims) if entry.dims else "1"
        shape = "" if entry.dims else " reshape: { shape: [ ] }"
        lines.append(f'  {{ name: "{entry.name}" data_type: {entry.kind} dims: [ {dims} ]{shape} }}')
    return f"{part} [\n" + ",\n".join(lines) + "\n]"
