"""From the traced search to ONNX, in two parts: what depends on the catalogue alone, and what depends on a request.

A catalogue changes once a day and requests come a thousand times a second, so that a table which is, say, the sum of
four gathered ones should be made when a bundle is loaded, not in every request. Parts of a graph are found by what
their values depend on; nothing is said here of any model. Must not know bundles or files. Imports onnx (extra
`export`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
import torch

from genrec.serving.graph import OUTPUTS, REQUEST_INPUTS

OPSET = 20
_IR_VERSION = 10  # the newest that ONNX Runtime 1.20 reads
_REQUEST_SIZES = {"histories": ("batch", "length"), "lengths": ("batch",), "deny": ("batch", "num_denied")}
_NOISY = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


def to_onnx(program: torch.export.ExportedProgram, catalogue: Sequence[str]) -> onnx.ModelProto:
    """The whole graph: inputs are those of a request and then the arrays of the catalogue; outputs `OUTPUTS`.

    Args:
        program: traced with `select_by_topk`.
        catalogue: names of the arrays, in their order in the program.
    """
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    try:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[*REQUEST_INPUTS, *catalogue],
                output_names=list(OUTPUTS),
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert exported is not None
    model = exported.model_proto
    _strip(model)
    _name_sizes(model.graph)
    return model


def split_by_request(model: onnx.ModelProto) -> tuple[onnx.ModelProto | None, onnx.ModelProto]:
    """The part that no request changes, and the rest, which takes what that part makes as further inputs.

    Returns:
        The first part, None if it would be empty, and the rest. The first gives each of its outputs to the rest by
        name. What depends on neither requests nor catalogue stands in both where both need it.
    """
    graph = model.graph
    of_request = _dependants(graph, REQUEST_INPUTS)
    of_catalogue = _dependants(graph, [entry.name for entry in graph.input if entry.name not in REQUEST_INPUTS])
    inputs = {entry.name for entry in graph.input}
    later = [node for node in graph.node if not of_request.isdisjoint(node.output)]
    read = {name for node in later for name in _reads(node)} | {entry.name for entry in graph.output}
    handed = sorted(name for name in read if name in of_catalogue and name not in of_request and name not in inputs)
    types = {entry.name: entry for entry in graph.value_info}
    if not handed or any(name not in types for name in handed):
        return None, model
    values = [types[name] for name in handed]
    first = _part(model, [entry for entry in graph.input if entry.name not in REQUEST_INPUTS], values)
    return first, _part(model, [*graph.input, *values], graph.output)


def joined(first: onnx.ModelProto, rest: onnx.ModelProto) -> onnx.ModelProto:
    """The two parts of `split_by_request` as one graph again."""
    whole = onnx.ModelProto()
    whole.CopyFrom(rest)
    handed = {entry.name for entry in first.graph.output}
    made = {name for node in first.graph.node for name in node.output}
    later = [node for node in rest.graph.node if made.isdisjoint(node.output)]
    _replace(whole.graph.node, [*first.graph.node, *later])
    own = {entry.name for entry in rest.graph.initializer}
    whole.graph.initializer.extend(entry for entry in first.graph.initializer if entry.name not in own)
    inputs = {entry.name: entry for entry in (*first.graph.input, *rest.graph.input) if entry.name not in handed}
    _replace(whole.graph.input, list(inputs.values()))
    return whole


def with_constants(model: onnx.ModelProto, values: Mapping[str, Any]) -> onnx.ModelProto:
    """The same graph with some inputs made constants: for servers that feed requests alone.

    Args:
        model: any graph.
        values: arrays by name of the input.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    kept = [entry for entry in fixed.graph.input if entry.name not in values]
    names = {entry.name for entry in fixed.graph.input} & set(values)
    fixed.graph.initializer.extend(onnx.numpy_helper.from_array(values[name], name) for name in sorted(names))
    _replace(fixed.graph.input, kept)
    return fixed


def _part(model: onnx.ModelProto, inputs: Iterable[Any], outputs: Iterable[Any]) -> onnx.ModelProto:
    """What leads from inputs to outputs."""
    inputs, outputs = list(inputs), list(outputs)
    given, wanted = {entry.name for entry in inputs}, {entry.name for entry in outputs}
    nodes = []
    for node in reversed(model.graph.node):
        if any(name in wanted and name not in given for name in node.output):
            nodes.insert(0, node)
            wanted.update(_reads(node))
    part = onnx.ModelProto()
    part.CopyFrom(model)
    _replace(part.graph.node, nodes)
    _replace(part.graph.input, [entry for entry in inputs if entry.name in wanted])
    _replace(part.graph.output, outputs)
    _replace(part.graph.initializer, [entry for entry in model.graph.initializer if entry.name in wanted])
    made = {name for node in nodes for name in node.output} - {entry.name for entry in outputs}
    _replace(part.graph.value_info, [entry for entry in model.graph.value_info if entry.name in made])
    return part


def _dependants(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """All values that depend on some inputs; the nodes of a graph stand in the order of their evaluation."""
    found = set(names)
    for node in graph.node:
        if not found.isdisjoint(_reads(node)):
            found.update(node.output)
    return found


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, in its inner graphs too."""
    names = {name for name in node.input if name}
    for inner in _inner_graphs(node):
        names.update(name for other in inner.node for name in _reads(other))
        names.update(entry.name for entry in inner.output)
    return names


def _inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The branches of a node, or the body of its loop."""
    parts = [[*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])] for attribute in node.attribute]
    return [graph for graphs in parts for graph in graphs]


def _replace(field: Any, values: Iterable[Any]) -> None:
    kept = []
    for value in values:
        copy = type(value)()
        copy.CopyFrom(value)
        kept.append(copy)
    del field[:]
    field.extend(kept)


def _stable_sort(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """ONNX's TopK of all: of equal values the lower index comes first, and that is what a stable sort does."""
    from onnxscript import opset20 as op

    assert stable
    size: Any = op.Shape(x, start=dim, end=dim + 1 or None)
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)


def _strip(model: onnx.ModelProto) -> None:
    """Takes out where in whose files each node came from."""
    model.ir_version = min(model.ir_version, _IR_VERSION)
    model.doc_string = ""
    del model.metadata_props[:]
    parts: list[Any] = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        part.doc_string = ""
        del part.metadata_props[:]
        parts += [graph for node in part.node for graph in _inner_graphs(node)]
        entries = [*part.node, *part.value_info]
        if isinstance(part, onnx.GraphProto):
            entries += [*part.input, *part.output, *part.initializer]
        for entry in entries:
            entry.doc_string = ""
            del entry.metadata_props[:]


def _name_sizes(graph: onnx.GraphProto) -> None:
    """Names of free sizes that say what they are; the catalogue's are as many as its arrays."""
    for entry in graph.input:
        sizes = _REQUEST_SIZES.get(entry.name, ("batch", "num_items") if entry.name == "allow" else (entry.name,))
        for dim, name in zip(entry.type.tensor_type.shape.dim, sizes, strict=False):
            if dim.HasField("dim_param"):
                dim.dim_param = name
    for entry in graph.output:
        entry.type.tensor_type.shape.dim[0].dim_param = "batch"
