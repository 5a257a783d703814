"""A graph is cut where requests begin to matter, and both parts together are the whole."""

from __future__ import annotations

import os

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime  # noqa: E402

from genrec.serving.onnx_graph import joined, split_by_request, with_constants  # noqa: E402

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
graph (int64[batch, length] histories, float[rows, 2] table, float[rows] bias) => (float[batch, length] score)
<float[2, 1] ones = {1.0, 2.0}, int64[1] last = {1}, float[rows] sums, float[rows, 1] wide, float[rows] biased>
{
  wide = MatMul (table, ones)
  sums = Squeeze (wide, last)
  biased = Add (sums, bias)
  scale = Constant <value = float {3.0}> ()
  taken = Gather (biased, histories)
  score = Mul (taken, scale)
}
"""
TABLE, BIAS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32), np.array([10, 20, 30], dtype=np.float32)
HISTORIES = np.array([[2, 0]])
EXPECTED = 3 * (TABLE @ [1, 2] + BIAS)[HISTORIES]


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == set(inputs)
    return session.run(None, inputs)


def test_what_no_request_changes_is_a_part_of_its_own() -> None:
    first, rest = split_by_request(onnx.parser.parse_model(TEXT))
    assert first is not None
    assert [entry.name for entry in first.graph.output] == ["biased"]
    assert [node.op_type for node in rest.graph.node] == ["Constant", "Gather", "Mul"]
    (biased,) = run(first, table=TABLE, bias=BIAS)
    (score,) = run(rest, histories=HISTORIES, biased=biased)
    np.testing.assert_array_equal(score, EXPECTED)


def test_the_parts_are_joined_again_and_the_catalogue_becomes_constant() -> None:
    first, rest = split_by_request(onnx.parser.parse_model(TEXT))
    assert first is not None
    whole = joined(first, rest)
    np.testing.assert_array_equal(run(whole, histories=HISTORIES, table=TABLE, bias=BIAS)[0], EXPECTED)
    fixed = with_constants(whole, {"table": TABLE, "bias": BIAS, "codes": np.zeros(3)})
    np.testing.assert_array_equal(run(fixed, histories=HISTORIES)[0], EXPECTED)


def test_nothing_is_cut_where_requests_read_the_catalogue_as_it_is() -> None:
    text = TEXT.replace("float[2, 1] ones = {1.0, 2.0}, int64[1] last = {1}, ", "")
    body = (
        " scale = Constant <value = float {3.0}> ()\n taken = Gather (bias, histories)\n score = Mul (taken, scale)\n"
    )
    model = onnx.parser.parse_model(text[: text.index("<float[rows] sums")] + "{\n" + body + "}")
    first, rest = split_by_request(model)
    assert first is None
    assert rest is model
