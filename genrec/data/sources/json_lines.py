"""JSON: one object a line, and whole files.

Lines are parsed by Polars, a chunk at a time. A chunk that Polars refuses, or a line that looks wrong afterwards, is
parsed again in Python, which decides: so the fast path never has the last word on what a bad line is. Knows nothing of
any data set's columns.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.sources.lines import LINE, NOT_UTF8, BadLines, read_all, read_chunks
from genrec.errors import DataError

# What Polars makes of values that are no id: empty strings, arrays, objects, true and false, fractions, lone
# surrogates, and floats too large to be exact, which look like long integers.
SUSPICIOUS_ID = r"^$|^[\[{]|\x00|^(true|false|-0)$|^-?\d+\.\d+$|^-?\d{16,}$"
INT64 = range(-(2**63), 2**63)


class BadRecord(ValueError):
    """What is wrong with one line; never leaves the sources."""

    def __init__(self, what: str, *, found: object = None) -> None:
        super().__init__(what)
        self.found = found


@dataclass(frozen=True)
class Fields:
    """The wanted fields of a line.

    Attributes:
        types: name to String, Int64 or Float64; a String that is no id takes any scalar's text.
        ids: String fields that have to be strings or integers.
        optional: fields that may be absent or null.
    """

    types: Mapping[str, Any]
    ids: Collection[str] = ()
    optional: Collection[str] = ()


def read_json_lines(path: Path, fields: Fields, *, bad: BadLines, python_dicts: bool = False) -> pl.DataFrame:
    """The wanted fields of every line, in file order.

    Args:
        path: plain or gzip file.
        fields: what to take from a line.
        bad: account of lines that are not an object, lack a field or have one of the wrong type.
        python_dicts: also take lines that are Python literals (``{'asin': 'B0'}``), read without running any code.

    Returns:
        `LINE` and one column a field.
    """
    schema = {LINE: pl.UInt32, **fields.types}
    frames = [pl.DataFrame(schema=schema)]
    for numbers, lines in read_chunks(path):
        frame = _parse_fast(numbers, lines, fields, bad)
        frames.append(_parse_slowly(numbers, lines, fields, bad, python_dicts) if frame is None else frame)
    return pl.concat(frames)


def _parse_fast(numbers: list[int], lines: list[bytes], fields: Fields, bad: BadLines) -> pl.DataFrame | None:
    """None if Polars refuses the chunk."""
    try:
        frame = pl.read_ndjson(b"\n".join(lines), schema=dict(fields.types))
    except pl.exceptions.PolarsError:
        return None
    if frame.height != len(lines):
        return None
    required = [name for name in fields.types if name not in fields.optional]
    doubts = [pl.col(name).is_null() for name in required]
    doubts += [pl.col(name).str.contains(SUSPICIOUS_ID).fill_null(False) for name in fields.ids]
    frame = frame.insert_column(0, pl.Series(LINE, numbers, dtype=pl.UInt32))
    wrong: list[int] = []
    for row in frame.select(pl.any_horizontal(doubts).arg_true()).to_series() if doubts else ():
        try:
            _values(parse_record(lines[row]), fields)
        except BadRecord as error:
            bad.add(numbers[row], str(error), found=error.found)
            wrong.append(numbers[row])
    return frame.filter(~pl.col(LINE).is_in(wrong)) if wrong else frame


def _parse_slowly(
    numbers: list[int], lines: list[bytes], fields: Fields, bad: BadLines, python_dicts: bool
) -> pl.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for number, line in zip(numbers, lines, strict=True):
        try:
            rows.append((number, *_values(parse_record(line, python_dicts=python_dicts), fields)))
        except BadRecord as error:
            bad.add(number, str(error), found=error.found)
    return pl.DataFrame(rows, schema={LINE: pl.UInt32, **fields.types}, orient="row")


def read_records(path: Path, *, bad: BadLines, python_dicts: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line, for records whose fields have no fixed type."""
    for numbers, lines in read_chunks(path):
        for number, line in zip(numbers, lines, strict=True):
            try:
                record = parse_record(line, python_dicts=python_dicts)
            except BadRecord as error:
                bad.add(number, str(error), found=error.found)
            else:
                yield number, record


def parse_record(line: bytes, *, python_dicts: bool = False) -> dict[str, Any]:
    """One line as an object; BadRecord says what is wrong. Python literals are read, never evaluated.

    >>> parse_record(b"{'asin': 'B0', 'title': 'L\\\\'eau'}", python_dicts=True)
    {'asin': 'B0', 'title': "L'eau"}
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(NOT_UTF8) from error
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        if not python_dicts:
            raise BadRecord(f"not valid JSON: {error.msg} at column {error.colno}") from error
        record = parse_literal(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or nesting without end
        raise BadRecord(f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise BadRecord(f"expected an object, found {_kind(record)}")
    return record


def parse_literal(text: str) -> Any:
    """A Python literal: strings, numbers, lists, dicts; names and calls are refused."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadRecord("neither JSON nor a Python literal", found=repr(text.strip()[:40])) from error


def read_json(path: Path) -> Any:
    """A whole JSON file; a key that stands twice in one object is an error, as is anything that is not JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise DataError(f"key {twice!r} stands twice in one object", where=path)
        return content

    try:
        return json.loads(read_all(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not valid JSON: {error.msg} at column {error.colno}", where=f"{path}:{error.lineno}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where=path) from error


def read_object(path: Path) -> dict[str, Any]:
    """A whole JSON file that has to be one object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("expected one JSON object", where=path, found=type(content).__name__)
    return content


def _values(record: Mapping[str, Any], fields: Fields) -> list[Any]:
    missing = [name for name in fields.types if name not in record and name not in fields.optional]
    if missing:
        names = ", ".join(map(repr, missing))
        raise BadRecord(
            f"missing field{'s' if len(missing) > 1 else ''} {names}", found=f"fields {', '.join(record) or 'none'}"
        )
    return [_value(record.get(name), name, dtype, fields) for name, dtype in fields.types.items()]


def _value(value: Any, name: str, dtype: Any, fields: Fields) -> Any:
    if value is None:
        if name in fields.optional:
            return None
        raise BadRecord(f"field {name!r} is null")
    if dtype == pl.String:
        return as_id(value, name) if name in fields.ids else _as_text(value, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRecord(f"field {name!r} is not a number", found=_kind(value))
    is_whole = isinstance(value, int) or value.is_integer()  # False for NaN and infinity
    if not (is_whole and int(value) in INT64) and (dtype == pl.Int64 or not _is_finite(value)):
        raise BadRecord(f"field {name!r} is out of range", found=repr(value)[:40])
    return int(value) if dtype == pl.Int64 else float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def as_id(value: Any, name: str) -> str:
    """A user's or item's id, a string or an integer (17.0 is one), as text; BadRecord for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0":
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadRecord(f"field {name!r} is no id, which is a string or an integer", found=_kind(value))
    if value == "":
        raise BadRecord(f"field {name!r} is empty")
    return _as_text(value, name)


def _as_text(value: Any, name: str) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord(f"field {name!r} is not valid Unicode") from error
    return text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", tuple: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), f"the number {value!r}"[:40])
