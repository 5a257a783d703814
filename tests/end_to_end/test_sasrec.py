"""The dense baseline through the command line: trained, resumed, evaluated beside the others, served; and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from command_line import RUNNER, fails, works
from safetensors.numpy import load_file

from genrec.cli import app
from genrec.data.dataset import Dataset
from genrec.files import read_json
from genrec.pipeline.recommenders import load_dense
from genrec.training import loop

SMALL = ["model=sasrec", "model.width=16", "model.hidden=32", "model.history_length=8", "model.dropout_input=0.2"]
SHORT = ["stopping.max_epochs=4", "optimizer.batch_size=16", "accelerator=cpu", "optimizer.learning_rate=5e-3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset d and run r."""
    folder = tmp_path_factory.mktemp("dense")
    size = ["source.num_users=150", "source.num_items=80", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works(*train_words(folder, folder / "r"))
    return folder


def train_words(folder: Path, run: Path, *more: str) -> list[str]:
    return ["train", *SMALL, *SHORT, f"dataset={folder}/d", f"run={run}", *more]


def test_it_is_in_the_table(folder: Path) -> None:
    words = [f"recommenders.sasrec={folder}/r/recommender", "models=[popularity,optimum]", "cutoffs=[5,50]"]
    found = works("evaluate", f"dataset={folder}/d", f"output={folder}/e", *words, "reference=sasrec")
    rows = {(row["model"], row["mask"]): row["metrics"]["recall@5"]["mean"] for row in found["rows"]}
    assert len(rows) == 6
    assert rows["popularity", "none"] < rows["sasrec", "none"] <= rows["optimum", "none"] + 0.1
    assert found["comparisons"]
    manifest = read_json(folder / "e" / "manifest.json")
    assert set(manifest["parents"]) == {"dataset", "recommender sasrec"}
    recommender = read_json(folder / "r" / "recommender" / "manifest.json")
    assert set(recommender["parents"]) == {"dataset"}


def test_the_evaluated_index_is_the_one_that_is_asked_for(folder: Path) -> None:
    words = [f"recommenders.sasrec={folder}/r/recommender", "models=[popularity]", "cutoffs=[5]", "search.index=ivf"]
    shown = RUNNER.invoke(app, ["evaluate", f"dataset={folder}/d", f"output={folder}/ivf", *words])
    assert shown.exit_code == 0, shown.output + repr(shown.exception)
    assert "sasrec: the ivf index finds" in shown.output
    assert "next: genrec inspect user" in shown.output


def test_recommendations_are_the_best_inner_products(folder: Path) -> None:
    words = [f"dataset={folder}/d", f"recommender={folder}/r/recommender", "k=60"]
    works("recommend", *words, f"output={folder}/top.parquet")
    table = pl.read_parquet(folder / "top.parquet")
    dataset = Dataset.load(folder / "d")
    _, model = load_dense(folder / "r" / "recommender", dataset)
    ids = dataset.item_ids.to_list()
    for user, history in list(zip(dataset.user_ids, dataset.histories(), strict=True))[:5]:
        rows = torch.from_numpy(history[None].astype(np.int64))
        with torch.no_grad():
            scores = model.encode(rows, torch.tensor([len(history)]))[0] @ model.item_vectors().T
        order = [int(item) for item in scores.argsort(descending=True, stable=True) if int(item) not in set(history)]
        shown = table.filter(pl.col("user_id") == user)
        assert shown["item_id"].to_list() == [ids[item] for item in order[:60]]
    assert "k=80" in fails("recommend", *words[:2], f"output={folder}/x.parquet", "k=81", code=2)


def test_a_run_that_was_cut_off_goes_on_to_equal_weights(folder: Path, tmp_path: Path) -> None:
    """With shared negatives and dropout; interrupted after its first checkpoint."""
    loss = ["loss=sampled_softmax", "loss.num_negatives=20", "loss.popularity_power=0.5"]
    short = [*loss, "stopping.max_epochs=2"]
    works(*train_words(folder, tmp_path / "whole", *short))
    words = train_words(folder, tmp_path / "part", *short)
    save = loop._save

    def interrupt(path: Path, state: loop.TrainingState, tensors: dict[str, object]) -> None:
        save(path, state, tensors)
        if path.name == "last.pt":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", interrupt)
        assert RUNNER.invoke(app, words).exit_code == 130
    works(*words, "--resume")
    files = [load_file(tmp_path / run / "recommender" / "weights.safetensors") for run in ("whole", "part")]
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "part")]
    assert len(lines[0]) == len(lines[1]) == 2


@pytest.mark.parametrize("loss", [["loss=gbce"], ["loss.label_smoothing=0.2", "model.normalise=true"]])
def test_other_losses_train(loss: list[str], folder: Path, tmp_path: Path) -> None:
    found = works(*train_words(folder, tmp_path / "run", *loss, "stopping.max_epochs=2", "model.temperature=0.5"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["train_loss"] < lines[0]["train_loss"]
    assert found["recall@10"] > 0


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "leave out semantic_ids" in fails(*train_words(folder, run, f"semantic_ids={folder}/d"), code=2)
    assert "takes no initial" in fails(*train_words(folder, run, f"initial={folder}/r/recommender"), code=2)
    assert "loss=cross_entropy" in fails(*train_words(folder, run, "loss=prefix_pairwise"), code=2)
    assert "level_weights" in fails(*train_words(folder, run, "loss.level_weights=[1,2]"), code=2)
    line = fails("train", f"dataset={folder}/d", f"run={run}", code=2)
    assert "model=hierarchical needs semantic IDs" in line
    assert not run.exists()
    words = [f"dataset={folder}/d", f"recommender={folder}/r/recommender"]
    assert "has no semantic IDs" in fails("inspect", "search", *words, "user=user-00001", code=2)
    served = fails("recommend", *words, f"output={folder}/x.parquet", f"semantic_ids={folder}/d", code=2)
    assert "leave out semantic_ids" in served


def test_another_dataset_is_refused(folder: Path, tmp_path: Path) -> None:
    size = ["source.num_users=100", "source.num_items=80", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={tmp_path}/d")
    words = [f"recommenders.sasrec={folder}/r/recommender", "models=[popularity]"]
    line = fails("evaluate", f"dataset={tmp_path}/d", f"output={tmp_path}/e", *words, code=5)
    assert "was made from another 'dataset'" in line


@pytest.mark.slow
def test_the_optimum_of_a_planted_catalogue_is_nearly_reached(tmp_path: Path) -> None:
    size = ["source.num_users=3000", "source.num_items=40", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={tmp_path}/d")
    model = ["model=sasrec", "model.dropout_input=0.1", "model.dropout_blocks=0.1", "model.history_length=20"]
    how = ["stopping.max_epochs=10", "optimizer.learning_rate=2e-3", "accelerator=cpu"]
    works("train", *model, *how, f"dataset={tmp_path}/d", f"run={tmp_path}/r")
    words = [f"recommenders.sasrec={tmp_path}/r/recommender", "models=[item_knn,optimum]", "num_resamples=100"]
    found = works("evaluate", f"dataset={tmp_path}/d", f"output={tmp_path}/e", *words, "search.beam_width=40")
    of = {row["model"]: row["metrics"] for row in found["rows"] if row["mask"] == "none"}
    for metric in ("recall@10", "ndcg@10"):
        best = of["optimum"][metric]["mean"]
        assert of["item_knn"][metric]["mean"] < 0.9 * best, "too easy to tell anything"
        assert 0.97 * best <= of["sasrec"][metric]["mean"] <= 1.01 * best
