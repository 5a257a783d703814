"""Real raw files to a table through the command line, with the counts that the files are published with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec.cli import app
from genrec.data.dataset import Dataset

RUNNER = CliRunner()

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


def works(*words: str) -> dict[str, object]:
    result = RUNNER.invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


@pytest.mark.parametrize(("name", "folder", "counts", "more"), DATA, ids=[row[0] for row in DATA])
def test_raw_files_to_a_table(
    name: str, folder: str, counts: tuple[int, int, int], more: list[str], data_root: Path, tmp_path: Path
) -> None:
    found = works("prepare", name, f"raw_dir={data_root / folder}", f"output={tmp_path}/d", *more)
    assert (found["users"], found["items"], found["interactions"]) == counts
    cutoffs = f"cutoffs=[{min(10, counts[1])}]"
    table = works("evaluate", f"dataset={tmp_path}/d", f"output={tmp_path}/e", cutoffs, "num_resamples=100")
    assert table["num_cases"] == counts[0]
    assert {row["model"] for row in table["rows"]} >= {"popularity", "markov", "item_knn"}  # type: ignore[index,union-attr]


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
