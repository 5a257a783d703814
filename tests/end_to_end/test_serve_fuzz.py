"""Whatever is sent: no 500, only documented answers, and errors of one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import Served

from oracles.table_bundle import expected, write

pytestmark = pytest.mark.slow
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PATIENT = settings(max_examples=100, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["i1", "i2", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ITEMS = st.lists(st.sampled_from([f"i{number}" for number in range(60)]) | st.text(max_size=5), max_size=8)
TAGS = st.lists(st.sampled_from(["parity=even", "digit=1", "digit=2", "digit=x"]) | st.text(max_size=5), max_size=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Served(write(folder / "b", model="m1", catalogue="c1"), log=folder / "log") as served:
        yield served
        assert served.process.poll() is None
        metrics = served.client.get("/metrics").text
        assert 'genrec_errors_total{status="500"}' not in metrics
        assert "Traceback" not in (folder / "log").read_text()


def test_requests_made_from_the_description_get_documented_answers(server: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) >= 12
    strategies = [operation.as_strategy() for operation in operations]
    strategies += [
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        for operation in operations
        if operation.method.upper() == "POST"
    ]
    for strategy in strategies:

        @settings(PATIENT, max_examples=40)
        @given(case=strategy)
        def check(case: Any) -> None:
            case.validate_response(case.call(), checks=CHECKS)

        check()


@PATIENT
@given(
    body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()),
    route=st.integers(0, 1),
    length=st.none() | st.integers(-2, 60),
)
def test_any_body_is_answered_or_refused_in_one_line(
    server: Served, body: bytes, route: int, length: int | None
) -> None:
    path = ("/recommend", "/v2/models/genrec/infer")[route]
    headers = {"Content-Type": "application/json"}
    headers |= {} if length is None else {"Inference-Header-Content-Length": str(length)}
    answer = server.client.post(path, content=body, headers=headers)
    assert answer.status_code in (200, 400, 422)
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]
        assert "\n" not in answer.json()["error"]


@PATIENT
@given(
    name=st.sampled_from(["history", "exclude", "allow", "k", "x"]),
    shape=st.lists(st.integers(-2, 5) | st.just(2**62), max_size=3),
    datatype=st.sampled_from(["BYTES", "INT64", "FP64", ""]),
    data=st.lists(JSON, max_size=5) | st.lists(st.text(max_size=2), max_size=5),
)
def test_any_tensor_is_answered_or_refused(
    server: Served, name: str, shape: list[int], datatype: str, data: list[Any]
) -> None:
    history = {"name": "history", "shape": [1, 1], "datatype": "BYTES", "data": ["i1"]}
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    body = json.dumps({"inputs": [tensor] if name == "history" else [history, tensor]}).encode()
    answer = server.client.post("/v2/models/genrec/infer", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 422)


@PATIENT
@given(
    history=ITEMS,
    k=st.integers(-1, 25),
    constraint=st.fixed_dictionaries(
        {"exclude": ITEMS, "allow": st.none() | ITEMS, "allow_tags": st.none() | TAGS, "deny_tags": TAGS}
    ),
    explain=st.booleans(),
)
def test_every_sound_request_gets_the_foretold_answer(
    server: Served, history: list[str], k: int, constraint: dict[str, Any], explain: bool
) -> None:
    body = {"history": history, "k": k, "explain": explain, **constraint}
    answer = server.client.post("/recommend", json=body)
    if not 1 <= k <= 20:
        assert answer.status_code == 422
        return
    pairs = [(item["item_id"], item["score"]) for item in answer.json()["items"]]
    assert pairs == expected(history, k, **constraint)
