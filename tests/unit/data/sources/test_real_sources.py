"""The real raw files, with the counts they are published with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec.data.sources.registry import read_source

FILES: dict[str, tuple[str, str, dict[str, Any], tuple[int, int, int]]] = {
    "office": (
        "letter",
        "apao_office",
        {"interactions": "Office.inter.json", "items": "Office.item.json", "codes": "Office.index.rq-kmeans.json"},
        (4905, 2420, 53258),
    ),
    "beauty": (
        "sequences_jsonl",
        "amazon2014_beauty",
        {"interactions": "derived_sequences.jsonl.gz", "items": "derived_items.jsonl.gz"},
        (22363, 12101, 198502),
    ),
    "beauty, S3-Rec": (
        "sasrec",
        "amazon2014_beauty",
        {
            "interactions": "s3rec_Beauty.txt.gz",
            "items": "derived_items.jsonl.gz",
            "item_id_field": "s3rec_id",
            "codes": "Beauty.index.rq-kmeans.json",
            "codes_offset": 1,
        },
        (22363, 12101, 198502),
    ),
    "ml-1m": ("movielens_1m", "ml-1m", {"ratings": "derived_interactions_5core.tsv"}, (6040, 3416, 999611)),
    "ml-100k": ("movielens_100k", "ml-100k", {}, (943, 1682, 100000)),
    "giftcards": (
        "amazon_2018",
        "amazon2018_giftcards_raw",
        {"reviews": "Gift_Cards_5.json.gz", "meta": "meta_Gift_Cards.json.gz"},
        (458, 148, 2972),
    ),
    "all beauty": ("amazon_2018", "amazon2018_allbeauty5_raw", {"reviews": "All_Beauty_5.json"}, (991, 85, 5269)),
    "all beauty 2023": (
        "amazon_2023_splits",
        "amazon2023_allbeauty_5core",
        {
            "train": "All_Beauty.train.csv",
            "validation": "All_Beauty.valid.csv",
            "test": "All_Beauty.test.csv",
            "meta": "meta_items_356.csv",
        },
        (253, 356, 2535),
    ),
}


QUICK = ("ml-100k", "office", "giftcards", "all beauty 2023")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FILES]
)
def test_counts(name: str, data_root: Path) -> None:
    source, folder, options, counts = FILES[name]
    raw = read_source(source, data_root / folder, **options)
    events = raw.interactions.collect()
    assert (events["user_id"].n_unique(), events["item_id"].n_unique(), events.height) == counts
    assert raw.num_bad_lines == 0
    if raw.items is not None:
        titled = raw.items.filter(pl.col("title").is_not_null())["item_id"]
        seen = events["item_id"].unique()
        assert seen.is_in(titled.to_list()).mean() > 0.99  # type: ignore[operator]
    if raw.item_codes is not None:
        assert set(raw.item_codes["item_id"]) == set(events["item_id"])
        assert set(raw.item_codes["codes"].list.len()) == {4}
    if "timestamp" in events.columns:
        years = events["timestamp"].cast(pl.Datetime("ms")).dt.year().drop_nulls()
        assert 1997 <= years.min() <= years.max() <= 2023  # type: ignore[operator]


@pytest.mark.slow
def test_latin_1_titles(data_root: Path) -> None:
    hundred = read_source("movielens_100k", data_root / "ml-100k").items
    million = read_source("movielens_1m", data_root / "ml-1m", ratings="derived_interactions_5core.tsv").items
    assert hundred is not None
    assert million is not None
    titles = dict(hundred.select("item_id", "title").rows())
    assert titles["1633"] == "Á köldum klaka (Cold Fever) (1994)"
    titles = dict(million.select("item_id", "title").rows())
    assert titles["73"] == "Misérables, Les (1995)"


@pytest.mark.slow
def test_the_order_of_movielens_1m_is_that_of_the_file(data_root: Path) -> None:
    raw = read_source("movielens_1m", data_root / "ml-1m", ratings="derived_interactions_5core.tsv", items=None)
    ours = raw.interactions.select("user_id", "item_id", pl.col("timestamp") // 1000).collect()
    with gzip.open(data_root / "ml-1m" / "derived_interactions_5core.tsv.gz", "rt") as file:
        header, *lines = file.read().splitlines()
    assert header == "user_id\tmovie_id\ttimestamp"
    assert ours.select(pl.concat_str(pl.all(), separator="\t")).to_series().to_list() == lines


@pytest.mark.slow
def test_the_two_files_of_beauty_are_the_same_sequences(data_root: Path) -> None:
    folder = data_root / "amazon2014_beauty"
    text = read_source("sasrec", folder, interactions="s3rec_Beauty.txt").interactions.collect()
    sequences = read_source("sequences_jsonl", folder, interactions="derived_sequences.jsonl")
    with gzip.open(folder / "derived_items.jsonl.gz", "rt") as file:
        number = {record["asin"]: str(record["s3rec_id"]) for record in map(json.loads, file)}
    assert sequences.interactions.collect()["item_id"].replace_strict(number).to_list() == text["item_id"].to_list()
    assert sequences.notes == ("287 timestamps of 162 users are missing; the file's order is complete (order.by=file)",)


def test_published_histories_agree_and_codes_collide(data_root: Path) -> None:
    source, folder, options, _ = FILES["all beauty 2023"]
    raw = read_source(source, data_root / folder, **options)
    assert raw.notes == ("all 2535 histories are the user's earlier rows",)
    assert dict(raw.interactions.collect()["split"].value_counts().rows()) == {
        "train": 2029,
        "validation": 253,
        "test": 253,
    }
    source, folder, options, _ = FILES["office"]
    codes = read_source(source, data_root / folder, **options).item_codes
    assert codes is not None
    assert (codes.height, codes["codes"].n_unique()) == (2420, 2415)
