"""Files of semantic IDs that others publish, and of the item ids that their keys stand for.

APAO, LETTER and MiniOneRec write JSON ``{item: ["<a_159>", "<b_42>", ...]}``, a letter a level, or plain integers.
Knows files; nothing of datasets or configuration objects.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import polars as pl

from genrec.data.sources.csv_lines import csv_separator
from genrec.data.sources.json_lines import BadRecord, as_id, read_object
from genrec.data.sources.lines import read_all
from genrec.data.sources.names import missing_columns
from genrec.errors import DataError

TOKEN = re.compile(r"<([a-z])_(0|[1-9]\d{0,8})>")
LEVELS = "abcdefghijklmnopqrstuvwxyz"
LARGEST = 999_999_999  # code, as a token has at most nine digits
MAP_COLUMNS = ("key", "item_id")


def read_codes(
    path: Path, *, offset: int = 0, offset_key: str = "source.codes_offset", ragged_fix: str | None = None
) -> pl.DataFrame:
    """Imported semantic IDs: JSON ``{item: ["<a_159>", "<b_42>", ...]}``, a letter a level, or ``{item: [159, 42]}``.

    Args:
        path: plain or gzip JSON.
        offset: added to the item ids, which have to be integers if it is not 0.
        offset_key: of the configuration that says so, for messages.
        ragged_fix: what to do about rows of different lengths, for the message.

    Returns:
        item_id (String) and codes (List(Int32)), in file order, rows of one length.

    Raises:
        DataError: a row has another length than the first, a token is not ``<letter_number>``, levels are not a, b,
            c, ... in this order, or an integer is negative.
    """
    rows = read_rows(path, offset=offset, offset_key=offset_key)
    first = len(next(iter(rows.values())))
    for item, row in rows.items():
        if len(row) != first:
            raise DataError(
                "another number of codes than the first item",
                where=f"{path}: item {item!r}",
                expected=first,
                found=len(row),
                fix=ragged_fix,
            )
    return codes_frame(rows)


def read_rows(path: Path, *, offset: int = 0, offset_key: str = "source.codes_offset") -> dict[str, list[int]]:
    """As `read_codes`, but rows by item, of any lengths of at least 1."""
    rows: dict[str, list[int]] = {}
    for item, codes in read_object(path).items():
        where = f"{path}: item {item!r}"
        if not isinstance(codes, list) or not codes or len({type(code) for code in codes}) > 1:
            raise DataError("expected a list of tokens or of integers", where=where, found=repr(codes)[:60])
        row = [_code(code, level, where) for level, code in enumerate(codes)]
        rows[_shifted(item, offset, where, offset_key)] = row
    if not rows:
        raise DataError("the file has no items", where=path)
    return rows


def codes_frame(rows: Mapping[str, list[int]]) -> pl.DataFrame:
    """Columns item_id (String) and codes (List(Int32)), in the order of the rows."""
    schema = {"item_id": pl.String, "codes": pl.List(pl.Int32)}
    return pl.DataFrame({"item_id": list(rows), "codes": list(rows.values())}, schema=schema)


def pad_rows(rows: Mapping[str, list[int]]) -> tuple[dict[str, list[int]], int]:
    """All rows as long as the longest, and how many were shorter.

    Publishers that number the items of a bucket append that number to these items only (MiniOneRec does, from 1). The
    others get a code of their own at such a level: 0 if no row has it there, otherwise one more than the largest. So no
    code changes, and rows that differ still do.

    >>> pad_rows({"u": [3, 1, 1], "v": [3, 1, 2], "w": [5, 0]})
    ({'u': [3, 1, 1], 'v': [3, 1, 2], 'w': [5, 0, 0]}, 1)
    >>> pad_rows({"u": [3, 0], "w": [5]})
    ({'u': [3, 0], 'w': [5, 1]}, 1)
    """
    levels = [{code for code in column if code is not None} for column in zip_longest(*rows.values())]
    filler = [max(level) + 1 if 0 in level else 0 for level in levels]
    padded = {item: [*row, *filler[len(row) :]] for item, row in rows.items()}
    return padded, sum(len(row) < len(levels) for row in rows.values())


def read_item_map(path: Path) -> dict[str, str]:
    """Item ids by the keys of a publisher.

    Args:
        path: plain or gzip; ``.json``: an object {key: item id}; otherwise a CSV with the columns `MAP_COLUMNS` (a TSV
            if the name ends in .tsv or .tab).

    Raises:
        DataError: unreadable, no lines, a column is missing, a cell is empty, a key stands twice, or two keys stand for
            one item.
    """
    pairs = _json_pairs(path) if path.name.removesuffix(".gz").endswith(".json") else _csv_pairs(path)
    item_of: dict[str, str] = {}
    key_of: dict[str, str] = {}
    for where, key, item in pairs:
        if not key or not item:
            raise DataError("an empty key or item id", where=where)
        if key in item_of:
            raise DataError(f"key {key!r} stands twice", where=where)
        if item in key_of:
            raise DataError(f"keys {key_of[item]!r} and {key!r} both stand for item {item!r}", where=where)
        item_of[key], key_of[item] = item, key
    if not item_of:
        raise DataError("the file has no items", where=path)
    return item_of


def _json_pairs(path: Path) -> list[tuple[str, str, str]]:
    pairs = []
    for key, item in read_object(path).items():
        where = f"{path}: key {key!r}"
        try:
            pairs.append((where, key, as_id(item, "item id")))
        except BadRecord as error:
            raise DataError(str(error), where=where, found=error.found) from error
    return pairs


def _csv_pairs(path: Path) -> list[tuple[str, str, str]]:
    reader = csv.reader(io.StringIO(read_all(path), newline=""), delimiter=csv_separator(path), strict=True)
    pairs: list[tuple[str, str, str]] = []
    try:
        header = next(reader, [])
        missing_columns(header, MAP_COLUMNS, where=path)
        places = [header.index(name) for name in MAP_COLUMNS]
        for row in filter(None, reader):
            where = f"{path}:{reader.line_num}"
            if len(row) != len(header):
                raise DataError("a row of another length", where=where, expected=len(header), found=len(row))
            key, item = (row[place] for place in places)
            pairs.append((where, key, item))
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", where=f"{path}:{reader.line_num}") from error
    return pairs


def _code(code: object, level: int, where: str) -> int:
    if isinstance(code, int) and not isinstance(code, bool):
        if not 0 <= code <= LARGEST:
            raise DataError("a code out of range", where=where, expected=f"0 to {LARGEST}", found=code)
        return code
    match = TOKEN.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise DataError(f"cannot read the token {code!r}", where=where, expected="e.g. '<a_159>' or 159")
    if level >= len(LEVELS) or match[1] != LEVELS[level]:
        expected = LEVELS[level] if level < len(LEVELS) else "at most 26 levels"
        raise DataError(f"token {code!r} is of another level", where=where, expected=expected, found=match[1])
    return int(match[2])


def _shifted(item: str, offset: int, where: str, offset_key: str) -> str:
    if offset == 0:
        return item
    if not re.fullmatch(r"0|[1-9]\d*", item):
        raise DataError(f"{offset_key} needs integer item ids", where=where, fix=f"set {offset_key}=0")
    return str(int(item) + offset)
