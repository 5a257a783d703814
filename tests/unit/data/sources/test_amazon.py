"""The four Amazon layouts on small files in their own words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from genrec.data.schema import RawData
from genrec.data.sources.amazon import (
    read_amazon_2014,
    read_amazon_2018,
    read_amazon_2023,
    read_amazon_2023_splits,
)
from genrec.errors import DataError

REVIEW = {"reviewerID": "A1", "asin": "0001", "overall": 5.0, "unixReviewTime": 1_400_000_000, "reviewText": "ok"}


def write(path: Path, lines: list[str]) -> str:
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path.name


def items(raw: RawData) -> list[dict[str, Any]]:
    assert raw.items is not None
    return raw.items.to_dicts()


def test_2014_with_metadata_as_python_literals(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.json.gz", [json.dumps(REVIEW | {"asin": asin}) for asin in ("0002", "0001")])
    meta = [
        {
            "asin": "0001",
            "title": "L'eau \"d'été\"",
            "categories": [["Beauty", "Skin"], ["Beauty", "Men's"]],
            "price": 1.5,
        },
        {"asin": "0002", "description": "Say &quot;hi&quot;", "brand": "", "related": {"also_bought": ["0001"]}},
    ]
    name = write(tmp_path / "m.json.gz", [repr(meta[0]), repr(meta[1])])
    raw = read_amazon_2014(tmp_path, reviews=reviews, meta=name)
    assert raw.interactions.collect().rows() == [
        ("A1", "0002", 1_400_000_000_000, 5.0),
        ("A1", "0001", 1_400_000_000_000, 5.0),
    ]
    assert items(raw) == [
        {
            "item_id": "0001",
            "title": "L'eau \"d'été\"",
            "brand": None,
            "categories": ["Beauty", "Skin", "Men's"],
            "description": None,
        },
        {"item_id": "0002", "title": None, "brand": None, "categories": None, "description": 'Say "hi"'},
    ]
    write(tmp_path / "m.json.gz", [json.dumps(record) for record in meta])
    assert items(read_amazon_2014(tmp_path, reviews=reviews, meta=name)) == items(raw)


def test_2014_reviews_may_be_python_literals(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.json", [repr(REVIEW | {"summary": "it's"}), json.dumps(REVIEW)])
    rows = read_amazon_2014(tmp_path, reviews=reviews).interactions.collect().rows()
    assert rows == [("A1", "0001", 1_400_000_000_000, 5.0)] * 2
    with pytest.raises(DataError, match=r"r\.json:1: not valid JSON"):
        read_amazon_2018(tmp_path, reviews=reviews)


def test_code_in_metadata_is_not_run(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.json", [json.dumps(REVIEW)])
    victim = tmp_path / "victim"
    meta = write(tmp_path / "m.json", ["{'asin': '0001'}", f"{{'asin': __import__('os').mkdir({str(victim)!r})}}"])
    with pytest.raises(DataError, match=r"m\.json:2: neither JSON nor a Python literal"):
        read_amazon_2014(tmp_path, reviews=reviews, meta=meta)
    raw = read_amazon_2014(tmp_path, reviews=reviews, meta=meta, skip_bad_lines=True)
    assert (len(items(raw)), raw.num_bad_lines) == (1, 1)
    assert not victim.exists()


def test_2018_titles_and_lists(tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.json", [json.dumps(REVIEW | {"style": {"Size:": " 7 oz"}})])
    meta = [
        {"asin": "1", "title": "Salt &amp; <span>Pepper</span>", "brand": "B&amp;C", "category": ["Food", "Food"],
         "description": ["One.", "<b>Two.</b>"]},
        {"asin": "2", "title": "var aPageStart = (new Date()).getTime();", "category": ["</span></span>", "Food"]},
    ]  # fmt: skip
    name = write(tmp_path / "m.json", [json.dumps(record) for record in meta])
    raw = read_amazon_2018(tmp_path, reviews=reviews, meta=name)
    assert [tuple(item.values()) for item in items(raw)] == [
        ("1", "Salt & Pepper", "B&C", ["Food"], "One. Two."),
        ("2", None, None, ["Food"], None),
    ]
    assert raw.notes == ("1 titles were scripts of the product page and are dropped",)


def test_2023_times_are_milliseconds_and_the_store_is_the_brand(tmp_path: Path) -> None:
    review = {"user_id": "U", "parent_asin": "P", "asin": "x", "rating": 4.0, "timestamp": 1_588_615_855_070}
    meta = [
        {"parent_asin": "P", "title": "T", "store": "S", "categories": ["A"], "description": ["d", "e"], "details": {}},
        {
            "parent_asin": "Q",
            "title": None,
            "store": None,
            "categories": [],
            "description": [],
            "details": {"Brand": "B"},
        },
        {"parent_asin": "R", "details": '{"Brand": null}'},
    ]
    write(tmp_path / "r.jsonl", [json.dumps(review)])
    write(tmp_path / "m.jsonl", [json.dumps(record) for record in meta])
    raw = read_amazon_2023(tmp_path, reviews="r.jsonl", meta="m.jsonl")
    assert raw.interactions.collect().rows() == [("U", "P", 1_588_615_855_070, 4.0)]
    assert [tuple(item.values()) for item in items(raw)] == [
        ("P", "T", "S", ["A"], "d e"),
        ("Q", None, "B", None, None),
        ("R", None, None, None, None),
    ]


HEADER = "user_id,parent_asin,rating,timestamp,history"
SPLITS = {
    "train": ["U,A,5.0,1588615855070,", "V,C,1.0,1588615855071,", "U,B,4.0,1588615855072,A"],
    "valid": ["U,C,3.0,1588615855073,A B"],
    "test": ["U,D,2.0,1588615855074,A B C", "V,A,2.0,1588615855075,C"],
}


def write_splits(folder: Path, header: str = HEADER, **changed: list[str]) -> dict[str, Any]:
    for name, lines in {**SPLITS, **changed}.items():
        write(folder / f"{name}.csv", [header, *lines])
    return {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}


def test_official_splits_with_their_histories(tmp_path: Path) -> None:
    raw = read_amazon_2023_splits(tmp_path, **write_splits(tmp_path))
    assert raw.interactions.collect().rows() == [
        ("U", "A", 1588615855070, 5.0, "train"),
        ("V", "C", 1588615855071, 1.0, "train"),
        ("U", "B", 1588615855072, 4.0, "train"),
        ("U", "C", 1588615855073, 3.0, "validation"),
        ("U", "D", 1588615855074, 2.0, "test"),
        ("V", "A", 1588615855075, 2.0, "test"),
    ]
    assert raw.notes == ("all 6 histories are the user's earlier rows",)


@pytest.mark.parametrize("history", ["A C", "A", "", "A B C", "AB", "A  B"])
def test_a_history_that_disagrees_is_counted(tmp_path: Path, history: str) -> None:
    options = write_splits(tmp_path, valid=[f"U,C,3.0,1588615855073,{history}"])
    raw = read_amazon_2023_splits(tmp_path, **options)
    assert raw.notes == ("1 of 6 histories are not the user's earlier rows; the order of the rows rules",)


def test_splits_without_histories(tmp_path: Path) -> None:
    cut = {name: [line.rsplit(",", 1)[0] for line in lines] for name, lines in SPLITS.items()}
    options = write_splits(tmp_path, HEADER.removesuffix(",history"), **cut)
    raw = read_amazon_2023_splits(tmp_path, **options)
    assert raw.notes == ()
    assert raw.interactions.collect().height == 6


def test_a_bad_row_of_a_split_is_named(tmp_path: Path) -> None:
    lines = [*SPLITS["train"], "W,A,great,1588615855070,", "W,A,1.0,1588615855070"]
    options = write_splits(tmp_path, train=lines)
    with pytest.raises(DataError, match=r"train\.csv:6: wrong number of fields"):
        read_amazon_2023_splits(tmp_path, **options)
    options = write_splits(tmp_path, train=lines[:-1])
    with pytest.raises(DataError, match=r"train\.csv:5: column 'rating' holds no finite number: 'great'"):
        read_amazon_2023_splits(tmp_path, **options)
    raw = read_amazon_2023_splits(tmp_path, **write_splits(tmp_path, train=lines), skip_bad_lines=True)
    assert (raw.num_bad_lines, raw.interactions.collect().height) == (2, 6)


def test_metadata_of_the_splits_as_csv(tmp_path: Path) -> None:
    write(
        tmp_path / "m.csv",
        [
            ",title,description,details,parent_asin,categories",
            "0,\"Oil, 16 oz\",,\"{'Brand': 'Shiny', 'UPC': '7'}\",A,\"['X', \"\"Men's\"\"]\"",
            '1,Comb,"[New] soft","{""Brand"": ""C"", ""old"": null}",B,',
        ],
    )
    raw = read_amazon_2023_splits(tmp_path, **write_splits(tmp_path), meta="m.csv")
    assert [tuple(item.values()) for item in items(raw)] == [
        ("A", "Oil, 16 oz", "Shiny", ["X", "Men's"], None),
        ("B", "Comb", "C", None, "[New] soft"),
    ]
    write(tmp_path / "m.csv", ["parent_asin,details", "A,{}", "B,{'x'"])
    with pytest.raises(DataError, match=r"m\.csv:3: neither JSON nor a Python literal"):
        read_amazon_2023_splits(tmp_path, **write_splits(tmp_path), meta="m.csv")


def test_a_time_in_another_unit_is_found_out(tmp_path: Path) -> None:
    reviews = write(
        tmp_path / "r.json", [json.dumps(REVIEW), json.dumps(REVIEW | {"unixReviewTime": 1_400_000_000_000})]
    )
    with pytest.raises(DataError, match=r"r\.json:2: column 'unixReviewTime' holds no time of unit s"):
        read_amazon_2014(tmp_path, reviews=reviews)
