"""What is said of lists against loops over them, and a tally against all lists at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import DataError
from genrec.evaluation.list_metrics import (
    ListTally,
    coverage,
    gini,
    intra_list_diversity,
    self_information,
    unit_vectors,
)

NUM_ITEMS, LENGTH, CUTOFFS = 7, 5, (1, 3, 5)
TRAIN_COUNTS = np.array([9, 0, 4, 1, 1, 30, 2])
VECTORS = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3))
VECTORS[4] = 0.0

item_lists = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=LENGTH, unique=True), min_size=1, max_size=9)


def padded(lists: list[list[int]]) -> np.ndarray:
    return np.array([row + [-1] * (LENGTH - len(row)) for row in lists], dtype=np.int32)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    return 0.0 if length == 0 else float(one @ other) / length


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_gini_is_half_the_relative_mean_difference_of_two_items(counts):
    pairs = [abs(a - b) for a in counts for b in counts]
    mean = sum(counts) / len(counts)
    expected = sum(pairs) / len(pairs) / 2 / mean if mean else 0.0
    assert math.isclose(gini(np.array(counts)), expected, abs_tol=1e-12)
    assert coverage(np.array(counts)) == sum(count > 0 for count in counts) / len(counts)


def test_information_is_that_of_a_probability():
    bits = self_information(TRAIN_COUNTS)
    assert (2.0**-bits).sum() == pytest.approx(1.0)
    assert np.isfinite(bits).all()
    assert (np.diff(bits[np.argsort(TRAIN_COUNTS)]) <= 0).all()  # the rarer, the more


@given(item_lists)
def test_diversity_is_the_mean_over_pairs(lists):
    found = intra_list_diversity(padded(lists), unit_vectors(VECTORS), CUTOFFS)
    for row, items in enumerate(lists):
        for at, k in enumerate(CUTOFFS):
            pairs = [1 - cosine(VECTORS[a], VECTORS[b]) for a, b in itertools.combinations(items[:k], 2)]
            if pairs:
                assert found[row, at] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
            else:
                assert np.isnan(found[row, at])


def test_copies_of_one_item_are_not_diverse_and_opposites_are_most():
    units = unit_vectors(np.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0]]))
    assert intra_list_diversity(np.array([[0, 1], [0, 2]]), units, (2,)).ravel() == pytest.approx([0.0, 2.0])


@given(item_lists, st.integers(1, 4))
def test_a_tally_of_batches_is_what_all_lists_say(lists, batch_size):
    tally = ListTally(NUM_ITEMS, len(lists), cutoffs=CUTOFFS, masks=("none", "seen"), units=unit_vectors(VECTORS))
    for start in range(0, len(lists), batch_size):
        batch = padded(lists[start : start + batch_size])
        tally.add("seen", start + np.arange(len(batch)), batch)
    rows = [row for row in tally.rows(TRAIN_COUNTS) if row["mask"] == "seen"]
    assert [row["cutoff"] for row in rows] == list(CUTOFFS)
    bits = self_information(TRAIN_COUNTS)
    for row in rows:
        shown = [items[: row["cutoff"]] for items in lists]
        flat = [item for items in shown for item in items]
        counts = np.array([flat.count(item) for item in range(NUM_ITEMS)])
        assert row["mean_length"] == pytest.approx(len(flat) / len(lists))
        assert (row["coverage"], row["gini"]) == (coverage(counts), gini(counts))
        assert row["average_popularity"] == pytest.approx(sum(TRAIN_COUNTS[i] for i in flat) / max(1, len(flat)))
        assert row["novelty"] == pytest.approx(sum(bits[i] for i in flat) / max(1, len(flat)))
        spread = [
            sum(1 - cosine(VECTORS[a], VECTORS[b]) for a, b in itertools.combinations(items, 2))
            / math.comb(len(items), 2)
            for items in shown
            if len(items) > 1
        ]
        if spread:
            assert row["diversity"] == pytest.approx(sum(spread) / len(spread), abs=1e-6)
        else:
            assert row["diversity"] is None


def test_without_vectors_there_is_no_diversity_and_without_lists_nothing():
    tally = ListTally(NUM_ITEMS, 3, cutoffs=(2,), masks=("none",))
    (row,) = tally.rows(TRAIN_COUNTS)
    assert row == {
        **{"mask": "none", "cutoff": 2, "mean_length": 0.0, "coverage": 0.0, "gini": 0.0},
        **{"average_popularity": 0.0, "novelty": 0.0, "diversity": None},
    }


def test_an_item_twice_in_a_list_is_refused_and_padding_is_not():
    tally = ListTally(NUM_ITEMS, 1, cutoffs=(1, 4), masks=("none",))
    tally.add("none", np.array([0]), np.array([[3, 1, -1, -1]]))
    with pytest.raises(DataError, match=r"model 'mine': an item is twice in one list"):
        tally.add("none", np.array([0]), np.array([[3, 1, 2, 3]]), model="mine")
