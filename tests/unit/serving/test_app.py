"""The routes, in this process: what a client sees."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from genrec.config.serving import ServeConfig
from genrec.serving.app import build_app
from genrec.serving.open_bundle import open_bundle
from genrec.serving.swap import Load, Versions
from oracles.table_bundle import expected, write


def make(folder: Path, *, key: str | None = None, load: Load = open_bundle, **options: Any) -> TestClient:
    config = ServeConfig(bundle=folder, **options)
    app = build_app(config, Versions(folder, load), key=key)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bundles") / "b", model="m1", catalogue="c1")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with make(folder, max_body_bytes=4096, max_history=100, max_rows=3) as client:
        yield client


class Slow:
    """A bundle whose searches take 0.2 s."""

    def __init__(self, folder: Path) -> None:
        self._generator = open_bundle(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def recommend(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return self._generator.recommend(*arguments, **options)


def post(client: TestClient, **body: Any) -> Any:
    return client.post("/recommend", json=body)


def test_an_answer_names_items_titles_and_versions(client: TestClient) -> None:
    answer = post(client, history=["i3", "nobody", "i7"], k=3, exclude=["i8"])
    assert answer.status_code == 200
    assert answer.json() == {
        "items": [
            {"item_id": f"i{number}", "score": 2.5 - number + 6, "title": f"Title of <b>{number}</b>"}
            for number in (9, 10, 11)
        ],
        "model_version": "m1",
        "catalogue_version": "c1",
        "num_unknown": 1,
        "num_unknown_tags": 0,
        "is_popular": False,
    }
    only = post(client, history=["i3"], allow=["i9", "i4", "nobody"]).json()["items"]
    assert [item["item_id"] for item in only] == ["i4", "i9"]
    assert post(client, history=["i3"], allow=[]).json()["items"] == []


def test_tags_leave_what_has_one_of_each_column_and_none_of_the_denied(client: TestClient) -> None:
    asked: dict[str, Any] = {
        "history": ["i3"],
        "allow_tags": ["digit=1", "digit=2", "parity=odd"],
        "deny_tags": ["digit=3"],
    }
    answer = post(client, **asked, k=20, explain=True).json()
    found = [(item["item_id"], item["score"]) for item in answer["items"]]
    assert found == expected(["i3"], 20, allow_tags=asked["allow_tags"], deny_tags=["digit=3"])
    assert [item for item, _ in found] == ["i11", "i15", "i17", "i19", "i21", "i25", "i27", "i29", "i41", "i1"]
    assert [item["item_id"] for item in post(client, **asked, allow=["i12", "i13", "i15"]).json()["items"]] == ["i15"]
    none = post(client, history=["i3"], allow_tags=["colour=red", "digit=1"], deny_tags=["colour=blue"]).json()
    assert (none["items"], none["num_unknown_tags"]) == ([], 2)
    assert post(client, history=["i3"], allow_tags=[]).json()["items"] == []
    assert post(client, history=["i3"], deny_tags=["digit=4"], k=1).json()["items"][0]["item_id"] == "i5"


def test_tags_are_found_by_their_words(client: TestClient) -> None:
    found = client.get("/tags", params={"q": "PAR"}).json()
    assert found == {"tags": [{"tag": "parity=even", "num_items": 25}, {"tag": "parity=odd", "num_items": 25}]}
    sizes = [entry["num_items"] for entry in client.get("/tags", params={"limit": 5}).json()["tags"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5


def test_a_bundle_without_tags_says_so_when_it_is_asked_by_tags(tmp_path: Path) -> None:
    with make(write(tmp_path / "b", model="m1", catalogue="c1", tagged=False)) as client:
        for asked in ({"allow_tags": []}, {"deny_tags": ["digit=1"]}):
            answer = post(client, history=["i3"], **asked)
            line = "this bundle has no tags; export it with tags=[brand,categories]"
            assert (answer.status_code, answer.json()) == (422, {"error": line})
        assert client.get("/tags").json() == {"tags": []}
        assert post(client, history=["i3"]).status_code == 200


def test_an_explanation_names_the_items_that_spoke_for_it(client: TestClient) -> None:
    (item,) = post(client, history=["i3", "i7"], k=1, explain=True).json()["items"]
    assert [reason["item_id"] for reason in item["because"]] == ["i7", "i3"]
    assert item["because"][1] == {"item_id": "i3", "title": "Title of <b>3</b>", "gain": 0.5}


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"{", 422, "the body is no JSON: Expecting property name enclosed in double quotes, at character 1"),
        (b"[]", 422, "body: expected a JSON object, sent with the header Content-Type: application/json"),
        (b'{"history": "i3"}', 422, "history: Input should be a valid list"),
        (b'{"history": [3]}', 422, "history.0: Input should be a valid string"),
        (b'{"history": ["i3"], "K": 3}', 422, "K: there is no such key"),
        (b'{"history": [], "k": 21}', 422, "k: expected 1 to 20"),
        (b'{"history": [], "k": 0}', 422, "k: Input should be greater"),
        (b'{"history": ["\\ud800"]}', 422, "history.0"),
        (b'{"history": ["\\ud800"], "\\ud800": 1}', 422, ""),
        (json.dumps({"history": [], "deny_tags": ["a=b"] * 101}).encode(), 422, "deny_tags: expected at most 100 tags"),
        (json.dumps({"history": ["i1"] * 101}).encode(), 422, "history: expected at most 100 items, found 101"),
        (b'{"history": ["' + b"x" * 5000 + b'"]}', 413, "more than 4096 bytes"),
        (b"[" * 4000, 400, "parsing the body"),
        (b"\xff", 400, "parsing the body"),
    ],
)
def test_refusals_are_one_line(client: TestClient, body: bytes, status: int, line: str) -> None:
    answer = client.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert line in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_without_a_length_is_measured_too(client: TestClient) -> None:
    answer = client.post("/recommend", content=iter([b'{"history": ["'] + [b"x" * 1000] * 9 + [b'"]}']))
    assert answer.status_code == 413


def test_unknown_routes_are_json_too(client: TestClient) -> None:
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/recommend").status_code == 405
    assert client.get("/docs").status_code == 404  # its scripts would come from elsewhere


def test_no_telemetry_whatever_the_environment_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.getsockname()[1]}")
        collector.settimeout(0.1)
        with make(folder) as client:
            assert post(client, history=["i1"]).status_code == 200
        with pytest.raises(TimeoutError):
            collector.accept()


def test_the_key_is_asked_for(folder: Path) -> None:
    with make(folder, key="secret") as client:
        for headers in ({}, {"X-API-Key": "secre"}, {"X-API-Key": "secret2"}):
            assert client.post("/recommend", json={"history": []}, headers=headers).status_code == 401
        right = {"X-API-Key": "secret"}
        assert client.post("/recommend", json={"history": []}, headers=right).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/v2/health/live").status_code == client.get("/").status_code == 200


def test_slow_answers_are_given_up(folder: Path) -> None:
    with make(folder, timeout_s=0.05, load=Slow) as client:
        answer = post(client, history=[])
    assert (answer.status_code, answer.json()["error"]) == (504, "no answer within 0.05 s")


def test_before_and_after_its_life_a_server_is_not_ready(folder: Path) -> None:
    client = make(folder)  # its lifespan has not begun
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").json() == {"live": True}
    assert post(client, history=[]).status_code == 503


# --- Open Inference Protocol -----------------------------------------------------------------------------------------


def tensor(name: str, shape: list[int], data: list[Any], datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


HISTORY = tensor("history", [2, 2], ["i3", "i7", "", "i1"])


def test_inference_answers_each_row_with_its_own_k_and_lists(client: TestClient) -> None:
    inputs = [
        HISTORY,
        tensor("k", [2], [2, 3], "INT64"),
        tensor("exclude", [2, 1], [["i8"], [""]]),
        tensor("allow", [2, 4], ["i8", "i9", "i10", "i11", "i2", "", "", "x"]),
        tensor("allow_tags", [2, 2], ["digit=9", "digit=1", "parity=even", "digit=2"]),
        tensor("deny_tags", [2, 1], [["digit=0"], ["red"]]),
    ]
    answer = client.post("/v2/models/genrec/infer", json={"id": "q", "inputs": inputs})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("genrec", "m1", "q")
    assert body["parameters"] == {"catalogue_version": "c1"}
    out = {part["name"]: (part["datatype"], part["shape"], part["data"]) for part in body["outputs"]}
    assert out["item_id"] == ("BYTES", [2, 2], ["i9", "i11", "i2", ""])
    assert out["score"] == ("FP64", [2, 2], [-0.5, -2.5, 0.0, 0.0])
    assert out["num_items"] == ("INT64", [2], [2, 1])
    assert out["num_unknown"] == ("INT64", [2], [0, 1])
    assert out["num_unknown_tags"] == ("INT64", [2], [0, 1])
    nested = {**HISTORY, "data": [["i3", "i7"], ["", "i1"]]}
    wanted = {"inputs": [nested], "outputs": [{"name": "num_items"}]}
    assert client.post("/v2/models/genrec/versions/m1/infer", json=wanted).json()["outputs"] == [
        {"name": "num_items", "datatype": "INT64", "shape": [2], "data": [10, 10]}
    ]


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ([], "expected the inputs history"),
        ([HISTORY, HISTORY], "expected the inputs history"),
        ([HISTORY, tensor("size", [1], [1], "INT64")], "expected the inputs history"),
        ([tensor("history", [2, 3], ["i3"])], "does not fill the shape"),
        ([tensor("history", [-1, -1], ["i3"])], "does not fill the shape"),
        ([tensor("history", [10**12, 0], [])], "expected at most 3 rows"),
        ([tensor("history", [1], ["i3"])], "a shape of two sizes"),
        ([tensor("history", [1, 2], [["i3"], "i4"])], "nested in part"),
        ([tensor("history", [1, 1], [3])], "expected values of the type text"),
        ([tensor("history", [1, 1], ["i3"], "INT64")], "expected the datatype BYTES"),
        ([HISTORY, tensor("k", [1], [True], "INT64")], "expected values of the type integer"),
        ([HISTORY, tensor("k", [1], [10**30], "INT64")], "k: expected 1 to 20"),
        ([HISTORY, tensor("k", [3], [1, 1, 1], "INT64")], "k: expected the shape"),
        ([HISTORY, tensor("allow", [1, 1], ["i3"])], "allow has to have as many rows as history, 2"),
        ([HISTORY, tensor("deny_tags", [1, 1], ["a=b"])], "deny_tags has to have as many rows as history, 2"),
    ],
)
def test_inference_refuses_what_is_no_request(client: TestClient, inputs: list[Any], line: str) -> None:
    answer = client.post("/v2/models/genrec/infer", json={"inputs": inputs})
    assert answer.status_code == 422
    assert line in answer.json()["error"]


def test_no_rows_get_no_answers(client: TestClient) -> None:
    answer = client.post("/v2/models/genrec/infer", json={"inputs": [tensor("history", [0, 0], [])]})
    assert answer.status_code == 200
    assert {part["name"]: part["shape"] for part in answer.json()["outputs"]}["item_id"] == [0, 0]


def test_the_protocol_s_descriptions(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "genrec"
    assert client.get("/v2/health/ready").json() == {"ready": True}
    metadata = client.get("/v2/models/genrec").json()
    assert metadata == client.get("/v2/models/genrec/versions/m1").json()
    assert (metadata["name"], metadata["versions"]) == ("genrec", ["m1"])
    assert [part["name"] for part in metadata["inputs"]] == [
        *("history", "exclude", "allow", "allow_tags", "deny_tags", "k")
    ]
    assert client.get("/v2/models/genrec/ready").json() == {"name": "genrec", "ready": True}
    for path in ("/v2/models/other", "/v2/models/genrec/versions/m0", "/v2/models/genrec/versions/m0/ready"):
        assert client.get(path).status_code == 404


# --- metrics, page, description --------------------------------------------------------------------------------------


def test_metrics_count_what_happened(folder: Path) -> None:
    with make(folder) as client:
        post(client, history=["nobody", "i1"])
        post(client, history=[], allow=[])
        post(client, history=["i1"], deny_tags=["colour=red", "digit=4"])
        post(client, history=[], k=99)
        client.get("/x/y")
        text = client.get("/metrics").text
    for line in (
        "genrec_unknown_items_total 1.0",
        "genrec_empty_answers_total 1.0",
        "genrec_unknown_tags_total 1.0",
        'genrec_errors_total{status="422"} 1.0',
        'genrec_errors_total{status="404"} 1.0',
        'genrec_request_seconds_count{route="/recommend",status="200"} 3.0',
        'genrec_request_seconds_count{route="other",status="404"} 1.0',
        "genrec_batch_rows_sum 3.0",
        'genrec_version{catalogue="c1",model="m1"} 1.0',
        "genrec_waiting_rows 0.0",
    ):
        assert line in text.splitlines(), line
    assert re.search(r"^genrec_catalogue_age_seconds \d", text, flags=re.MULTILINE)


def test_the_page_takes_nothing_from_elsewhere_and_allows_only_itself(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert not re.findall(r"https?://|src=|@import|url\(|innerHTML|style=|onclick=\"", answer.text)
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    found = client.get("/titles", params={"q": "TITLE 42"}).json()
    assert found == {"items": [{"item_id": "i42", "title": "Title of <b>42</b>"}]}
    assert client.get("/titles", params={"limit": 99}).status_code == 422


def test_the_page_can_be_left_out(folder: Path) -> None:
    with make(folder, page=False) as client:
        assert client.get("/").status_code == client.get("/titles").status_code == 404


def test_the_description_lists_routes_and_refusals(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/recommend", "/metrics", "/v2/health/live", "/v2/models/{name}/infer", "/titles"} <= paths.keys()
    assert {"200", "413", "422", "503", "504"} <= paths["/recommend"]["post"]["responses"].keys()


def test_items_of_the_history_are_left_out_where_asked(client: TestClient) -> None:
    asked = {"history": ["i3", "nobody"], "k": 5, "allow": ["i3", "i5"]}
    plain, without = (post(client, **asked, exclude_seen=seen).json() for seen in (False, True))
    assert sorted(item["item_id"] for item in plain["items"]) == ["i3", "i5"]
    assert [item["item_id"] for item in without["items"]] == ["i5"]
    assert plain["num_unknown"] == without["num_unknown"] == 1
