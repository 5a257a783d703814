"""JSON lines: the fast path against one `json.loads` a line, and Python literals that are read and never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.data.sources.json_lines import (
    BadRecord,
    Fields,
    parse_record,
    read_json,
    read_json_lines,
    read_records,
)
from genrec.data.sources.lines import LINE, BadLines
from genrec.errors import DataError

FIELDS = Fields({"user": pl.String, "time": pl.Int64, "stars": pl.Float64}, ids=("user",))
GOOD = b'{"user": "u1", "time": 5, "stars": 4.5, "text": "\\u00e9", "more": {"a": [1, null]}}'


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def rows(path: Path, *, skip: bool = False, fields: Fields = FIELDS, **options: bool) -> list[tuple[Any, ...]]:
    return read_json_lines(path, fields, bad=BadLines(path, skip=skip), **options).rows()


def test_wanted_fields_come_with_their_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, b"", b'{"stars": 3, "time": 6, "user": 17}', b'{"user": 17.0, "time": 6, "stars": 3}')
    frame = read_json_lines(path, FIELDS, bad=BadLines(path))
    assert frame.schema == pl.Schema({LINE: pl.UInt32, **FIELDS.types})
    assert frame.rows() == [(1, "u1", 5, 4.5), (3, "17", 6, 3.0), (4, "17", 6, 3.0)]


BAD = {
    "cut": (b'{"user": "u2", "time": 1', r"not valid JSON: .* at column"),
    "two objects": (GOOD + GOOD, "not valid JSON: Extra data"),
    "array": (b"[1, 2]", "expected an object, found a list"),
    "null": (b"null", "expected an object, found null"),
    "python": (b"{'user': 'u2', 'time': 1, 'stars': 1.0}", "not valid JSON"),
    "no utf-8": (b'{"user": "\xff", "time": 1, "stars": 1.0}', "not valid utf-8"),
    "missing": (b'{"user": "u2", "stars": 1.0}', r"missing field 'time' \(found fields user, stars\)"),
    "null id": (b'{"user": null, "time": 1, "stars": 1.0}', "field 'user' is null"),
    "empty id": (b'{"user": "", "time": 1, "stars": 1.0}', "field 'user' is empty"),
    "list as id": (b'{"user": ["u"], "time": 1, "stars": 1.0}', r"field 'user' is no id.*\(found a list\)"),
    "fraction as id": (b'{"user": 17.5, "time": 1, "stars": 1.0}', "field 'user' is no id"),
    "inexact id": (b'{"user": 12345678901234567.0, "time": 1, "stars": 1.0}', "field 'user' is no id"),
    "bool as id": (b'{"user": true, "time": 1, "stars": 1.0}', "field 'user' is no id"),
    "surrogate": (b'{"user": "\\ud800", "time": 1, "stars": 1.0}', "field 'user' is not valid Unicode"),
    "text as time": (b'{"user": "u", "time": "1", "stars": 1.0}', r"field 'time' is not a number \(found a string\)"),
    "fraction": (b'{"user": "u", "time": 1.5, "stars": 1.0}', "field 'time' is out of range"),
    "huge": (b'{"user": "u", "time": 99999999999999999999, "stars": 1.0}', "field 'time' is out of range"),
    "nan": (b'{"user": "u", "time": 1, "stars": NaN}', "field 'stars' is out of range"),
    "huge float": (b'{"user": "u", "time": 1, "stars": 1' + b"0" * 400 + b"}", "field 'stars' is out of range"),
    "bool as number": (b'{"user": "u", "time": true, "stars": 1.0}', "field 'time' is not a number"),
    "endless digits": (b'{"user": "u", "time": ' + b"1" * 5000 + b', "stars": 1.0}', "not valid JSON"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, GOOD, line, GOOD)
    with pytest.raises(DataError, match=r"a\.jsonl:2: " + message):
        rows(path)
    bad = BadLines(path, skip=True)
    assert read_json_lines(path, FIELDS, bad=bad)[LINE].to_list() == [1, 3]
    assert bad.count == 1


def test_what_only_python_reads_is_still_taken(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, b'{"user": "u", "time": 7.0, "stars": 2, "price": NaN}')
    assert rows(path) == [(1, "u1", 5, 4.5), (2, "u", 7, 2.0)]


def test_ids_that_look_like_something_else_are_taken(tmp_path: Path) -> None:
    ids = ["[x]", "true", "1.50", "1e5", "{", "null", "12345678901234567890"]
    path = write(tmp_path, *(json.dumps({"user": i, "time": 1, "stars": 1}).encode() for i in ids))
    assert [row[1] for row in rows(path)] == ids


def test_optional_fields_may_be_absent_or_null(tmp_path: Path) -> None:
    fields = Fields({"user": pl.String, "time": pl.String}, ids=("user",), optional=("time",))
    path = write(tmp_path, b'{"user": "a"}', b'{"user": "b", "time": null}', b'{"user": "c", "time": 1.5}')
    assert rows(path, fields=fields) == [(1, "a", None), (2, "b", None), (3, "c", "1.5")]


SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=4)
RECORDS = st.fixed_dictionaries({}, optional={"user": SCALARS, "time": SCALARS, "stars": SCALARS, "x": SCALARS})


@settings(max_examples=examples(60))
@given(records=st.lists(st.builds(json.dumps, RECORDS) | st.sampled_from(["[1]", "{", "7"]), max_size=6))
def test_the_fast_path_agrees_with_one_line_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, records: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("d")
    together = rows(write(folder, *(record.encode() for record in records)), skip=True)
    alone = []
    for number, record in enumerate(records, 1):
        alone += [(number, *row[1:]) for row in rows(write(folder, record.encode()), skip=True)]
    assert together == alone


def test_python_literals_with_quotes_and_unicode() -> None:
    record = {"asin": "B0", "title": "L'eau \"d'été\" \\ 5", "categories": [["Beauty", "Skin"]], "price": 3.5}
    line = repr(record).encode("utf-8")
    assert parse_record(line, python_dicts=True) == record
    assert parse_record(json.dumps(record).encode(), python_dicts=True) == record
    with pytest.raises(BadRecord, match="not valid JSON"):
        parse_record(line)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('pathlib').Path({path!r}).touch()",
        "(lambda: open({path!r}, 'w'))()",
        "[open({path!r}, 'w') for _ in (1,)]",
        "f'{{open({path!r}, \"w\")}}'",
    ],
)
def test_code_in_a_python_literal_is_not_run(tmp_path: Path, expression: str) -> None:
    victim = tmp_path / "victim"
    line = "{'asin': " + expression.format(path=str(victim)) + "}"
    path = write(tmp_path, line.encode())
    with pytest.raises(DataError, match=r"a\.jsonl:1: neither JSON nor a Python literal"):
        list(read_records(path, bad=BadLines(path), python_dicts=True))
    assert not victim.exists()


@pytest.mark.parametrize("line", [b"[" * 100_000, b"{'a': " * 3000, b"{'a': 1 + }", b"\x00", b"{'a'"])
def test_hostile_lines_are_bad_lines(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, line)
    bad = BadLines(path, skip=True)
    assert list(read_records(path, bad=bad, python_dicts=True)) == []
    assert bad.count == 1


def test_python_literals_take_the_typed_road_too(tmp_path: Path) -> None:
    path = write(tmp_path, b"{'user': 'u', 'time': 1, 'stars': 5.0}", GOOD)
    assert rows(path, python_dicts=True) == [(1, "u", 1, 5.0), (2, "u1", 5, 4.5)]


def test_whole_files_name_the_line_and_refuse_repeated_keys(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"a": 1,', b' "b": }')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not valid JSON"):
        read_json(path)
    path = write(tmp_path, b'{"a": 1, "b": 2, "a": 3}')
    with pytest.raises(DataError, match="key 'a' stands twice"):
        read_json(path)
    path = write(tmp_path, b"[" * 100_000)
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(path)
