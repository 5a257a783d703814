"""Hybrids and dense recommenders leave the lab as a whole: what was evaluated is what is shipped."""

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # tracing takes most of a minute

PROJECT = Path(__file__).resolve().parents[2]
DENSE = ["model=sasrec", "model.width=16", "model.hidden=32", "model.num_heads=2", "model.history_length=6"]
SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
WIDE = "search.beam_width=20"


@pytest.fixture(scope="module")
def made(road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense recommender s/recommender, a hybrid h of it and of that of `road`, and the bundle b of the hybrid."""
    folder = tmp_path_factory.mktemp("hybrid")
    works("train", f"dataset={road}/d", f"run={folder}/s", *DENSE, *SHORT, "optimizer.learning_rate=5e-3")
    fused(road, folder / "h", f"dense={folder}/s/recommender", "method=mixture", "weights=[0.5]")
    assert traced(road, folder / "h", folder / "b")["parity"]["passed"]
    return folder


def fused(road: Path, output: Path, *words: str) -> None:
    given = [f"dataset={road}/d", f"generative={road}/r/recommender", f"output={output}", WIDE]
    works("fuse", *given, "max_cases=40", *words)


def traced(road: Path, recommender: Path, output: Path, *words: str) -> dict[str, Any]:
    """`genrec export` in a process of its own: the checks of shapes and types that tests install cannot be traced."""
    given = [f"dataset={road}/d", f"recommender={recommender}", f"output={output}", WIDE, "num_probes=12"]
    program = [sys.executable, "-m", "genrec", "export", *given, *words, "--json"]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_lists(road: Path, recommender: Path, bundle: CandidateGenerator, folder: Path) -> None:
    """Both recommend the same to all users."""
    words = [f"dataset={road}/d", f"recommender={recommender}", f"output={folder}/found.parquet"]
    works("recommend", *words, "k=10", WIDE)
    found = pl.read_parquet(folder / "found.parquet").group_by("user_id", maintain_order=True)
    expected = found.agg("item_id")["item_id"].to_list()
    dataset = Dataset.load(road / "d")
    names = dataset.item_ids.to_list()
    histories = [[names[item] for item in row] for row in dataset.histories().to_lists()]
    lists = bundle.recommend(histories, 10, exclude_seen=True).item_ids
    same = [own == other for own, other in zip(lists, expected, strict=True)]
    assert len(same) == 150
    assert np.mean(same) > 0.95, "the same lists, but for ties"


def test_a_bundle_of_a_hybrid_recommends_what_the_hybrid_does(road: Path, made: Path, tmp_path: Path) -> None:
    check_lists(road, made / "h", CandidateGenerator.load(made / "b"), tmp_path)
    words = [sys.executable, "-B", "-I", str(made / "b" / "runtime.py"), str(made / "b"), "--history", "i1"]
    subprocess.run([*words, "-k", "3"], capture_output=True, text=True, check=True)
    works("catalogue", "publish", f"bundle={made}/b", f"output={tmp_path}/served")
    works("triton", f"bundle={made}/b", f"output={tmp_path}/models")


def test_a_bundle_names_what_it_was_made_of(road: Path, made: Path, tmp_path: Path) -> None:
    config = read_json(made / "b" / "config.json")
    model = config["model"]
    assert (model["name"], model["method"], model["weight"]) == ("hybrid", "mixture", 0.5)
    assert (model["generative"]["name"], model["dense"]["name"]) == ("hierarchical", "sasrec")
    assert any(name.startswith("recall@") for name in config["metrics"])
    manifest = read_json(made / "b" / "manifest.json")
    assert set(manifest["parents"]) == {"dataset", "recommender", "semantic_ids"}
    assert manifest["parents"]["recommender"]["identity"] == config["model_version"]
    side = f"dense={made}/s/recommender"
    fused(road, tmp_path / "h2", side, "method=mixture", "weights=[0.6]")
    fused(road, tmp_path / "h3", "method=mixture", "weights=[0.5]")
    versions = {
        read_json(path / "manifest.json")["identity"] for path in (made / "h", tmp_path / "h2", tmp_path / "h3")
    }
    assert len(versions) == 3, "a version of its own for each weight and side"


def test_the_other_dense_side_and_the_other_format(road: Path, tmp_path: Path) -> None:
    fused(road, tmp_path / "h", "method=rank_fusion", "weights=[0.5]", "constants=[60]", "item_knn.window=3")
    assert traced(road, tmp_path / "h", tmp_path / "b", "format=torch_export")["parity"]["passed"]


def test_a_dense_recommender_alone(road: Path, made: Path, tmp_path: Path) -> None:
    assert traced(road, made / "s" / "recommender", tmp_path / "b")["parity"]["passed"]
    bundle = CandidateGenerator.load(tmp_path / "b")
    check_lists(road, made / "s" / "recommender", bundle, tmp_path)
    assert bundle.codes.shape == (80, 0)
    assert "semantic IDs" not in (tmp_path / "b" / "README.md").read_text()
    again = [f"recommender={made}/s/recommender", f"graph={tmp_path}/b", f"output={tmp_path}/b2"]
    found = works("export", f"dataset={road}/d", *again, WIDE, "num_probes=12")
    assert found["parity"]["passed"]
    assert (tmp_path / "b2" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_what_cannot_be_is_one_line(road: Path, made: Path, tmp_path: Path) -> None:
    words = [f"dataset={road}/d", f"recommender={made}/h", f"output={tmp_path}/b"]
    assert "leave out semantic_ids" in fails("export", *words, f"semantic_ids={road}/s", code=2)
    assert "search.index=flat" in fails("export", *words, WIDE, "search.index=hnsw", code=2)
    line = fails("export", *words, WIDE, "search.num_candidates=30", code=2)
    assert "1 to 20, the beam width" in line
    assert not (tmp_path / "b").exists()
