"""Searches by value leave the lab too: from a value head to a bundle, and to the next day's catalogue in its graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import fails, works

from genrec.data.dataset import Dataset
from genrec.files import read_json
from genrec.serving.runtime import CandidateGenerator

pytest.importorskip("onnx", reason="needs the extra `export`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # tracing takes minutes

PROJECT = Path(__file__).resolve().parents[2]
SEARCH = ["search=value_guided", "search.node_budget=32", "search.initial_width=4", "search.num_candidates=10"]


@pytest.fixture(scope="module")
def valued(road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run v of a value head on top of the recommender of `road`, and the bundle b of a search by it."""
    folder = tmp_path_factory.mktemp("valued")
    words = [f"dataset={road}/d", f"initial={road}/r/recommender", f"run={folder}/v", f"embeddings={road}/e"]
    short = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
    works("finetune", *words, *short, "mode=value")
    made = traced(*places(road, folder), f"output={folder}/b")
    assert made["parity"]["passed"]
    assert made["parity"]["num_probes"] == 12
    return folder


def places(road: Path, valued: Path) -> list[str]:
    return [f"dataset={road}/d", f"recommender={valued}/v/recommender", "num_probes=12"]


def traced(*words: str) -> dict[str, Any]:
    """`genrec export` in a process of its own: the checks of shapes and types that tests install cannot be traced."""
    program = [sys.executable, "-m", "genrec", "export", *words, *SEARCH, "--json"]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bundle_recommends_what_the_search_by_value_does(road: Path, valued: Path, tmp_path: Path) -> None:
    own = [f"dataset={road}/d", f"recommender={valued}/v/recommender", f"output={tmp_path}/found.parquet"]
    works("recommend", *own, "k=10", *SEARCH)
    found = pl.read_parquet(tmp_path / "found.parquet").group_by("user_id", maintain_order=True)
    expected = found.agg("item_id")["item_id"].to_list()
    dataset, bundle = Dataset.load(road / "d"), CandidateGenerator.load(valued / "b")
    names = dataset.item_ids.to_list()
    histories = [[names[item] for item in row] for row in dataset.histories().to_lists()]
    lists = bundle.recommend(histories, 10, exclude_seen=True).item_ids
    same = [own == other for own, other in zip(lists, expected, strict=True)]
    assert len(same) == 150
    assert np.mean(same) > 0.95, "the same lists, but for ties"


def test_a_bundle_says_how_it_searches(valued: Path) -> None:
    config = read_json(valued / "b" / "config.json")
    assert config["graph"]["seed"] == 0
    search = config["graph"]["search"]
    assert (search["name"], search["node_budget"], search["initial_width"]) == ("value_guided", 32, 4)
    assert "by a search by the value of 32 prefixes" in " ".join((valued / "b" / "README.md").read_text().split())
    for name in ("model.onnx", "prepare.onnx"):
        assert str(PROJECT).encode() not in (valued / "b" / name).read_bytes(), "what nodes came from which files"


def test_the_next_catalogue_goes_into_the_same_graph(road: Path, valued: Path, tmp_path: Path) -> None:
    dataset = Dataset.load(road / "d")
    like = dataset.items[:2].select("title", "brand", "description", pl.col("categories").list.join("|"))
    like.with_columns(pl.Series("item_id", ["new1", "new2"])).write_csv(tmp_path / "new.csv")
    works("catalogue", "append", f"semantic_ids={road}/s", f"items={tmp_path}/new.csv", f"output={tmp_path}/s2")
    later = [*places(road, valued), f"semantic_ids={tmp_path}/s2", f"graph={valued}/b", f"output={tmp_path}/b2"]
    assert works("export", *later, *SEARCH)["parity"]["passed"]
    bundle = CandidateGenerator.load(tmp_path / "b2")
    found = bundle.recommend([[dataset.item_ids[0]]], 10, allow=[["new1", "new2"]])
    assert set(found.item_ids[0]) == {"new1", "new2"}
    line = fails("export", *later, *SEARCH, "search.node_budget=40", "overwrite=true", code=2)
    assert "expected search.node_budget=32, found search.node_budget=40" in line
    line = fails("export", *later, "search.beam_width=10", "overwrite=true", code=2)
    assert "expected search.name=value_guided" in line


def test_the_program_of_torch_export(road: Path, valued: Path, tmp_path: Path) -> None:
    made = traced(*places(road, valued), f"output={tmp_path}/b", "format=torch_export", "search.rank_by=mixture")
    assert made["parity"]["passed"]


def test_what_has_no_value_head_or_no_such_graph_is_refused(road: Path, tmp_path: Path) -> None:
    words = [f"dataset={road}/d", f"recommender={road}/r/recommender", f"output={tmp_path}/b"]
    assert "genrec finetune mode=value" in fails("export", *words, *SEARCH, code=2)
    assert not (tmp_path / "b").exists()
