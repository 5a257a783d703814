"""One server, three catalogues: an item comes, an item goes, and it is rolled back, without training or tracing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import works
from served import Served

from genrec.data.dataset import Dataset

pytest.importorskip("onnx", reason="needs the extra `export`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # tracing takes most of a minute

PROJECT = Path(__file__).resolve().parents[2]
SEARCH = ["search.beam_width=20", "num_probes=12"]


@pytest.fixture(scope="module")
def first(road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first bundle; traced in a process of its own, since checks of shapes that tests install cannot be traced."""
    folder = tmp_path_factory.mktemp("first")
    words = [sys.executable, "-m", "genrec", "export", *places(road), f"output={folder}/b", *SEARCH, "--json"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_tags"] > 4
    return folder / "b"


@pytest.fixture
def server(first: Path, tmp_path: Path) -> Iterator[Served]:
    """It answers from the folder `served`, whose first version is the first bundle."""
    works("catalogue", "publish", f"bundle={first}", f"output={tmp_path}/served")
    with Served(tmp_path / "served", "--check-s", "0.05", log=tmp_path / "log") as served:
        yield served
        assert served.end() == 0


def places(road: Path) -> list[str]:
    return [f"dataset={road}/d", f"recommender={road}/r/recommender"]


def ask(server: Served, history: list[str], **more: Any) -> dict[str, Any]:
    answer = server.client.post("/recommend", json={"history": history, "k": 20, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def wait_for(server: Served, catalogue: str) -> None:
    end = time.monotonic() + 60
    while ask(server, [])["catalogue_version"] != catalogue:
        assert time.monotonic() < end, f"catalogue {catalogue} is not served"
        time.sleep(0.02)


def test_a_running_server_follows_the_catalogue_there_and_back(
    road: Path, first: Path, server: Served, tmp_path: Path
) -> None:
    old = ask(server, [])
    dataset = Dataset.load(road / "d")
    like, gone = dataset.items.row(0, named=True), dataset.item_ids[5]
    brand = {"allow_tags": [f"brand={like['brand']}"]}
    assert ask(server, ["new"])["num_unknown"] == 1

    # An item comes: its ID is made from its text, and goes into the graph that is there.
    row = {"item_id": "new", "title": like["title"] + " again", "categories": "|".join(like["categories"])}
    pl.DataFrame([row | {"brand": like["brand"], "description": None}]).write_csv(tmp_path / "new.csv")
    works("catalogue", "append", f"semantic_ids={road}/s", f"items={tmp_path}/new.csv", f"output={tmp_path}/s2")
    second = publish(road, tmp_path, "2", graph=first)
    found = works("catalogue", "diff", f"before={first}", f"after={tmp_path}/served")
    assert (found["added"], found["gone"], found["moved"], found["retagged"]) == (["new"], [], [], [])
    assert found["same_model"]
    wait_for(server, second)
    answer = ask(server, ["new"])
    assert (answer["num_unknown"], answer["is_popular"]) == (0, False)
    assert answer["model_version"] == old["model_version"]
    assert items(ask(server, [dataset.item_ids[1]], allow=["new"])) == ["new"]
    assert "new" in items(ask(server, [dataset.item_ids[1]], **brand, allow=["new", *dataset.item_ids[:10]]))
    assert (tmp_path / "b2" / "model.onnx").read_bytes() == (first / "model.onnx").read_bytes()

    # An item goes, and is in no answer, whatever is asked.
    works("catalogue", "retire", f"semantic_ids={tmp_path}/s2", f"ids={gone}", f"output={tmp_path}/s3")
    third = publish(road, tmp_path, "3", graph=tmp_path / "b2")
    found = works("catalogue", "diff", f"before={tmp_path}/s2", f"after={tmp_path}/s3")
    assert (found["added"], found["gone"], found["moved"]) == ([], [gone], [])
    wait_for(server, third)
    tags = {"allow_tags": [f"brand={dataset.items['brand'][5]}"]}
    for history in ([], ["new"], [gone], *([item] for item in dataset.item_ids[:20])):
        for more in ({}, {"allow": [gone]}, {"allow": [gone, "new"]}, tags):
            assert gone not in items(ask(server, history, **more))
    assert items(ask(server, [gone], allow=[gone, "new"])) == ["new"]

    # The version before answers again, and with it the item that went; then the one before that.
    works("catalogue", "rollback", f"output={tmp_path}/served")
    wait_for(server, second)
    assert set(items(ask(server, ["new"], allow=[gone, "new"]))) == {gone, "new"}
    works("catalogue", "rollback", f"output={tmp_path}/served")
    wait_for(server, old["catalogue_version"])
    assert ask(server, []) == old
    assert 'genrec_swaps_total{outcome="swapped"} 4.0' in server.client.get("/metrics").text


def publish(road: Path, folder: Path, number: str, *, graph: Path) -> str:
    """Exports a version of the semantic IDs into a graph that is there, and leads the server to it; its version."""
    words = [*places(road), f"semantic_ids={folder}/s{number}", f"graph={graph}", f"output={folder}/b{number}"]
    made = works("export", *words, *SEARCH)
    assert made["parity"]["passed"]
    works("catalogue", "publish", f"bundle={folder}/b{number}", f"output={folder}/served")
    return made["catalogue_version"]


def test_tags_of_the_data_are_those_of_the_server(road: Path, first: Path, server: Served) -> None:
    """The oracle is a set of the dataset's items for each value of its columns."""
    table = Dataset.load(road / "d").items
    having: dict[str, set[str]] = {}
    for row in table.to_dicts():
        for tag in {f"brand={row['brand']}", *(f"categories={word}" for word in row["categories"])}:
            having.setdefault(tag, set()).add(row["item_id"])
    told = server.client.get("/tags", params={"limit": 1000}).json()["tags"]
    assert {entry["tag"]: entry["num_items"] for entry in told} == {tag: len(own) for tag, own in having.items()}
    for tag, own in having.items():
        assert items(ask(server, ["nobody"], allow_tags=[tag])) == items(ask(server, ["nobody"], allow=sorted(own)))
        assert not own & set(items(ask(server, [table["item_id"][0]], deny_tags=[tag])))


def test_a_column_that_is_no_tag_is_refused_before_anything_is_traced(road: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "genrec", "export", *places(road), f"output={tmp_path}/b", "tags=[brand,colour]"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    line = "error: key 'tags': the items have no such column of text (expected any of title, brand, categories"
    assert done.stderr.splitlines()[-1].startswith(line)
    assert list(tmp_path.iterdir()) == []
