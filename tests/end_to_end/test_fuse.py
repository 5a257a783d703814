"""Hybrids through the command line: tuned on validation, in the table, served, and refused where parents changed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from command_line import RUNNER, fails, works

from genrec.cli import app
from genrec.files import read_json

MODEL = ["model.width=16", "model.hidden=32", "model.num_heads=2", "model.history_length=8"]
SHORT = ["stopping.max_epochs=2", "optimizer.batch_size=16", "accelerator=cpu", "optimizer.learning_rate=5e-3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset d, a generative recommender g/recommender and a dense one s/recommender."""
    folder = tmp_path_factory.mktemp("fuse")
    size = ["source.num_users=150", "source.num_items=60", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", "tokenizer.codebook_sizes=[12,12]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/ids", *words, "gates.max_collision_rate=1")
    train = ["train", *MODEL, *SHORT, f"dataset={folder}/d"]
    quick = ["model.depth_hidden=16", "stopping.prefix_negatives=0"]
    works(*train, f"run={folder}/g", f"semantic_ids={folder}/ids", *quick)
    works(*train, f"run={folder}/s", "model=sasrec", "model.dropout_input=0.1")
    return folder


def fuse_words(folder: Path, output: Path, *more: str) -> list[str]:
    parents = [f"generative={folder}/g/recommender", f"dense={folder}/s/recommender"]
    return ["fuse", f"dataset={folder}/d", *parents, f"output={output}", "search.beam_width=20", *more]


def test_a_hybrid_is_tuned_on_validation_and_stands_in_the_table(folder: Path, tmp_path: Path) -> None:
    found = works(*fuse_words(folder, tmp_path / "h", "method=in_beam", "weights=[0,0.5,1]"))
    trials = read_json(tmp_path / "h" / "trials.json")["trials"]
    assert [trial["weight"] for trial in trials] == [0, 0.5, 1]
    best = max(trials, key=lambda trial: trial["recall@10"])
    assert (found["weight"], found["recall@10"]) == (best["weight"], best["recall@10"])
    assert found["weight"] != 0, "the dense side is the better one here"
    manifest = read_json(tmp_path / "h" / "manifest.json")
    assert set(manifest["parents"]) == {"dataset", "generative", "dense"}
    words = [f"recommenders.hybrid={tmp_path}/h", f"recommenders.alone={folder}/g/recommender", "models=[popularity]"]
    search = ["search.beam_width=20", "cutoffs=[10,20]", "split=validation"]
    table = works("evaluate", f"dataset={folder}/d", f"output={tmp_path}/e", *words, *search)
    rows = {row["model"]: row["metrics"]["recall@10"]["mean"] for row in table["rows"] if row["mask"] == "none"}
    assert rows["hybrid"] == pytest.approx(best["recall@10"])
    assert rows["alone"] == pytest.approx(trials[0]["recall@10"])


@pytest.mark.parametrize("method", ["rank_fusion", "mixture", "rescoring"])
def test_every_method_is_served_with_either_dense_side(method: str, folder: Path, tmp_path: Path) -> None:
    side = ["dense=null", "item_knn.window=3"] if method == "mixture" else []
    words = fuse_words(folder, tmp_path / "h", f"method={method}", "weights=[0.5]", "constants=[10]", *side)
    shown = RUNNER.invoke(app, words)
    assert shown.exit_code == 0, shown.output + repr(shown.exception)
    assert "next: genrec evaluate" in shown.output
    parents = read_json(tmp_path / "h" / "manifest.json")["parents"]
    assert ("dense" in parents) == (not side)
    words = [f"dataset={folder}/d", f"recommender={tmp_path}/h", f"output={tmp_path}/top.parquet", "k=5"]
    works("recommend", *words, "search.beam_width=20")
    assert len(pl.read_parquet(tmp_path / "top.parquet")) == 150 * 5


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    works(*fuse_words(folder, tmp_path / "h", "weights=[1]"))
    words = fuse_words(folder, tmp_path / "x", f"generative={folder}/s/recommender")
    assert "has no semantic IDs" in fails(*words, code=2)
    assert "not a dense recommender" in fails(
        *fuse_words(folder, tmp_path / "x", f"dense={folder}/g/recommender"), code=2
    )
    assert "search.beam_width=30" in fails(*fuse_words(folder, tmp_path / "x", "cutoff=30"), code=2)
    assert "already there" in fails(*fuse_words(folder, tmp_path / "h"), code=2)
    train = ["train", *MODEL, *SHORT, f"dataset={folder}/d", f"run={tmp_path}/t", f"semantic_ids={folder}/ids"]
    assert "initial" in fails(*train, f"initial={folder}/s/recommender", code=2)
    words = [f"dataset={folder}/d", f"recommender={tmp_path}/h", f"output={tmp_path}/top.parquet"]
    assert "leave out semantic_ids" in fails("recommend", *words, f"semantic_ids={folder}/ids", code=2)


def test_a_parent_that_was_trained_again_is_refused(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "s"
    train = ["train", *MODEL, *SHORT, f"dataset={folder}/d", "model=sasrec", f"run={run}", "stopping.max_epochs=1"]
    works(*train)
    works(*fuse_words(folder, tmp_path / "h", f"dense={run}/recommender", "weights=[1]"))
    run.rename(tmp_path / "old")
    works(*train, "seed=1")
    words = [f"recommenders.h={tmp_path}/h", "models=[popularity]", "search.beam_width=20", "cutoffs=[5]"]
    line = fails("evaluate", f"dataset={folder}/d", f"output={tmp_path}/e", *words, code=5)
    assert "made from another 'dense'" in line
