"""Real raw files to a table through the command line, with the counts that the files are published with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import works

from genrec.artifacts import load_artifact
from genrec.data.dataset import Dataset
from genrec.files import sha256_file
from genrec.semantic_ids.table import load_health, load_semantic_ids

# configuration, folder, users / items / interactions, more words
DATA = [
    ("giftcards", "amazon2018_giftcards_raw", (453, 147, 2941), []),
    ("all_beauty", "amazon2018_allbeauty5_raw", (137, 24, 686), []),
    ("all_beauty_2023", "amazon2023_allbeauty_5core", (253, 356, 2535), ["source.meta=meta_items_356.csv"]),
    ("ml_100k", "ml-100k", (943, 1682, 100000), []),
    ("ml_1m", "ml-1m", (6040, 3416, 999611), ["source.ratings=derived_interactions_5core.tsv.gz"]),
    ("office", "apao_office", (4905, 2420, 53258), []),
    ("beauty_apao_ids", "amazon2014_beauty", (22363, 12101, 198502), []),
    ("beauty", "amazon2014_beauty", (22363, 12101, 198502), []),
]

QUICK = ("giftcards", "all_beauty_2023", "office")


@pytest.mark.parametrize(
    ("name", "folder", "counts", "more"),
    [pytest.param(*row, id=row[0], marks=() if row[0] in QUICK else pytest.mark.slow) for row in DATA],
)
def test_raw_files_to_a_table(
    name: str, folder: str, counts: tuple[int, int, int], more: list[str], data_root: Path, tmp_path: Path
) -> None:
    found = works("prepare", name, f"raw_dir={data_root / folder}", f"output={tmp_path}/d", *more)
    assert (found["users"], found["items"], found["interactions"]) == counts
    cutoffs = f"cutoffs=[{min(10, counts[1])}]"
    table = works("evaluate", f"dataset={tmp_path}/d", f"output={tmp_path}/e", cutoffs, "num_resamples=100")
    assert table["num_cases"] == counts[0]
    assert {row["model"] for row in table["rows"]} >= {"popularity", "markov", "item_knn"}


@pytest.mark.slow
def test_the_last_items_of_beauty_are_those_of_the_benchmark(data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "amazon2014_beauty"
    works("prepare", "beauty", f"raw_dir={folder}", f"output={tmp_path}/d")
    dataset = Dataset.load(tmp_path / "d")
    with gzip.open(folder / "derived_items.jsonl.gz", "rt") as file:
        number = {entry["asin"]: entry["s3rec_id"] for entry in map(json.loads, file)}
    with gzip.open(folder / "derived_sequences.jsonl.gz", "rt") as file:
        users = [json.loads(line)["user"] for line in file]
    with gzip.open(folder / "s3rec_Beauty.txt.gz", "rt") as file:
        benchmark = [list(map(int, line.split()[1:])) for line in file]
    index = {user_id: row for row, user_id in enumerate(dataset.user_ids)}
    numbers = [number[item_id] for item_id in dataset.item_ids]
    histories = dataset.histories()
    ours = [[numbers[item] for item in histories[index[user]]] for user in users]
    assert ours == benchmark


@pytest.mark.slow
def test_times_and_item_ids_give_the_same_order_as_the_benchmark(data_root: Path, tmp_path: Path) -> None:
    """For the users whose timestamps are all known: order=timestamp with ties=item_id is the order of the file."""
    with gzip.open(data_root / "amazon2014_beauty" / "derived_sequences.jsonl.gz", "rt") as file:
        rows = [entry for entry in map(json.loads, file) if None not in entry["timestamps"]]
    assert len(rows) == 22_201
    with gzip.open(tmp_path / "known.jsonl.gz", "wt") as file:
        for entry in rows:
            shuffled = sorted(zip(entry["items"], entry["timestamps"], strict=True), key=lambda pair: pair[0][::-1])
            items, times = zip(*shuffled, strict=True)
            file.write(json.dumps({"user": entry["user"], "items": items, "timestamps": times}) + "\n")
    words = ["source=sequences_jsonl", "source.interactions=known.jsonl.gz", f"raw_dir={tmp_path}"]
    works("prepare", *words, f"output={tmp_path}/d", "filter.min_user_interactions=0", "filter.min_item_interactions=0")
    dataset = Dataset.load(tmp_path / "d")
    index = {user_id: row for row, user_id in enumerate(dataset.user_ids)}
    item_ids = dataset.item_ids.to_list()
    histories = dataset.histories()
    for entry in rows:
        assert [item_ids[item] for item in histories[index[entry["user"]]]] == entry["items"]


def import_published(dataset: Path, output: Path, *words: str) -> dict[str, Any]:
    works("tokenize", f"dataset={dataset}", f"output={output}", "tokenizer=imported", *words)
    return load_health(load_artifact(output))


def test_published_semantic_ids_of_office(data_root: Path, tmp_path: Path) -> None:
    """From the file the same table as with the dataset; 2,415 distinct rows of 2,420."""
    folder = data_root / "apao_office"
    works("prepare", "office", f"raw_dir={folder}", f"output={tmp_path}/d")
    file = folder / "Office.index.rq-kmeans.json"
    health = import_published(tmp_path / "d", tmp_path / "file", f"tokenizer.path={file}")
    assert health["imported"] == {
        "sha256": sha256_file(file),
        "num_entries": 2420,
        "num_not_in_dataset": 0,
        "num_matched": 2420,
        "num_padded": 0,
    }
    assert health["collisions"]["distinct"] == 2415
    assert health["num_levels"] == 4
    import_published(tmp_path / "d", tmp_path / "came_along")
    found = load_semantic_ids(tmp_path / "file")[1].identity
    assert found == load_semantic_ids(tmp_path / "came_along")[1].identity


@pytest.mark.slow
def test_published_semantic_ids_of_beauty(data_root: Path, tmp_path: Path) -> None:
    """By ASIN, with a map from the publisher's numbers: each item has the codes that stand in the file."""
    folder = data_root / "amazon2014_beauty"
    works("prepare", "beauty", f"raw_dir={folder}", f"output={tmp_path}/d")
    with gzip.open(folder / "derived_items.jsonl.gz", "rt") as file:
        number = {entry["asin"]: entry["s3rec_id"] for entry in map(json.loads, file)}
    (tmp_path / "map.json").write_text(json.dumps({str(key - 1): asin for asin, key in number.items()}))
    (tmp_path / "map.tsv").write_text("key\titem_id\n" + "".join(f"{key}\t{asin}\n" for asin, key in number.items()))
    path = folder / "Beauty.index.rq-kmeans.json.gz"
    with gzip.open(path, "rt") as file:
        published = json.load(file)
    for name, offset in (("map.json", 0), ("map.tsv", 1)):
        words = [f"tokenizer.path={path}", f"tokenizer.item_map={tmp_path / name}", f"tokenizer.key_offset={offset}"]
        health = import_published(tmp_path / "d", tmp_path / f"by_{name}", *words)
        assert (health["imported"]["num_matched"], health["collisions"]["distinct"]) == (12101, 12089)
        _, ids = load_semantic_ids(tmp_path / f"by_{name}")
        for asin, codes in zip(Dataset.load(tmp_path / "d").item_ids, ids.codes.tolist(), strict=True):
            assert [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(codes)] == published[str(number[asin] - 1)]
