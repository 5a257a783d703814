"""``genrec tokenize tokenizer=imported`` with a file: what is matched, what is counted, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import RUNNER, fails, works

from genrec.artifacts import load_artifact
from genrec.cli import app
from genrec.config import training
from genrec.data.dataset import Dataset
from genrec.files import sha256_file
from genrec.pipeline.stages import id_files
from genrec.semantic_ids.table import load_health, load_semantic_ids

NUM_ITEMS = 60
GATES = ["gates.max_collision_rate=1", "gates.max_dead_share=1", "gates.min_perplexity_share=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset d and embeddings e."""
    folder = tmp_path_factory.mktemp("imported")
    size = ["source.num_users=100", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=8")
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, list[int]]:
    """Three codes an item, by item_index; two pairs and one triple share theirs."""
    codes = np.random.default_rng(1).permutation(8 * 6 * 4)[:NUM_ITEMS]
    codes[[10, 20, 30, 31]] = codes[[11, 21, 32, 32]]
    codes[NUM_ITEMS - 1] = 8 * 6 * 4 - 1  # the largest code of each level
    table = np.stack(np.unravel_index(codes, (8, 6, 4)), axis=1)
    rows = dict(zip(Dataset.load(folder / "d").item_ids, table.tolist(), strict=True))
    assert len(rows) == NUM_ITEMS
    assert len(set(map(tuple, rows.values()))) == NUM_ITEMS - 4
    return rows


def tokens(rows: dict[str, list[int]]) -> dict[str, list[str]]:
    return {item: [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(row)] for item, row in rows.items()}


def write(path: Path, content: Any) -> Path:
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def words(folder: Path, output: Path, path: Path | None, *more: str) -> list[str]:
    where = ["tokenizer=imported", *([] if path is None else [f"tokenizer.path={path}"])]
    return ["tokenize", f"dataset={folder}/d", f"output={output}", *where, *GATES, *more]


def test_tokens_integers_and_maps_give_one_table(folder: Path, rows, tmp_path: Path) -> None:
    items = list(rows)
    shuffled = {item: rows[item] for item in sorted(items, key=lambda item: item[::-1])}
    by_tokens, by_integers = write(tmp_path / "t.json.gz", tokens(shuffled)), write(tmp_path / "i.json", shuffled)
    by_number = write(tmp_path / "n.json", {str(at): row for at, row in enumerate(rows.values())})
    json_map = write(tmp_path / "m.json", dict(enumerate(items)))
    (tmp_path / "m.csv").write_text(
        "\n".join(["key,item_id", *(f"{at},{item}" for at, item in enumerate(items, 1))]), encoding="utf-8"
    )
    ways = {
        "tokens": [by_tokens],
        "integers": [by_integers],
        "map": [by_number, f"tokenizer.item_map={json_map}"],
        "offset": [by_number, f"tokenizer.item_map={tmp_path}/m.csv", "tokenizer.key_offset=1"],
    }
    tables = {works(*words(folder, tmp_path / name, *way))["table"] for name, way in ways.items()}
    assert len(tables) == 1
    for name in ways:
        _, ids = load_semantic_ids(tmp_path / name, load_artifact(folder / "d"))
        assert ids.codes.tolist() == list(rows.values())
        assert (ids.collisions, ids.has_collisions) == ("keep", True)


