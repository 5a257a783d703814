"""Files of whole histories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrec.data.sources.sequences import read_letter, read_sasrec_text, read_sequences_jsonl
from genrec.errors import ConfigError, DataError


def write(folder: Path, name: str, content: str | dict[str, Any] | list[dict[str, Any]]) -> str:
    if isinstance(content, dict):
        content = json.dumps(content)
    elif isinstance(content, list):
        content = "".join(json.dumps(record) + "\n" for record in content)
    (folder / name).write_text(content, encoding="utf-8")
    return name


def test_s3rec_text(tmp_path: Path) -> None:
    name = write(tmp_path, "a.txt", "1 5 4 5\n\n2 4\n")
    raw = read_sasrec_text(tmp_path, interactions=name)
    assert raw.interactions.collect().rows() == [("1", "5"), ("1", "4"), ("1", "5"), ("2", "4")]
    assert raw.notes == ()


def test_sasrec_pairs_and_auto(tmp_path: Path) -> None:
    name = write(tmp_path, "a.txt", "1 5\n2 4\n1 3\n")
    pairs = [("1", "5"), ("2", "4"), ("1", "3")]
    assert read_sasrec_text(tmp_path, interactions=name, layout="pairs").interactions.collect().rows() == pairs
    raw = read_sasrec_text(tmp_path, interactions=name, layout="auto")
    assert (raw.interactions.collect().rows(), raw.notes) == (pairs, ("a.txt is read with source.layout=pairs (auto)",))
    with pytest.raises(DataError, match=r"a\.txt:3: user '1' has a line already, line 1"):
        read_sasrec_text(tmp_path, interactions=name)
    name = write(tmp_path, "b.txt", "1 5 6\n2 4\n")
    assert "layout=sequence (auto)" in read_sasrec_text(tmp_path, interactions=name, layout="auto").notes[0]
    with pytest.raises(DataError, match=r"b\.txt:1: expected a user and one item \(found 3 ids\)"):
        read_sasrec_text(tmp_path, interactions=name, layout="pairs")
    with pytest.raises(ConfigError, match=r"unknown source\.layout 'pair'"):
        read_sasrec_text(tmp_path, interactions=name, layout="pair")


def test_text_with_items_and_codes_counted_from_another_number(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "1 1 2\n")
    item = {"asin": "B1", "n": 1, "title": "A&amp;B", "brand_inferred": "X", "categories": ["c"]}
    write(tmp_path, "items.jsonl", [item, {"asin": "B2", "n": 2, "title": None}])
    write(tmp_path, "codes.json", {"0": ["<a_7>", "<b_0>"], "1": ["<a_7>", "<b_11>"]})
    raw = read_sasrec_text(
        tmp_path, interactions="a.txt", items="items.jsonl", item_id_field="n", codes="codes.json", codes_offset=1
    )
    assert raw.items is not None
    assert raw.items.rows() == [("1", "A&B", "X", ["c"], None), ("2", None, None, None, None)]
    assert raw.item_codes is not None
    assert raw.item_codes.rows() == [("1", [7, 0]), ("2", [7, 11])]
    assert [path.name for path in raw.files] == ["a.txt", "items.jsonl", "codes.json"]
    found = read_sasrec_text(tmp_path, interactions="a.txt", items="items.jsonl").items
    assert found is not None
    assert found["item_id"].to_list() == ["B1", "B2"]
    with pytest.raises(DataError, match=r"items\.jsonl:1: missing field 'id' \(found fields asin, n"):
        read_sasrec_text(tmp_path, interactions="a.txt", items="items.jsonl", item_id_field="id")


def test_json_sequences_with_missing_times(tmp_path: Path) -> None:
    records = [
        {"user": "u", "items": ["x", "y"], "timestamps": [1_400_000_000, None]},
        {"user": 7, "items": [1], "timestamps": [1_400_000_001]},
    ]
    name = write(tmp_path, "a.jsonl", records)
    raw = read_sequences_jsonl(tmp_path, interactions=name)
    rows = [("u", "x", 1_400_000_000_000), ("u", "y", None), ("7", "1", 1_400_000_001_000)]
    assert raw.interactions.collect().rows() == rows
    assert raw.notes == ("1 timestamps of 1 users are missing; the file's order is complete (order.by=file)",)
    in_ms = read_sequences_jsonl(tmp_path, interactions=name, timestamp_unit="ms").interactions.collect()
    assert in_ms["timestamp"].to_list() == [1_400_000_000, None, 1_400_000_001]
    name = write(tmp_path, "b.jsonl", [{"user": "u", "items": ["x"]}])
    assert read_sequences_jsonl(tmp_path, interactions=name).interactions.collect().rows() == [("u", "x")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"user": "v", "items": ["x"]}, "field 'timestamps' stands in some lines only"),
        (
            {"user": "v", "items": ["x", "y"], "timestamps": [1]},
            r"expected 2 timestamps, one an item \(found 1 times\)",
        ),
        ({"user": "v", "items": ["x"], "timestamps": 1}, r"expected 1 timestamps.*found no list"),
        ({"user": "v", "items": ["x"], "timestamps": ["1"]}, "a time is no integer"),
        ({"user": "v", "items": ["x"], "timestamps": [10**15]}, "a time is no integer in the years"),
        ({"user": "v", "items": [], "timestamps": []}, "field 'items' is no list of items"),
        ({"user": "v", "items": [None], "timestamps": [1]}, "field 'items' is no id"),
        ({"user": "u", "items": ["x"], "timestamps": [1]}, "user 'u' has a line already, line 1"),
        ({"items": ["x"], "timestamps": [1]}, r"missing field 'user' \(found fields items, timestamps\)"),
    ],
)
def test_bad_json_sequences(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    good = {"user": "u", "items": ["x"], "timestamps": [1]}
    name = write(tmp_path, "a.jsonl", [good, record, good | {"user": "w"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: " + message):
        read_sequences_jsonl(tmp_path, interactions=name)
    raw = read_sequences_jsonl(tmp_path, interactions=name, skip_bad_lines=True)
    assert raw.interactions.collect()["user_id"].to_list() == ["u", "w"]
    assert raw.num_bad_lines == 1


def test_letter(tmp_path: Path) -> None:
    write(tmp_path, "i.json", {"10": [3, 1], "2": ["x"]})
    items = {"3": {"title": "T", "brand": "B", "categories": "Office, Phones &amp; Co", "description": ""}, "1": {}}
    write(tmp_path, "m.json", items)
    write(tmp_path, "c.json", {"3": ["<a_159>", "<b_42>"]})
    raw = read_letter(tmp_path, interactions="i.json", items="m.json", codes="c.json")
    assert raw.interactions.collect().rows() == [("10", "3"), ("10", "1"), ("2", "x")]
    assert raw.items is not None
    assert raw.items.rows() == [("3", "T", "B", ["Office", "Phones & Co"], None), ("1", None, None, None, None)]
    assert raw.item_codes is not None
    assert raw.item_codes.rows() == [("3", [159, 42])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"1": [1], "1": [2]}', "key '1' stands twice"),
        ('{"1": []}', "user '1': field 'items' is no list of items"),
        ('{"1": 5}', "user '1': field 'items' is no list"),
        ('{"1": [1.5]}', "user '1': field 'items' is no id"),
        ("[1]", "expected one JSON object"),
        ("{}", "no usable lines"),
        ('{"1": [1],\n "2": [}', r"i\.json:2: not valid JSON"),
    ],
)
def test_bad_letter_files(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, "i.json", content)
    with pytest.raises(DataError, match=message):
        read_letter(tmp_path, interactions="i.json")
