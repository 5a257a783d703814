"""The catalogue: descriptions, their text, and imported semantic IDs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.data.filters import FilterPolicy
from genrec.data.item_table import TextPolicy, assemble_text
from genrec.data.prepare import prepare
from genrec.data.schema import RAW_ITEMS, RawData
from genrec.errors import DataError

OFF = FilterPolicy(min_user_interactions=0, min_item_interactions=0)
LINE = pl.DataFrame({"user_id": ["u"] * 5, "item_id": list("abcde"), "timestamp": range(5)})


def raw(interactions: pl.DataFrame, **kwargs) -> RawData:
    return RawData(interactions.lazy(), **kwargs)


def items_frame(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame([dict.fromkeys(RAW_ITEMS) | row for row in rows], schema=RAW_ITEMS)


def test_items_are_joined_counted_and_described():
    described = items_frame(
        {"item_id": "b", "title": "Tom &amp; Jerry.", "brand": " ", "categories": ["Film", None, " Comic "]},
        {"item_id": "zz", "title": "not in the interactions"},
        {"item_id": "a", "description": "old"},
        {"item_id": "b", "title": "Tom &amp; Jerry.", "brand": " ", "categories": ["Film", None, " Comic "]},
    )
    made = prepare(raw(LINE, items=described), filters=OFF)
    assert made.items["text"].to_list() == ["old", "Tom &amp; Jerry. Film, Comic", "", "", ""]
    assert made.items["title"].to_list() == [None, "Tom &amp; Jerry.", None, None, None]
    counted = {name: made.facts[name] for name in made.facts if "description" in name}
    assert counted == {"descriptions_repeated": 1, "descriptions_unused": 1, "items_without_description": 3}


def test_differing_descriptions_are_refused_unless_the_first_wins():
    described = items_frame({"item_id": "b", "title": "one"}, {"item_id": "b", "title": "two"}, {"item_id": "b"})
    with pytest.raises(
        DataError, match=r"1 item ids have rows that differ, the first is 'b'; .*text\.duplicates=first"
    ):
        prepare(raw(LINE, items=described), filters=OFF)
    made = prepare(raw(LINE, items=described), filters=OFF, text=TextPolicy(duplicates="first"))
    assert made.items["text"].to_list() == ["", "one", "", "", ""]
    unused = items_frame({"item_id": "q", "title": "one"}, {"item_id": "q", "title": "two"})
    assert prepare(raw(LINE, items=unused), filters=OFF).facts["descriptions_unused"] == 2


def test_errors_blame_the_file_of_the_items():
    described = items_frame({"item_id": "b", "title": "one"}, {"item_id": "b", "title": "two"})
    files = {"files": (Path("events.csv"),), "items_file": Path("items.csv"), "codes_file": Path("codes.json")}
    with pytest.raises(DataError, match=r"^items\.csv: 1 item ids have rows that differ"):
        prepare(raw(LINE, items=described, **files), filters=OFF)
    with pytest.raises(DataError, match=r"^codes\.json: 4 of 5 items have no codes"):
        prepare(raw(LINE, item_codes=codes_frame(("a", [1])), **files), filters=OFF)


def test_items_table_needs_its_columns():
    with pytest.raises(DataError, match="missing column 'brand'"):
        prepare(raw(LINE, items=items_frame({"item_id": "a"}).drop("brand")), filters=OFF)


def test_text_fields_choose_and_order():
    items = items_frame({"item_id": "a", "title": "T", "brand": "B", "categories": ["x", "y"], "description": "D."})
    assert assemble_text(items).to_list() == ["T. B. x, y. D."]
    assert assemble_text(items, ("description", "title")).to_list() == ["D. T"]
    assert assemble_text(items, ()).to_list() == [""]


def codes_frame(*rows: tuple[str, Sequence[int | None]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={"item_id": pl.String, "codes": pl.List(pl.Int32)}, orient="row")


def test_item_codes_follow_the_item_index():
    codes = codes_frame(*((item, [ord(item), 0]) for item in "edcbaz"), ("a", [97, 0]))
    made = prepare(raw(LINE, item_codes=codes), filters=OFF)
    assert made.item_codes is not None
    assert made.item_codes.dtype == np.int32
    assert made.item_codes.tolist() == [[ord(item), 0] for item in "abcde"]
    assert (made.facts["codes_repeated"], made.facts["codes_unused"]) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(i, [1]) for i in "abcd"], "1 of 5 items have no codes, the first is 'e'"),
        ([*((i, [1]) for i in "abcd"), ("e", [1, 2])], r"codes must have one length \(found 1 to 2"),
        ([*((i, [1]) for i in "abcd"), ("e", [-1])], "null or negative"),
        ([*((i, [1]) for i in "abcd"), ("e", [None])], "null or negative"),
        ([*((i, [1]) for i in "abcde"), ("e", [2])], "rows that differ, the first is 'e'"),
        ([(i, []) for i in "abcde"], "one length"),
    ],
)
def test_bad_item_codes(rows, message):
    with pytest.raises(DataError, match=message):
        prepare(raw(LINE, item_codes=codes_frame(*rows)), filters=OFF)
