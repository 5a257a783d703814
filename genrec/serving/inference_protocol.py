"""Tensors of the Open Inference Protocol (KServe's and Triton's v2, JSON form) and our requests: pure functions.

Inputs, B histories of up to T ids, padded with "" on either side:

    history BYTES [B, T]    exclude BYTES [B, D], optional    allow BYTES [B, A], optional    k INT64 [B], [1] or none
    allow_tags BYTES [B, G] and deny_tags BYTES [B, H], optional: tags, "column=value"

Outputs: item_id BYTES [B, K] padded with "", score FP64 [B, K] padded with 0, num_items, num_unknown and
num_unknown_tags INT64 [B]. A row of `allow` or `allow_tags` that is all padding allows nothing. Data may be flat
(row-major) or nested, as the protocol has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, StrictInt, StrictStr

from genrec.serving.answers import Answer, Request

LISTS = ("history", "exclude", "allow", "allow_tags", "deny_tags")  # BYTES, a row a history
INPUTS = (*LISTS, "k")
ROWS = {"item_id": "BYTES", "score": "FP64"}  # a row a history; the others are a number each
OUTPUTS = ROWS | dict.fromkeys(("num_items", "num_unknown", "num_unknown_tags"), "INT64")
DEFAULT_K = 10


class Tensor(BaseModel):
    """A tensor of a request or an answer."""

    name: StrictStr = Field(description="one of those that the metadata of the model lists")
    shape: list[StrictInt] = Field(description="sizes, row-major", max_length=2)
    datatype: StrictStr = Field(description="BYTES, INT64 or FP64")
    parameters: dict[str, Any] | None = None
    data: list[Any] = Field(description="flat or nested")


class WantedOutput(BaseModel):
    """An output that the client asks for."""

    name: StrictStr
    parameters: dict[str, Any] | None = None


class InferenceRequest(BaseModel):
    """The body of `infer`."""

    id: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor]
    outputs: list[WantedOutput] | None = None


class InferenceResponse(BaseModel):
    """The answer of `infer`."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[Tensor]


class MalformedError(Exception):
    """The tensors are not what the model takes; one line says how."""


def to_requests(inference: InferenceRequest, *, max_rows: int) -> list[Request]:
    """One request a row of `history`, of which there may be `max_rows`.

    Raises:
        MalformedError: an unknown, missing or repeated tensor, a wrong type or shape, or data that does not fill it.
    """
    tensors = {tensor.name: tensor for tensor in inference.inputs}
    if len(tensors) < len(inference.inputs) or "history" not in tensors or not tensors.keys() <= set(INPUTS):
        raise MalformedError(f"expected the inputs history and, each at most once, {', '.join(INPUTS[1:])}")
    for tensor in tensors.values():
        if tensor.shape[:1] > [max_rows]:
            raise MalformedError(f"{tensor.name}: expected at most {max_rows} rows")
    lists: dict[str, Any] = {name: _rows(tensor) for name, tensor in tensors.items() if name in LISTS}
    size = len(lists["history"])
    for name, rows in lists.items():
        if len(rows) != size:
            raise MalformedError(f"{name} has to have as many rows as history, {size}")
    wanted = _counts(tensors["k"], size) if "k" in tensors else [DEFAULT_K] * size
    unknown = {output.name for output in inference.outputs or ()} - OUTPUTS.keys()
    if unknown:
        raise MalformedError(f"no such output; there are {', '.join(OUTPUTS)}")
    return [Request(k=k, **{name: rows[at] for name, rows in lists.items()}) for at, k in enumerate(wanted)]


def to_outputs(answers: Sequence[Answer], wanted: Sequence[WantedOutput] | None) -> list[Tensor]:
    """The tensors of the answers; all of them if none is asked for by name."""
    width = max((len(answer.item_ids) for answer in answers), default=0)
    missing = [width - len(answer.item_ids) for answer in answers]
    data: dict[str, list[Any]] = {
        "item_id": [
            item for answer, pad in zip(answers, missing, strict=True) for item in (*answer.item_ids, *[""] * pad)
        ],
        "score": [
            score for answer, pad in zip(answers, missing, strict=True) for score in (*answer.scores, *[0.0] * pad)
        ],
        "num_items": [len(answer.item_ids) for answer in answers],
        "num_unknown": [answer.num_unknown for answer in answers],
        "num_unknown_tags": [answer.num_unknown_tags for answer in answers],
    }
    names = OUTPUTS if not wanted else dict.fromkeys(output.name for output in wanted)
    return [
        Tensor(name=name, datatype=OUTPUTS[name], data=data[name], shape=_output_shape(name, len(answers), width))
        for name in names
    ]


def describe(name: str, version: str) -> dict[str, Any]:
    """The metadata of the model."""
    return {
        "name": name,
        "versions": [version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": key, "datatype": "BYTES", "shape": [-1, -1]} if key in LISTS else _count(key) for key in INPUTS
        ],
        "outputs": [
            {"name": key, "datatype": kind, "shape": [-1, -1]} if key in ROWS else _count(key)
            for key, kind in OUTPUTS.items()
        ],
    }


def _count(name: str) -> dict[str, Any]:
    return {"name": name, "datatype": "INT64", "shape": [-1]}


def _output_shape(name: str, rows: int, width: int) -> list[int]:
    return [rows, width] if name in ROWS else [rows]


def _rows(tensor: Tensor) -> list[tuple[str, ...]]:
    values = _flat(tensor, "BYTES", str)
    if len(tensor.shape) != 2:
        raise MalformedError(f"{tensor.name}: expected a shape of two sizes, [B, T]")
    rows, width = tensor.shape
    return [tuple(id for id in values[row * width : (row + 1) * width] if id) for row in range(rows)]


def _counts(tensor: Tensor, size: int) -> list[int]:
    values = _flat(tensor, "INT64", int)
    if tensor.shape not in ([1], [size], [1, 1], [size, 1]):
        raise MalformedError(f"k: expected the shape [1] or [{size}]")
    return values * size if len(values) == 1 else values


def _flat(tensor: Tensor, datatype: str, kind: type) -> list[Any]:
    """The values of a tensor, checked against its type and shape."""
    if tensor.datatype != datatype:
        raise MalformedError(f"{tensor.name}: expected the datatype {datatype}")
    values = tensor.data
    for _ in tensor.shape[1:]:
        if any(isinstance(part, list) for part in values):
            if not all(isinstance(part, list) for part in values):
                raise MalformedError(f"{tensor.name}: data is nested in part")
            values = [value for part in values for value in part]
    if any(size < 0 for size in tensor.shape) or len(values) != math.prod(tensor.shape):
        raise MalformedError(f"{tensor.name}: the data does not fill the shape")
    if not all(type(value) is kind for value in values):
        raise MalformedError(f"{tensor.name}: expected values of the type {'text' if kind is str else 'integer'}")
    return values
