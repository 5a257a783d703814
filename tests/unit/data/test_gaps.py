"""Buckets of the time between events, and how they travel with rows that are taken, cut and put into batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genrec.data.batches import BatchStream
from genrec.data.gaps import NUM_GAPS, gap_buckets
from genrec.data.sequences import Ragged


def bucket(row: list[int], place: int) -> int:
    """The definition: binary digits of the seconds since the event before."""
    if place == 0:
        return 0
    return min(1 + max(0, row[place] - row[place - 1]).bit_length(), NUM_GAPS - 1)


def rows_with_times() -> tuple[Ragged, list[list[int]]]:
    random = np.random.default_rng(0)
    lengths = [7, 0, 1, 12, 4]
    times = [np.cumsum(2 ** random.integers(31, size=length)).tolist() for length in lengths]
    items = [random.integers(9, size=length).tolist() for length in lengths]
    return replace(Ragged.from_lists(items), times=Ragged.from_lists(times, dtype=np.int64).values), times


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 4, 7, 8, 2**29 - 1, 2**29, 2**31, 2**50, -5])
def test_a_bucket_is_the_number_of_binary_digits(gap: int) -> None:
    times = [100, 100 + gap]
    assert gap_buckets(np.array(times), np.array([0, 1]), np.array([0, 0])).tolist() == [0, bucket(times, 1)]


def test_rows_keep_their_gaps_however_they_are_taken_and_cut() -> None:
    rows, times = rows_with_times()
    expected = [[bucket(row, place) for place in range(len(row))] for row in times]
    assert len({gap for row in expected for gap in row}) > 8
    assert rows.gaps().to_lists() == expected
    chosen = np.array([3, 0, 1])
    for cut in (rows.take(chosen).tail(5).tail(3), rows.tail(3).take(chosen)):
        assert cut.gaps().to_lists() == [expected[row][-3:] for row in chosen]


@pytest.mark.parametrize("pairs", [True, False])
def test_windows_have_the_gaps_of_their_items(pairs: bool) -> None:
    """The first item of a window that is cut out of a history follows the one before it all the same."""
    rows, times = rows_with_times()
    rows = replace(rows, values=np.arange(len(rows.values)))
    owner = {int(item): (row, place) for row, items in enumerate(rows) for place, item in enumerate(items)}
    num_cut = 0
    for batch in BatchStream(rows, batch_size=3, max_length=4, seed=1, pairs=pairs, gaps=True).epoch(0):
        assert batch.gaps is not None
        for items, gaps in zip(batch.items.tolist(), batch.gaps.tolist(), strict=True):
            for item, gap in zip(items, gaps, strict=True):
                if item >= 0:
                    row, place = owner[item]
                    assert gap == bucket(times[row], place)
            num_cut += gaps[0] > 0
    assert num_cut > 0
    (plain, *_) = BatchStream(rows, batch_size=3, max_length=4, seed=1, pairs=pairs).epoch(0)
    assert plain.gaps is None
