"""Raw columns of any type -> the event columns of `RawData`, with every row that cannot be used found and named.

One set of expressions serves eager tables (errors name file and line) and lazy ones (errors name file and row). Knows
Polars, and nothing of formats or data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from genrec.data.schema import SPLIT_DTYPE
from genrec.data.sources.lines import PROBLEM, BadLines, report_problems
from genrec.data.sources.timestamps import to_ms
from genrec.errors import DataError

# What a column of splits may hold, in any case.
SPLIT_NAMES = {"train": "train", **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"), "test": "test"}


@dataclass(frozen=True)
class EventColumns:
    """Which raw column is what.

    Attributes:
        user, item: ids.
        timestamp, rating, split: None if the data have none.
        needs_time, needs_rating: a row without one is bad.
    """

    user: str
    item: str
    timestamp: str | None = None
    rating: str | None = None
    split: str | None = None
    needs_time: bool = True
    needs_rating: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The raw columns, without repetition."""
        given = (self.user, self.item, self.timestamp, self.rating, self.split)
        return tuple(dict.fromkeys(name for name in given if name is not None))


def check_event_types(schema: Mapping[str, Any], columns: EventColumns, *, where: object) -> None:
    """DataError if an id is no text, integer or category, a rating no number, or a split no text."""
    for name in (columns.user, columns.item):
        check_id_type(schema[name], name, where=where)
    if columns.rating is not None:
        dtype = schema[columns.rating]
        if not (dtype.is_numeric() or dtype == pl.String):
            raise DataError(f"column {columns.rating!r} holds no ratings", where=where, expected="numbers", found=dtype)
    if columns.split is not None:
        dtype = schema[columns.split]
        if not (dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)):
            raise DataError(f"column {columns.split!r} holds no splits", where=where, expected="texts", found=dtype)


def check_id_type(dtype: Any, name: str, *, where: object) -> None:
    """DataError if `dtype` cannot hold ids. Floats cannot: 17 and 17.0 would be two ids, and large ones are rounded."""
    if not (dtype == pl.String or dtype.is_integer() or isinstance(dtype, pl.Categorical | pl.Enum)):
        raise DataError(
            f"column {name!r} holds no ids",
            where=where,
            expected="texts, integers or categories",
            found=dtype,
            fix="cast it to text or integer" if dtype.is_float() else None,
        )


def event_columns(schema: Mapping[str, Any], columns: EventColumns, unit: str | None) -> list[pl.Expr]:
    """user_id and item_id (String); where there are any, timestamp (Int64 ms UTC), rating (Float64), split (Enum)."""
    parts = [_id(schema, columns.user).alias("user_id"), _id(schema, columns.item).alias("item_id")]
    if columns.timestamp is not None and unit is not None:
        parts.append(to_ms(columns.timestamp, schema[columns.timestamp], unit).alias("timestamp"))
    if columns.rating is not None:
        parts.append(_rating(schema, columns.rating).alias("rating"))
    if columns.split is not None:
        parts.append(_split(columns.split).alias("split"))
    return parts


def event_problem(schema: Mapping[str, Any], columns: EventColumns, unit: str | None) -> pl.Expr:
    """UInt8 column `PROBLEM`: 0 for a good row, else a key of `event_messages`."""
    problems = {1: _is_empty(schema, columns.user), 2: _is_empty(schema, columns.item)}
    if columns.timestamp is not None and unit is not None:
        empty = _is_empty(schema, columns.timestamp)
        problems[3] = ~empty & to_ms(columns.timestamp, schema[columns.timestamp], unit).is_null()
        if columns.needs_time:
            problems[5] = empty
    if columns.rating is not None:
        empty = _is_empty(schema, columns.rating)
        problems[4] = ~empty & _rating(schema, columns.rating).is_null()
        if columns.needs_rating:
            problems[6] = empty
    if columns.split is not None:
        problems[7] = _split(columns.split).is_null()
    code = pl.lit(0, dtype=pl.UInt8)
    for key, is_bad in sorted(problems.items(), reverse=True):
        code = pl.when(is_bad).then(pl.lit(key, dtype=pl.UInt8)).otherwise(code)
    return code.alias(PROBLEM)


def event_messages(columns: EventColumns, unit: str | None) -> dict[int, tuple[str, str | None]]:
    """What a value of `PROBLEM` means, and the raw column whose value is to be shown with it."""
    return {
        1: (f"column {columns.user!r} is empty", None),
        2: (f"column {columns.item!r} is empty", None),
        3: (f"column {columns.timestamp!r} holds no time of unit {unit} in the years 1 to 9999:", columns.timestamp),
        4: (f"column {columns.rating!r} holds no finite number:", columns.rating),
        5: (f"column {columns.timestamp!r} is empty", None),
        6: (f"column {columns.rating!r} is empty", None),
        7: (f"column {columns.split!r} holds none of {', '.join(SPLIT_NAMES)}:", columns.split),
    }


def checked_events(
    frame: pl.DataFrame,
    columns: EventColumns,
    unit: str | None,
    *,
    bad: BadLines,
    keep: Sequence[str] = (),
    reread: Callable[[], pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """The event columns (and `keep`) of the good rows of a table; the other rows go to `bad`.

    Args:
        frame: raw columns and `LINE`.
        columns: which is what.
        unit: of the times.
        bad: account of bad lines.
        keep: further columns to hand on.
        reread: gives the table again with true line numbers, if those of `frame` are not.
    """
    problem = event_problem(frame.schema, columns, unit)
    parts = event_columns(frame.schema, columns, unit)
    # Lazily, so that what the checks and the columns have in common is computed once.
    events = frame.lazy().select(*parts, *keep, problem).collect()
    if not events[PROBLEM].max():
        return events.drop(PROBLEM)
    if reread is not None:
        frame = reread()
    good = report_problems(frame.with_columns(problem), event_messages(columns, unit), bad)
    return good.select(*parts, *keep)


def _id(schema: Mapping[str, Any], name: str) -> pl.Expr:
    return pl.col(name) if schema[name] == pl.String else pl.col(name).cast(pl.String)


def _is_empty(schema: Mapping[str, Any], name: str) -> pl.Expr:
    """Null, or a text of nothing but white space."""
    if schema[name] == pl.String:
        return pl.col(name).is_null() | (pl.col(name).str.strip_chars().fill_null("") == "")
    return pl.col(name).is_null()


def is_untimed(schema: Mapping[str, Any], columns: EventColumns) -> pl.Expr:
    """Whether a row has no time, in data that have times."""
    return pl.lit(False) if columns.timestamp is None else _is_empty(schema, columns.timestamp)


def _split(name: str) -> pl.Expr:
    text = pl.col(name).cast(pl.String).str.strip_chars().str.to_lowercase()
    return text.replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.String).cast(SPLIT_DTYPE)


def _rating(schema: Mapping[str, Any], name: str) -> pl.Expr:
    value = pl.col(name).str.strip_chars() if schema[name] == pl.String else pl.col(name)
    number = value.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)
