"""Counts over everything, over the last days, and decayed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.baselines.popularity import SECONDS_PER_DAY, Popularity, RecentPopularity
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError
from oracles import knn_oracle

events = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=5), min_size=1, max_size=5
).filter(any)


def split(rows: list[list[tuple[int, int]]]) -> tuple[Ragged, Ragged]:
    """Histories and their clock, from (item, day) pairs."""
    items = Ragged.from_lists([[item for item, _ in row] for row in rows])
    return items, Ragged.from_lists([[day * SECONDS_PER_DAY for _, day in row] for row in rows], dtype=np.int64)


@given(st.lists(st.lists(st.integers(0, 4)), min_size=1).filter(any))
def test_popularity_is_a_count(train):
    scores = Popularity().fit(Ragged.from_lists(train), num_items=5).scores(Ragged.from_lists([[0], []])).to_dense()
    counts = knn_oracle.popularity(train)
    assert scores.tolist() == [[counts[item] for item in range(5)]] * 2


@given(events, st.integers(0, 40))
def test_a_window_counts_the_last_days(rows, window_days):
    items, clock = split(rows)
    model = RecentPopularity(window_days=window_days).fit(items, num_items=5, timestamps=clock)
    latest = max(day for row in rows for _, day in row)
    expected = [sum(i == item and latest - day <= window_days for row in rows for i, day in row) for item in range(5)]
    assert model.weights_.tolist() == expected
    assert model.scores(items).to_dense()[0].tolist() == expected


@given(events, st.floats(0.5, 20))
def test_a_half_life_halves(rows, half_life):
    items, clock = split(rows)
    model = RecentPopularity(window_days=None, half_life_days=half_life)
    model.fit(items, num_items=5, timestamps=clock)
    latest = max(day for row in rows for _, day in row)
    for item in range(5):
        expected = sum(0.5 ** ((latest - day) / half_life) for row in rows for i, day in row if i == item)
        assert model.weights_[item] == pytest.approx(expected)


def test_data_without_a_clock_have_no_recent_popularity():
    with pytest.raises(
        DataError, match="no timestamps, which recent popularity needs; leave recent_popularity out of models"
    ):
        RecentPopularity().fit(Ragged.from_lists([[0]]), num_items=1)
    with pytest.raises(DataError, match="not parallel"):
        RecentPopularity().fit(Ragged.from_lists([[0]]), num_items=1, timestamps=Ragged.from_lists([[1, 2]]))


def test_settings_are_checked():
    for wrong, value in (({"window_days": None}, "30"), ({"half_life_days": 1.0}, "null")):
        remedy = f"exactly one of window_days and half_life_days.*; set recent_popularity.window_days={value}$"
        with pytest.raises(ConfigError, match=remedy):
            RecentPopularity(**wrong)
    with pytest.raises(ConfigError, match="wrong window_days"):
        RecentPopularity(window_days=-1)
    with pytest.raises(ConfigError, match="wrong half_life_days"):
        RecentPopularity(window_days=None, half_life_days=0)
