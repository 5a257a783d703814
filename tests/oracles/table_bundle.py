"""A bundle whose graph is arithmetic, so that every answer of a server or a job can be foretold; and the foretelling.

Items are i0, i1, ... in a circle. After a history whose last item is n come n + shift, n + shift + 1, ... with the
scores 0, -1, ..., and half a point more for a history of several items, so that there is something to explain. An empty
history gets i0, i1, ... with the counts num_items, num_items - 1, ... Tags: i12 has "parity=even", "digit=1" and
"digit=2".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from genrec.artifacts import write_artifact

MOST = 20  # items of an answer


def expected(
    history: Sequence[str],
    k: int,
    *,
    exclude: Iterable[str] = (),
    allow: Iterable[str] | None = None,
    allow_tags: Iterable[str] | None = None,
    deny_tags: Iterable[str] = (),
    size: int = 50,
    shift: int = 1,
) -> list[tuple[str, float]]:
    """What the bundle answers, the obvious way."""
    known = [int(item[1:]) for item in history if item in {f"i{number}" for number in range(size)}]
    if known:
        order = [((known[-1] + shift + step) % size, -step + 0.5 * (len(known) > 1)) for step in range(size)]
    else:
        order = [(number, size - number) for number in range(size)]
    named = [(f"i{number}", float(score)) for number, score in order]
    may = admissible({item: tags(item) for item, _ in named}, allow_tags, deny_tags)
    may = may - set(exclude) if allow is None else may & set(allow) - set(exclude)
    return [pair for pair in named if pair[0] in may][:k]


def tags(item: str) -> set[str]:
    """Those of an item of this bundle."""
    return {f"parity={('even', 'odd')[int(item[1:]) % 2]}", *(f"digit={digit}" for digit in item[1:])}


def admissible(
    tagged: Mapping[str, Collection[str]], allow_tags: Iterable[str] | None = None, deny_tags: Iterable[str] = ()
) -> set[str]:
    """Items that a request by tags admits, the obvious way: sets, united in a column, intersected, subtracted."""
    may = set(tagged)
    if allow_tags is not None:
        by_column = dict[str, set[str]]()
        for tag in allow_tags:
            having = {item for item, own in tagged.items() if tag in own}
            by_column[tag.split("=")[0]] = by_column.get(tag.split("=")[0], set()) | having
        may = set.intersection(*by_column.values()) if by_column else set()
    return may - {item for item, own in tagged.items() if set(own) & set(deny_tags)}


def write(
    folder: Path,
    *,
    model: str,
    catalogue: str,
    size: int = 50,
    shift: int = 1,
    tagged: bool = True,
    spoil: bool = False,
) -> Path:
    """Writes the bundle, with or without tags; `spoil` makes its probes expect other scores than the graph gives."""
    names = [f"i{number}" for number in range(size)]
    with write_artifact(folder, kind="bundle", facts={"bundle_format": 1}, parents={}) as writer:
        onnx.save(_graph(size), str(writer.path("model.onnx")))
        config = {"model_version": model, "catalogue_version": catalogue, "num_candidates": MOST, "history_length": 50}
        writer.path("config.json").write_text(json.dumps(config))
        titles = [f"Title of <b>{number}</b>" for number in range(size)]
        items: dict[str, Any] = {"item_ids": names, "titles": titles}
        if tagged:
            words = sorted(set[str]().union(*map(tags, names)))
            items["tags"] = {word: [at for at, name in enumerate(names) if word in tags(name)] for word in words}
        writer.path("items.json").write_text(json.dumps(items))
        popularity = np.arange(size, 0, -1, dtype=np.float32)
        codes = np.arange(size, dtype=np.int32)[:, None]
        np.savez(writer.path("catalogue.npz"), codes=codes, popularity=popularity, shift=np.array(shift))
        answer = expected(["i3"], MOST, size=size, shift=shift)
        np.savez(
            writer.path("probes.npz"),
            histories=np.array([[3]]),
            lengths=np.array([1]),
            deny=np.array([[-1]]),
            allow=np.ones((1, size), dtype=bool),
            item_index=np.array([[int(item[1:]) for item, _ in answer]]),
            score=np.array([[score + spoil for _, score in answer]], dtype=np.float32),
        )
    return folder


def _graph(size: int) -> onnx.ModelProto:
    constants = {
        "one": np.array(1),
        "zero": np.array(0),
        "size": np.array(size),
        "most": np.array([MOST]),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "items": np.arange(size)[None],
        "half": np.array(0.5, dtype=np.float32),
        "none": np.array(-np.inf, dtype=np.float32),
        "absent": np.array(-1),
    }
    nodes = [
        ("Sub", "lengths one", "before_end"),
        ("Max", "before_end zero", "at"),
        ("Unsqueeze", "at axis_1", "at_column"),
        ("GatherElements", "histories at_column", "last", {"axis": 1}),
        ("Add", "last shift", "first"),
        ("Sub", "items first", "ahead"),
        ("Mod", "ahead size", "step"),
        ("Cast", "step", "step_float", {"to": TensorProto.FLOAT}),
        ("Neg", "step_float", "base"),
        ("Unsqueeze", "lengths axis_1", "length"),
        ("Greater", "length one", "several"),
        ("Cast", "several", "several_float", {"to": TensorProto.FLOAT}),
        ("Mul", "several_float half", "bonus"),
        ("Add", "base bonus", "ranked"),
        ("Equal", "length zero", "empty"),
        ("Where", "empty popularity ranked", "scored"),
        ("Unsqueeze", "deny axis_2", "deny_column"),
        ("Equal", "deny_column items", "hits"),
        ("Cast", "hits", "hits_float", {"to": TensorProto.FLOAT}),
        ("ReduceMax", "hits_float axis_1", "hit", {"keepdims": 0}),
        ("Cast", "hit", "denied", {"to": TensorProto.BOOL}),
        ("Not", "denied", "not_denied"),
        ("And", "allow not_denied", "admissible"),
        ("Where", "admissible scored none", "kept"),
        ("TopK", "kept most", "score top"),
        ("IsInf", "score", "missing"),
        ("Where", "missing absent top", "item_index"),
    ]
    kinds = {
        "histories": ("int64", "BT"),
        "lengths": ("int64", "B"),
        "deny": ("int64", "BD"),
        "allow": ("bool", ["B", size]),
    }
    kinds |= {"popularity": ("float32", [size]), "shift": ("int64", [])}
    graph = helper.make_graph(
        [
            helper.make_node(name, reads.split(), writes.split(), **(options[0] if options else {}))
            for name, reads, writes, *options in nodes
        ],
        "table",
        [_value(name, kind, list(shape)) for name, (kind, shape) in kinds.items()],
        [_value("item_index", "int64", ["B", MOST]), _value("score", "float32", ["B", MOST])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _value(name: str, kind: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