def test_what_was_imported_is_accounted_for(folder: Path, rows, tmp_path: Path) -> None:
    more = {**rows, "nobody's": [7, 5, 3], "nor this": [0, 0, 0]}
    path = write(tmp_path / "c.json", tokens({str(at): row for at, row in enumerate(more.values())}))
    item_map = write(tmp_path / "m.json", {str(at): item for at, item in enumerate([*rows, "nobody's"])})
    found = works(*words(folder, tmp_path / "s", path, f"tokenizer.item_map={item_map}"))
    health = load_health(load_artifact(tmp_path / "s"))
    assert found["imported"] == {
        "sha256": sha256_file(path),
        "num_entries": NUM_ITEMS + 2,
        "item_map_sha256": sha256_file(item_map),
        "num_keys_without_item_id": 1,
        "num_not_in_dataset": 1,
        "num_matched": NUM_ITEMS,
        "num_padded": 0,
    }
    assert health["imported"] == found["imported"]
    assert [health["collisions"][name] for name in ("distinct", "items", "largest_bucket")] == [NUM_ITEMS - 4, 7, 3]
    assert (health["num_levels"], health["codebook_sizes"]) == (3, [8, 6, 4])
    assert health["tokenizer"]["path"] == str(path)
    shown = RUNNER.invoke(app, words(folder, tmp_path / "again", path, f"tokenizer.item_map={item_map}")).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in (
        "entries of the file 62 ok",
        "items matched 60 ok",
        "entries not in the dataset 1 note: left out",
        "keys that the map lacks 1 note: left out",
        "levels and sizes found 3: 8 x 6 x 4 ok",
        "distinct rows 56 of 60 ok",
        "items that share their row 7 ok",
    ):
        assert line in lines


