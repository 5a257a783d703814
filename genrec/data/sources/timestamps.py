"""Times of events in any of the usual forms -> Int64 milliseconds since 1970, UTC.

Decides the unit of a column once, from its type and the size of its values, or refuses to. Knows Polars columns and
nothing of files.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from genrec.errors import ConfigError, DataError

UNITS = ("auto", "s", "ms", "iso")
MS_PER_UNIT = {"s": 1000, "ms": 1}
EARLIEST_MS, LATEST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999
# March 1973 to 2286 in either unit; the two ranges cannot be mistaken for each other.
PLAUSIBLE = {"s": (1e8, 1e10), "ms": (1e11, 1e13)}
_UNIT_FIX = "set source.timestamp_unit=s (or ms, or iso)"


def is_in_range(ms: pl.Expr) -> pl.Expr:
    """Whether the time lies in the years 1 to 9999; outside them the unit is wrong."""
    return ms.is_between(EARLIEST_MS, LATEST_MS)


def choose_unit(values: pl.LazyFrame, column: str, unit: str, *, where: object) -> tuple[str, str]:
    """The unit to read a column in, and one remark that says why.

    A column of dates needs none. Otherwise ``auto`` takes a column of texts for ISO dates or for numbers, whichever
    more of its values are, and numbers for seconds or milliseconds by their size.

    Args:
        values: table with `column`; one pass over that column is made if the values have to be looked at.
        column: its name.
        unit: one of `UNITS`.
        where: file name for messages.

    Returns:
        ``"date"``, ``"iso"``, ``"s"`` or ``"ms"``, and the remark.

    Raises:
        ConfigError: unknown unit.
        DataError: the unit does not fit the type, or ``auto`` cannot tell.
    """
    if unit not in UNITS:
        raise ConfigError(f"unknown source.timestamp_unit {unit!r}", expected=f"one of {', '.join(UNITS)}")
    dtype = values.collect_schema()[column]
    where = f"{where}: column {column!r}"
    if isinstance(dtype, pl.Datetime | pl.Date):
        return _date_unit(dtype, unit, column, where)
    if not (dtype.is_numeric() or dtype == pl.String):
        raise DataError("the column holds no times", where=where, expected="dates, numbers or texts", found=dtype)
    if unit == "iso" and dtype != pl.String:
        raise DataError("source.timestamp_unit=iso needs texts", where=where, found=dtype)
    if unit != "auto":
        return unit, f"column {column!r} is read in unit {unit}, as set"
    return _guess_unit(values, column, dtype, where)


def _date_unit(dtype: Any, unit: str, column: str, where: object) -> tuple[str, str]:
    if unit in MS_PER_UNIT:
        what = f"source.timestamp_unit={unit} does not fit a column of dates"
        raise DataError(what, where=where, fix="set source.timestamp_unit=auto")
    zone = getattr(dtype, "time_zone", None)
    return "date", f"column {column!r} holds dates" + ("" if zone else ", taken as UTC")


def _guess_unit(values: pl.LazyFrame, column: str, dtype: pl.DataType, where: object) -> tuple[str, str]:
    number = _number(column, dtype)
    finite = number.filter(number.is_finite())
    facts = values.select(all=pl.col(column).count(), numbers=finite.count(), low=finite.min(), high=finite.max())
    row = facts.collect(engine="streaming").row(0, named=True)
    if dtype == pl.String and row["numbers"] < row["all"]:
        num_iso = values.select(_iso(column).count()).collect(engine="streaming").item()
        if num_iso > row["numbers"]:
            return "iso", f"column {column!r} is read as ISO dates (auto)"
    if row["numbers"] == 0:
        raise DataError(
            "the column holds no time that can be read",
            where=where,
            fix=_UNIT_FIX + ", or name another column in source.timestamp_column=...",
        )
    for unit, (least, most) in PLAUSIBLE.items():
        if least <= row["low"] and row["high"] < most:
            return unit, f"column {column!r} is read in unit {unit} (auto: {row['low']:.0f} to {row['high']:.0f})"
    raise DataError(
        "cannot tell the unit of the times",
        where=where,
        expected="seconds (1e8 to 1e10) or milliseconds (1e11 to 1e13)",
        found=f"{row['low']:.15g} to {row['high']:.15g}",
        fix=_UNIT_FIX,
    )


def to_ms(column: str, dtype: Any, unit: str) -> pl.Expr:
    """Int64 ms UTC; null for null, for what cannot be read, and for times outside the years 1 to 9999.

    Args:
        column: name.
        dtype: its Polars type.
        unit: as `choose_unit` returned it.
    """
    if unit == "date":
        ms = pl.col(column).cast(pl.Datetime("ms", getattr(dtype, "time_zone", None)), strict=False).dt.epoch("ms")
    elif unit == "iso":
        ms = _iso(column)
    else:
        ms = _scaled(column, dtype, MS_PER_UNIT[unit])
    return pl.when(is_in_range(ms)).then(ms)


def _scaled(column: str, dtype: Any, factor: int) -> pl.Expr:
    """Whole numbers stay exact; the range is checked first, so that no product overflows."""
    value = pl.col(column).str.strip_chars() if dtype == pl.String else pl.col(column)
    whole = value.cast(pl.Int64, strict=False)
    whole = pl.when(whole.is_between(EARLIEST_MS // factor, LATEST_MS // factor)).then(whole * factor)
    if dtype.is_integer():
        return whole
    ms = (_number(column, dtype) * factor).round()
    fraction = pl.when(is_in_range(ms)).then(ms).cast(pl.Int64, strict=False)
    return pl.coalesce(whole, fraction) if dtype == pl.String else fraction


def _number(column: str, dtype: Any) -> pl.Expr:
    value = pl.col(column).str.strip_chars() if dtype == pl.String else pl.col(column)
    return value.cast(pl.Float64, strict=False)


def _iso(column: str) -> pl.Expr:
    """ISO 8601 dates with or without time, fraction and offset; without an offset they are UTC."""
    text = pl.col(column).str.strip_chars()
    text = text.str.replace(r"^(\d{4}-\d{2}-\d{2})[ t]", "${1}T").str.replace(r"\s*(?:[zZ]|UTC)$", "+00:00")
    with_offset = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us")
    forms = [
        with_offset,
        text.str.to_datetime("%Y-%m-%dT%H:%M%#z", strict=False, time_unit="us"),
        text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us"),
        text.str.to_datetime("%Y-%m-%dT%H:%M", strict=False, time_unit="us"),
        text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    ]
    return pl.coalesce(form.dt.epoch("ms") for form in forms)
