"""Times: every form against Python's datetime, and a unit that is told or refused, never guessed wrong."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sources.timestamps import choose_unit, to_ms
from genrec.errors import ConfigError, DataError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(values: list[Any] | pl.Series, unit: str = "auto") -> tuple[list[int | None], str]:
    frame = pl.DataFrame({"t": values})
    chosen, note = choose_unit(frame.lazy(), "t", unit, where="f.csv")
    assert "'t'" in note
    return frame.select(to_ms("t", frame.schema["t"], chosen)).to_series().to_list(), chosen


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([1_400_000_000, None, 1_500_000_000], "s", [1_400_000_000_000, None, 1_500_000_000_000]),
        ([1_400_000_000_123, 1_500_000_000_456], "ms", [1_400_000_000_123, 1_500_000_000_456]),
        ([1_400_000_000.5, 1_500_000_000.25], "s", [1_400_000_000_500, 1_500_000_000_250]),
        (["1400000000", " 1500000000 ", "1.6e9"], "s", [1_400_000_000_000, 1_500_000_000_000, 1_600_000_000_000]),
        (["2014-05-13", "2014-05-13T16:53:20Z"], "iso", [1_399_939_200_000, 1_400_000_000_000]),
        ([datetime(2014, 5, 13, 16, 53, 20)], "date", [1_400_000_000_000]),
        ([date(2014, 5, 13)], "date", [1_399_939_200_000]),
    ],
)
def test_auto(values: list[Any], unit: str, expected: list[int | None]) -> None:
    assert read(values) == (expected, unit)


def test_zones_are_taken_to_utc() -> None:
    zoned = pl.Series([datetime(2014, 5, 13, 18, 53, 20)]).dt.replace_time_zone("Europe/Paris")
    for unit in ("ms", "us", "ns"):
        assert read(zoned.dt.cast_time_unit(unit))[0] == [1_400_000_000_000]


@pytest.mark.parametrize("dtype", [pl.Int32, pl.UInt32, pl.Int64, pl.UInt64, pl.Float64, pl.Decimal(18, 0)])
def test_any_number_type(dtype: Any) -> None:
    assert read(pl.Series([1_400_000_000, 1_500_000_000]).cast(dtype))[0] == [1_400_000_000_000, 1_500_000_000_000]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],  # ordinals
        [0, 1_400_000_000],  # 0 for unknown
        [2014, 2015],
        [20140513, 20150101],
        [1_400_000_000, 1_400_000_000_000],  # both
        [1_400_000_000_000_000],  # microseconds
        [50_000_000_000],  # 3554 in s, 1971 in ms
        [-1_400_000_000],
    ],
)
def test_ambiguous_numbers_are_refused(values: list[int]) -> None:
    for series in (pl.Series(values), pl.Series(values).cast(pl.String)):
        with pytest.raises(
            DataError, match=r"f\.csv: column 't': cannot tell the unit.*set source\.timestamp_unit=s \(or ms, or iso\)"
        ):
            read(series)


def test_a_declared_unit_is_taken_at_its_word() -> None:
    assert read([1, 2], "s")[0] == [1000, 2000]
    assert read(["1", "-2.5"], "ms")[0] == [1, -2]
    assert read([-1], "s")[0] == [-1000]


def test_what_cannot_be_read_is_null() -> None:
    assert read(["1400000000", "x", "", "nan", "inf", None], "s")[0] == [1_400_000_000_000, *[None] * 5]
    assert read(["2014-05-13", "2014-02-30", "13/05/2014", "1400000000"], "iso")[0] == [1_399_939_200_000, *[None] * 3]
    assert read(pl.Series([float("nan"), float("inf"), 1e300, 1.5]), "s")[0] == [None, None, None, 1500]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_times_outside_the_years_1_to_9999_are_null(unit: str) -> None:
    limit = 253_402_300_799 * (1 if unit == "s" else 1000)
    values = [limit, limit * 10, 2**63 - 1, -(2**63)]
    for series in (pl.Series(values), pl.Series(values).cast(pl.String), pl.Series(values).cast(pl.Float64)):
        assert [value is None for value in read(series, unit)[0]] == [False, True, True, True]


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        ([True], "auto", "holds no times"),
        ([[1]], "auto", "holds no times"),
        ([timedelta(1)], "auto", "holds no times"),
        ([None, None], "auto", "holds no time"),
        (["x", "y"], "auto", "no time that can be read"),
        ([1_400_000_000], "iso", "timestamp_unit=iso needs texts"),
        ([date(2014, 5, 13)], "s", "does not fit a column of dates"),
    ],
)
def test_columns_that_are_no_times(values: list[Any], unit: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(values, unit)


def test_an_unknown_unit() -> None:
    with pytest.raises(ConfigError, match=r"unknown source\.timestamp_unit 'us'"):
        read([1], "us")


@given(
    moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda t: t.replace(microsecond=0)),
    ms=st.integers(0, 999),
    minutes=st.sampled_from([None, 0, 330, -570]),
    separator=st.sampled_from("T "),
    precision=st.sampled_from(["minutes", "seconds", "milliseconds", "microseconds"]),
)
def test_iso_texts_against_datetime(
    moment: datetime, ms: int, minutes: int | None, separator: str, precision: str
) -> None:
    moment = moment.replace(microsecond=ms * 1000)
    if minutes is not None:
        moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = moment.isoformat(separator, precision)
    parsed = datetime.fromisoformat(text)
    expected = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)) - EPOCH
    assert read([text], "iso")[0] == [expected // timedelta(milliseconds=1)]


@given(st.lists(st.integers(-62_135_596_800, 253_402_300_799), min_size=1, max_size=5))
def test_seconds_are_exact(values: list[int]) -> None:
    expected = [value * 1000 for value in values]
    assert read(values, "s")[0] == expected
    assert read([str(value) for value in values], "s")[0] == expected