def test_collisions_are_resolved_and_neighbours_compared(folder: Path, rows, tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", rows)
    more = ["tokenizer.collisions=resolve", "tokenizer.reserve=2", f"tokenizer.embeddings={folder}/e"]
    works(*words(folder, tmp_path / "s", path, *more))
    artifact, ids = load_semantic_ids(tmp_path / "s")
    assert ids.codebook_sizes == (8, 6, 4, 5)
    assert not ids.has_collisions
    health = load_health(artifact)
    assert health["neighbours"]["num_queries"] == NUM_ITEMS
    assert health["levels"][0]["mean_squared_residual"] is None
    assert set(artifact.parents) == {"dataset", "embeddings"}
    works(*words(folder, tmp_path / "without", path))
    assert load_health(load_artifact(tmp_path / "without"))["neighbours"] is None


def test_rows_of_different_lengths(folder: Path, rows, tmp_path: Path) -> None:
    """As MiniOneRec tells the items of a bucket apart: by their number in it, from 1, and only where there are some."""
    shared = [tuple(row) for row in rows.values()]
    ragged = {
        item: [*row, shared[: at + 1].count(tuple(row))] if shared.count(tuple(row)) > 1 else row
        for at, (item, row) in enumerate(rows.items())
    }
    path = write(tmp_path / "c.json", tokens(ragged))
    line = fails(*words(folder, tmp_path / "s", path), code=3)
    first = list(rows)[10]
    assert f"item {first!r}: another number of codes than the first item (expected 3, found 4)" in line
    assert "tokenizer.ragged=pad" in line
    found = works(*words(folder, tmp_path / "s", path, "tokenizer.ragged=pad"))
    assert found["imported"]["num_padded"] == NUM_ITEMS - 7
    _, ids = load_semantic_ids(tmp_path / "s")
    assert ids.codebook_sizes == (8, 6, 4, 4)
    assert not ids.has_collisions
    assert ids.codes[:, :3].tolist() == list(rows.values())
    assert ids.codes[:, 3].tolist() == [row[3] if len(row) > 3 else 0 for row in ragged.values()]


def test_items_without_codes_are_not_filled_in(folder: Path, rows, tmp_path: Path) -> None:
    items = list(rows)
    path = write(tmp_path / "c.json", {item: row for item, row in rows.items() if item not in (items[3], items[8])})
    line = fails(*words(folder, tmp_path / "s", path), code=3)
    assert f"2 of {NUM_ITEMS} items have no codes, the first is {items[3]!r}" in line
    path = write(tmp_path / "n.json", {str(at): row for at, row in enumerate(rows.values())})
    line = fails(*words(folder, tmp_path / "s", path), code=3)
    assert f"60 of 60 items have no codes, the first is {items[0]!r} (found codes of 60, such as '0')" in line
    assert "tokenizer.item_map" in line
    assert not (tmp_path / "s").exists()


def test_what_cannot_be_read_is_one_line(folder: Path, rows, tmp_path: Path) -> None:
    path, output = write(tmp_path / "c.json", rows), tmp_path / "s"
    assert "cannot read the file" in fails(*words(folder, output, tmp_path / "nowhere.json"), code=3)
    for text in ("", "{", "[]"):
        (tmp_path / "bad.json").write_text(text)
        assert "bad.json" in fails(*words(folder, output, tmp_path / "bad.json"), code=3)
    line = fails(*words(folder, output, path, "tokenizer.key_offset=1"), code=3)
    assert "tokenizer.key_offset needs integer item ids" in line
    line = fails(*words(folder, output, None, "tokenizer.ragged=pad"), code=2)
    assert "tokenizer.ragged says how a file is read; set tokenizer.path=" in line
    assert "came without semantic IDs" in fails(*words(folder, output, None), code=3)
    assert not output.exists()


def test_a_recipe_notices_another_file(rows, tmp_path: Path) -> None:
    path, item_map = write(tmp_path / "c.json", rows), write(tmp_path / "m.json", {"a": "b"})
    section = training.ImportedTokenizer(path=path, item_map=item_map)
    config = training.TokenizeConfig(dataset=tmp_path, output=tmp_path, tokenizer=section)
    before = id_files(config)
    assert before == {str(file): sha256_file(file) for file in (path, item_map)}
    write(path, {**rows, "more": [1, 2, 3]})
    assert id_files(config) != before


def test_items_that_share_their_codes_are_evaluated_honestly(folder: Path, rows, tmp_path: Path) -> None:
    shared = {item: [first, second, 0] for item, (first, second, _) in rows.items()}
    works(*words(folder, tmp_path / "s", write(tmp_path / "c.json", shared)))
    small = ["model.width=8", "model.num_heads=1", "model.num_layers=1", "stopping.max_epochs=1", "accelerator=cpu"]
    works("train", f"dataset={folder}/d", f"semantic_ids={tmp_path}/s", f"run={tmp_path}/run", *small)
    evaluate = ["evaluate", f"dataset={folder}/d", f"output={tmp_path}/v", "models=[popularity]"]
    evaluate += [f"recommenders.mine={tmp_path}/run/recommender", f"embeddings={folder}/e", "ties=expected"]
    evaluate += ["num_resamples=100", "num_permutations=100", "search.beam_width=50"]
    shown = RUNNER.invoke(app, evaluate)
    assert shown.exit_code == 0, shown.output + repr(shown.exception)
    for told in ("MRR", "the first 10 recommendations", "diversity", "ID level", "the mean over their orders"):
        assert told in shown.output
    report = json.loads((tmp_path / "v" / "report.json").read_text())
    for row in report["rows"]:
        assert ("id_level" in row) == (row["model"] == "mine")
        if row["model"] == "mine":
            ndcg, bounds = row["metrics"]["ndcg@10"]["mean"], row["tie_bounds"]["ndcg@10"]
            assert ndcg == bounds["expected"]
            assert bounds["pessimistic"] < ndcg < bounds["optimistic"] <= row["id_level"]["ndcg@10"]
    lists = [row for row in report["lists"] if row["model"] == "mine"]
    cutoffs = (1, 5, 10, 20, 50)
    assert [(row["mask"], row["cutoff"]) for row in lists] == [(mask, k) for mask in ("none", "seen") for k in cutoffs]
    assert [row["diversity"] is None for row in lists] == [True, *[False] * 4] * 2
    assert all(row["mean_length"] == row["cutoff"] for row in lists if row["cutoff"] <= 20)
    labels = {row["label"] for row in report["slices"] if row["slice"] == "target_category"}
    assert len(labels) == 4  # the categories of the synthetic catalogue
    assert set(load_artifact(tmp_path / "v").parents) == {"dataset", "recommender mine", "embeddings"}
