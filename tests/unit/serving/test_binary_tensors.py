"""Bodies of bytes and bodies of JSON are the same requests and the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.config.serving import ServeConfig
from genrec.serving.app import build_app
from genrec.serving.binary_tensors import pack, to_json, unpack
from genrec.serving.inference_protocol import MalformedError
from genrec.serving.open_bundle import open_bundle
from genrec.serving.swap import Versions
from oracles.table_bundle import write

LENGTH = "Inference-Header-Content-Length"
INPUTS: list[dict[str, Any]] = [
    {"name": "history", "shape": [2, 2], "datatype": "BYTES", "data": ["i3", "i7", "", "i1"]},
    {"name": "k", "shape": [2], "datatype": "INT64", "data": [3, 2]},
    {"name": "exclude", "shape": [2, 1], "datatype": "BYTES", "data": ["é", "i2"]},
]
DTYPES = {"INT64": "<i8", "FP64": "<f8"}
ROUTE = "/v2/models/genrec/infer"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = write(tmp_path_factory.mktemp("bundles") / "b", model="m1", catalogue="c1")
    app = build_app(ServeConfig(bundle=folder), Versions(folder, open_bundle))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def encoded(values: list[Any], datatype: str) -> bytes:
    """The bytes of a tensor, as the protocol says in words."""
    if datatype == "BYTES":
        return b"".join(np.array(len(text.encode()), dtype="<u4").tobytes() + text.encode() for text in values)
    return np.array(values, dtype=DTYPES[datatype]).tobytes()


def decoded(data: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        return np.frombuffer(data, dtype=DTYPES[datatype]).tolist()
    values = []
    while data:
        size = int(np.frombuffer(data[:4], dtype="<u4")[0])
        values.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return values


def as_bytes(names: set[str], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A body with some of the inputs as bytes, and the header that says how long its JSON is."""
    inputs, parts = [], []
    for tensor in INPUTS:
        if tensor["name"] in names:
            parts.append(encoded(tensor["data"], tensor["datatype"]))
            tensor = {**tensor, "parameters": {"binary_data_size": len(parts[-1])}}
            del tensor["data"]
        inputs.append(tensor)
    head = json.dumps({"id": "q", "inputs": inputs, **more}).encode()
    return b"".join([head, *parts]), {LENGTH: str(len(head))}


def from_bytes(answer: Any) -> tuple[dict[str, Any], set[str]]:
    """The answer with all data in it, and the outputs that were bytes."""
    end = int(answer.headers[LENGTH])
    told, rest, names = json.loads(answer.content[:end]), answer.content[end:], set[str]()
    for tensor in told["outputs"]:
        if "data" not in tensor:
            size = tensor.pop("parameters")["binary_data_size"]
            tensor["data"], rest = decoded(rest[:size], tensor["datatype"]), rest[size:]
            names.add(tensor["name"])
    assert rest == b""
    return told, names


@settings(max_examples=examples(60), deadline=None)
@given(
    names=st.sets(st.sampled_from(["history", "k", "exclude"])),
    every=st.none() | st.booleans(),
    wanted=st.none() | st.dictionaries(st.sampled_from(["item_id", "score", "num_items"]), st.none() | st.booleans()),
)
def test_bytes_mean_what_json_means(
    client: TestClient, names: set[str], every: bool | None, wanted: dict[str, bool | None] | None
) -> None:
    outputs = [{"name": name} for name in wanted or ()]
    expected = client.post(ROUTE, json={"id": "q", "inputs": INPUTS, "outputs": outputs}).json()
    for output in outputs:
        if (own := (wanted or {})[output["name"]]) is not None:
            output["parameters"] = {"binary_data": own}  # pyright: ignore[reportArgumentType]
    more = {"outputs": outputs} | ({} if every is None else {"parameters": {"binary_data_output": every}})
    body, headers = as_bytes(names, **more)
    answer = client.post(ROUTE, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    said = {output["name"]: (wanted or {}).get(output["name"]) for output in expected["outputs"]}
    binary = {name for name, own in said.items() if (every if own is None else own)}
    if binary:
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert from_bytes(answer) == (expected, binary)
    else:
        assert answer.json() == expected


def test_json_need_not_be_said_to_be_json(client: TestClient) -> None:
    body = json.dumps({"inputs": INPUTS}).encode()
    assert client.post(ROUTE, content=body).json() == client.post(ROUTE, json={"inputs": INPUTS}).json()


@pytest.mark.parametrize(
    ("body", "length", "line"),
    [
        (b"{}", "3", "expected at most 2, the bytes of the body"),
        (b"{}", "-1", "expected at most 2, the bytes of the body"),
        (b"{}abc", "2", "3 bytes that no tensor's binary_data_size tells of"),
        (b"{abc", "1", "the first 1 bytes of the body are no JSON"),
        (b"[" * 100_000, "100000", "recursion"),
        (b'{"inputs": 5}', "13", "inputs: Input should be a valid list"),
        (b'{"inputs": [{"parameters": {"binary_data_size": -1}}]}', "54", "binary_data_size: expected the bytes"),
        (b'{"inputs": [{"parameters": {"binary_data_size": true}}]}', "56", "binary_data_size: expected the bytes"),
        (b'{"inputs": [{"parameters": {"binary_data_size": 1}}]}a', "53", "expected the datatype BYTES, INT64 or FP64"),
    ],
)
def test_bodies_that_are_not_as_announced_are_refused(client: TestClient, body: bytes, length: str, line: str) -> None:
    answer = client.post(ROUTE, content=body, headers={LENGTH: length})
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert line in answer.json()["error"]


def test_compressed_bodies_are_refused(client: TestClient) -> None:
    answer = client.post(ROUTE, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()) == (415, {"error": "the body is compressed; send it as it is"})


@pytest.mark.parametrize(
    ("data", "datatype"),
    [(b"\x01", "BYTES"), (b"\x02\0\0\0i", "BYTES"), (b"\x01\0\0\0\xff", "BYTES"), (b"\x01", "INT64"), (b"", "FP32")],
)
def test_bytes_that_are_no_tensor_are_refused(data: bytes, datatype: str) -> None:
    with pytest.raises(MalformedError):
        unpack(data, datatype)


@given(
    values=st.tuples(st.just("BYTES"), st.lists(st.text()))
    | st.tuples(st.just("INT64"), st.lists(st.integers(-(2**63), 2**63 - 1)))
    | st.tuples(st.just("FP64"), st.lists(st.floats(allow_nan=False)))
)
@settings(max_examples=examples(150))
def test_packing_is_the_protocol_s(values: tuple[str, list[Any]]) -> None:
    datatype, data = values
    assert pack(data, datatype) == encoded(data, datatype)
    assert unpack(pack(data, datatype), datatype) == data


@given(
    body=st.binary(max_size=60), head=st.sampled_from([b"", b'{"inputs": [{"parameters": {"binary_data_size": 4}, '])
)
@settings(max_examples=examples(150))
def test_anything_is_json_or_refused(body: bytes, head: bytes) -> None:
    whole = head + b'"datatype": "BYTES"}]}' * bool(head)
    try:
        found = to_json(whole + body, str(len(whole)))
    except MalformedError:
        return
    assert json.loads(found)["inputs"][0]["data"] == unpack(body, "BYTES")
