"""Files of semantic IDs that others publish, and maps of their keys."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sources.codes import pad_rows, read_codes, read_item_map, read_rows
from genrec.errors import DataError, StorageError


def write(path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["c.json", "c.json.gz"])
def test_tokens_and_integers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, {"7": ["<a_159>", "<b_0>"], "x": [3, 42]})
    assert read_codes(path).rows() == [("7", [159, 0]), ("x", [3, 42])]
    assert read_codes(write(path, {"7": [1], "0": [2]}), offset=2).rows() == [("9", [1]), ("2", [2])]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"0": ["<a_1>", "<b_2>"], "1": ["<a_1>"]}, r"item '1': another number of codes .*\(expected 2, found 1\)"),
        ({"0": ["<a_1>", "<c_2>"]}, r"item '0': token '<c_2>' is of another level \(expected b, found c\)"),
        ({"0": ["<b_1>", "<a_2>"]}, "token '<b_1>' is of another level"),
        ({"0": ["a_1"]}, "cannot read the token 'a_1'"),
        ({"0": ["<a_-1>"]}, "cannot read the token"),
        ({"0": ["<a_01>"]}, "cannot read the token"),
        ({"0": ["<a_99999999999>"]}, "cannot read the token"),
        ({"0": [f"<{'abcdefghijklmnopqrstuvwxyz'[at % 26]}_1>" for at in range(27)]}, "at most 26 levels"),
        ({"0": []}, "expected a list of tokens or of integers"),
        ({"0": [1, "<b_2>"]}, "expected a list of tokens or of integers"),
        ({"0": [1, True]}, "expected a list of tokens or of integers"),
        ({"0": "<a_1>"}, "expected a list of tokens or of integers"),
        ({"0": [1, -1]}, r"item '0': a code out of range \(expected 0 to 999999999, found -1\)"),
        ({"0": [10**10]}, "a code out of range"),
        ({"0": [1.0]}, "cannot read the token 1.0"),
        ({"0": [True]}, "cannot read the token True"),
        ({"0": [[1]]}, "cannot read the token"),
        ({}, "no items"),
        ([1], "expected one JSON object"),
        ('{"0": [1], "0": [2]}', "key '0' stands twice"),
    ],
)
def test_bad_codes(tmp_path: Path, codes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_codes(write(tmp_path / "c.json", codes))


def test_an_offset_needs_integers(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"x": ["<a_1>"]})
    with pytest.raises(DataError, match="codes_offset needs integer item ids"):
        read_codes(path, offset=1)
    with pytest.raises(DataError, match=r"tokenizer.key_offset needs .*; set tokenizer.key_offset=0"):
        read_codes(path, offset=1, offset_key="tokenizer.key_offset")


def test_rows_of_any_length(tmp_path: Path) -> None:
    """As MiniOneRec writes them: items of a bucket, and only they, have their number in it as one more token."""
    content = {"0": ["<a_1>", "<b_2>", "<c_1>"], "1": ["<a_1>", "<b_3>"], "2": ["<a_1>", "<b_2>", "<c_2>"]}
    path = write(tmp_path / "c.json", content)
    assert read_rows(path) == {"0": [1, 2, 1], "1": [1, 3], "2": [1, 2, 2]}
    assert pad_rows(read_rows(path)) == ({"0": [1, 2, 1], "1": [1, 3, 0], "2": [1, 2, 2]}, 1)
    with pytest.raises(DataError, match=r"item '1': another number .*found 2\); set x"):
        read_codes(path, ragged_fix="set x")


@given(st.dictionaries(st.text(), st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1))
def test_padding_changes_no_code_and_merges_no_rows(rows: dict[str, list[int]]) -> None:
    longest = max(map(len, rows.values()))
    padded, num_padded = pad_rows(rows)
    assert padded.keys() == rows.keys()
    assert num_padded == sum(len(row) < longest for row in rows.values())
    for item, row in rows.items():
        assert len(padded[item]) == longest
        assert padded[item][: len(row)] == row
        for level in range(len(row), longest):
            assert padded[item][level] not in {other[level] for other in rows.values() if len(other) > level}
    assert len({tuple(row) for row in padded.values()}) == len({tuple(row) for row in rows.values()})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.json", {"0": "B0", "1": 17}),
        ("m.json.gz", {"0": "B0", "1": 17}),
        ("m.csv", "item_id,key\nB0,0\n17,1\n"),
        ("m.csv.gz", 'title,key,item_id\r\n"a, b",0,B0\r\n\r\nc,1,"17"\r\n'),
        ("m.csv", 'title,key,item_id\n"two\nlines\u2028and more",0,B0\nc,1,17\n'),
        ("m.tsv", "\ufeffkey\titem_id\n0\tB0\n1\t17\n"),
    ],
)
def test_item_maps(tmp_path: Path, name: str, content: Any) -> None:
    assert read_item_map(write(tmp_path / name, content)) == {"0": "B0", "1": "17"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "key,item_id\n0,B0\n1,B0\n", r"m\.csv:3: keys '0' and '1' both stand for item 'B0'"),
        ("m.csv", "key,item_id\n0,B0\n0,B1\n", r"m\.csv:3: key '0' stands twice"),
        ("m.csv", "key,item_id\n0,\n", r"m\.csv:2: an empty key or item id"),
        ("m.csv", "key,item_id\n0\n", r"m\.csv:2: a row of another length \(expected 2, found 1\)"),
        ("m.csv", 'key,item_id\n0,"B0\n', r"not valid CSV"),
        ("m.csv", "key,item\n0,B0\n", r"missing column 'item_id'; did you mean 'item'"),
        ("m.csv", "key,item_id\n", "no items"),
        ("m.csv", "", "missing columns 'key', 'item_id'"),
        ("m.json", {"0": None}, r"m\.json: key '0': field 'item id' is no id"),
        ("m.json", {"0": "a", "1": "a"}, "both stand for item 'a'"),
        ("m.json", {}, "no items"),
        ("m.json", [1], "expected one JSON object"),
    ],
)
def test_bad_item_maps(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_item_map(write(tmp_path / name, content))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for read in (read_codes, read_item_map):
        with pytest.raises(StorageError, match=r"nowhere\.json: cannot read the file"):
            read(tmp_path / "nowhere.json")
