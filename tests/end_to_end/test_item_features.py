"""Item features through the command line: trained, saved, served over later items, and taken to newer data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from command_line import RUNNER, fails, works
from safetensors.numpy import load_file

from genrec.baselines.base import count_items
from genrec.cli import app
from genrec.data.dataset import Dataset
from genrec.pipeline.recommenders import build_generator, load_recommender, load_served

MODEL = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2", "model.history_length=8"]
SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
GATES = ["gates.max_collision_rate=1", "gates.max_dead_share=1", "gates.min_perplexity_share=0"]
FEATURES = ["model.item_features=[categories,brand]", "model.feature_min_count=3"]
NUM_ITEMS = 60


def train(road: Path, run: Path, *more: str, data: str = "d") -> list[str]:
    words = [f"dataset={road}/{data}", f"semantic_ids={road}/{data}_ids", f"run={run}"]
    return ["train", *words, *MODEL, *SHORT, *more]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset d and a recommender; items w to z in version s2 of its semantic IDs, like items 0 to 3 but for the brand.

    The brand of w is known, that of the others is new.
    """
    folder = tmp_path_factory.mktemp("features")
    size = ["source.num_users=120", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", "tokenizer.codebook_sizes=[8,8]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/d_ids", *words, *GATES)
    works(*train(folder, folder / "run", *FEATURES))
    items = described(Dataset.load(folder / "d"))
    brands = pl.Series("brand", [items["brand"][0], "New", "New", "New"])
    items[:4].with_columns(pl.Series("item_id", list("wxyz")), brands).write_csv(folder / "new.csv")
    works("catalogue", "append", f"semantic_ids={folder}/d_ids", f"items={folder}/new.csv", f"output={folder}/s2")
    return folder


def described(dataset: Dataset) -> pl.DataFrame:
    return dataset.items.select("item_id", "title", "brand", "description", pl.col("categories").list.join("|"))


def facts(run: Path) -> dict[str, dict[str, list[str]]]:
    return json.loads((run / "recommender" / "model.json").read_text())["features"]


def test_the_vocabulary_is_what_the_dataset_has_often_enough(road: Path) -> None:
    items = Dataset.load(road / "d").items
    found = facts(road / "run")
    for name in ("categories", "brand"):
        counts = items[name].explode().value_counts()
        frequent = counts.filter(pl.col("count") >= 3)[name].sort().to_list()
        assert found[name]["vocabulary"] == frequent
        assert 0 < len(frequent) <= len(counts)
    assert len(facts(road / "run")["brand"]["vocabulary"]) < items["brand"].n_unique()
    manifest = json.loads((road / "run" / "recommender" / "manifest.json").read_text())
    assert manifest["facts"]["item_features"] == ["categories", "brand"]
    assert "features" not in manifest["facts"]
    weights = load_file(road / "run" / "recommender" / "weights.safetensors")
    for name, of in found.items():
        table = weights[f"features.tables.{name}"]
        assert len(table) == 2 + len(of["vocabulary"])
        assert table[2:].any(axis=1).all()


def test_a_saved_recommender_gives_the_scores_it_had(road: Path) -> None:
    """The identity of what training wrote covers the weights; twice loaded, all is equal, and features count."""
    dataset, rows = Dataset.load(road / "d"), torch.tensor([[1, 2, 3]])
    (_, model), (_, again) = (load_recommender(road / "run" / "recommender", dataset) for _ in range(2))
    with torch.no_grad():
        before, after = (found.start(found.encode(rows, torch.tensor([3])))[0] for found in (model, again))
        assert torch.equal(before, after)
        again.features.describe({name: torch.zeros(NUM_ITEMS, 1, dtype=torch.int64) for name in facts(road / "run")})
        assert not torch.equal(again.start(again.encode(rows, torch.tensor([3])))[0], before)


def test_later_items_have_the_features_of_their_version(road: Path) -> None:
    dataset = Dataset.load(road / "d")
    _, model = load_recommender(road / "run" / "recommender", dataset)
    served = load_served(road / "run" / "recommender", dataset, road / "s2")
    assert served.item_ids[-4:] == list("wxyz")
    for name in ("categories", "brand"):
        old, new = model.features.numbers(name), served.model.features.numbers(name)
        assert torch.equal(new[:NUM_ITEMS], old)
        assert torch.equal(
            new[NUM_ITEMS:], old[:4] if name == "categories" else torch.tensor([[old[0, 0]], *[[1]] * 3])
        )
    output = road / "served.parquet"
    words = [f"dataset={road}/d", f"recommender={road}/run/recommender", f"semantic_ids={road}/s2", "k=3"]
    pl.DataFrame({"user_id": ["u"], "item_id": ["w"]}).write_csv(road / "h.csv")
    found = works("recommend", *words, f"histories={road}/h.csv", f"output={output}")
    assert (found["num_rows"], found["num_unknown_items"]) == (3, 0)


@pytest.mark.slow
def test_newer_data_bring_values_and_the_known_ones_stay_what_they_are(road: Path, tmp_path: Path) -> None:
    write_newer(road, tmp_path)
    published = ["tokenizer=published", f"tokenizer.semantic_ids={road}/s2"]
    works("tokenize", f"dataset={tmp_path}/n", f"output={tmp_path}/n_ids", *published, *GATES)
    warm = [f"initial={road}/run/recommender", "optimizer.learning_rate=0"]
    works(*train(tmp_path, tmp_path / "run", *FEATURES, *warm, data="n"))
    old, new = facts(road / "run"), facts(tmp_path / "run")
    assert new["brand"]["vocabulary"] == [*old["brand"]["vocabulary"], "New"]
    assert new["categories"]["vocabulary"] == old["categories"]["vocabulary"]
    before, after = (load_file(run / "recommender" / "weights.safetensors") for run in (road / "run", tmp_path / "run"))
    for name in old:
        table = before[f"features.tables.{name}"]
        assert np.array_equal(after[f"features.tables.{name}"][: len(table)], table)
    assert not after["features.tables.brand"][-1].any()
    places = Dataset.load(tmp_path / "n").item_ids.to_list()
    last = len(old["brand"]["vocabulary"]) + 2
    assert [after["features.numbers_brand"][places.index(name), 0] == last for name in "wxyz"] == [False, *[True] * 3]
    line = fails(*train(tmp_path, tmp_path / "x", *warm, data="n"), code=2)
    assert "key 'model.item_features' is not that of the initial recommender, nor is feature_min_count" in line
    assert "set model.item_features=[categories,brand] model.feature_min_count=3" in line


def write_newer(road: Path, folder: Path) -> None:
    """Dataset n: that of before, and later events of the new items."""
    dataset = Dataset.load(road / "d")
    events = dataset.load_interactions().join(dataset.users, on="user_index").join(dataset.items, on="item_index")
    events = events.select("user_id", "item_id", "timestamp")
    latest = int(events["timestamp"].max())  # pyright: ignore[reportArgumentType]
    more = [
        pl.DataFrame({"user_id": dataset.user_ids[:20], "item_id": name}).with_columns(
            timestamp=pl.lit(latest + day, dtype=pl.Int64)
        )
        for day, name in enumerate("wxyz", start=1)
    ]
    pl.concat([events, *more]).write_csv(folder / "events.csv")
    pl.concat([described(dataset), pl.read_csv(road / "new.csv")]).write_csv(folder / "items.csv")
    files = ["source=table", "source.interactions=events.csv", "source.items=items.csv"]
    no_core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0"]
    works("prepare", *files, *no_core, f"raw_dir={folder}", f"output={folder}/n")


def test_features_that_are_not_there_are_refused(road: Path, tmp_path: Path) -> None:
    line = fails(*train(road, tmp_path / "run", "model.item_features=[category]"), code=2)
    assert "key 'model.item_features': the items have no such column of text (expected any of title, brand" in line
    assert "found category)" in line
    assert not (tmp_path / "run").exists()


def test_time_gaps_are_read_in_training_evaluation_and_requests(road: Path, tmp_path: Path) -> None:
    dataset = Dataset.load(road / "d")
    works(*train(road, tmp_path / "run", "model.time_gaps=true", "optimizer.learning_rate=0.01"))
    path = tmp_path / "run" / "recommender"
    _, model = load_recommender(path, dataset)
    assert model.gaps.any(dim=1).sum() > 5
    counts = count_items(dataset.train(), dataset.num_items)
    generator = build_generator(model, dataset, counts, beam_width=50)
    words = ["recommend", f"dataset={road}/d", f"recommender={path}", "k=4", "exclude_seen=false"]
    works(*words, f"output={tmp_path}/told.parquet")
    ids, items = dataset.item_ids.to_list(), dataset.histories().to_lists()
    pairs = [(user, ids[item]) for user, row in zip(dataset.user_ids, items, strict=True) for item in row]
    pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / "h.csv")
    shown = RUNNER.invoke(app, [*words, f"histories={tmp_path}/h.csv", f"output={tmp_path}/untold.parquet"]).stdout
    assert "note: the recommender reads the time between events, and the histories were read without times" in shown
    histories = dataset.histories()
    found = {}
    for name, rows in (("told", histories), ("untold", replace(histories, times=None))):
        scores = pl.read_parquet(tmp_path / f"{name}.parquet")["score"].to_numpy().reshape(len(rows), 4)
        found[name] = generator.search(rows, 4).score.numpy()
        np.testing.assert_allclose(scores, found[name], rtol=1e-4)
    assert np.abs(found["told"] - found["untold"]).max() > 1e-3
    evaluate = [f"dataset={road}/d", f"recommenders.gaps={path}", "models=[popularity]", "num_resamples=100"]
    rows = works("evaluate", *evaluate, "split=validation", f"output={tmp_path}/table")["rows"]
    cases = dataset.cases("validation")
    top = generator.search(cases.histories, 10).item_index.numpy()
    expected = (top == cases.target[:, None]).any(axis=1).mean()
    (row,) = (row for row in rows if row["model"] == "gaps" and row["mask"] == "none")
    assert row["metrics"]["recall@10"]["mean"] == pytest.approx(expected)


def test_data_without_a_clock_have_no_gaps(road: Path, tmp_path: Path) -> None:
    events = Dataset.load(road / "d").load_interactions().select(user_id="user_index", item_id="item_index")
    events.write_csv(tmp_path / "events.csv")
    source = ["source=table", "source.interactions=events.csv", "source.timestamp_column=null", "order.by=file"]
    no_core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0"]
    works("prepare", *source, *no_core, f"raw_dir={tmp_path}", f"output={tmp_path}/d")
    line = fails(*train(tmp_path, tmp_path / "run", "model.time_gaps=true"), code=2)
    assert "the data have no timestamps, which time gaps need" in line
    assert "model.time_gaps=false" in line
