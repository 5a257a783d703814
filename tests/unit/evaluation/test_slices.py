"""Slice labels against their definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sequences import Ragged
from genrec.evaluation.slices import (
    LENGTH_EDGES,
    REST_OF_CATEGORIES,
    category_labels,
    length_bucket_names,
    length_labels,
    novelty_labels,
    popularity_labels,
)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_popularity_labels_are_the_definition(counts):
    labels = popularity_labels(np.arange(-1, len(counts)), np.array(counts)).tolist()
    assert labels[0] == "outside"
    for count, label in zip(counts, labels[1:], strict=True):
        above = sum(other for other in counts if other > count)
        if count == 0:
            expected = "unseen"
        elif 3 * above < sum(counts):
            expected = "head"
        else:
            expected = "middle" if 3 * above < 2 * sum(counts) else "tail"
        assert label == expected


def test_head_middle_and_tail_hold_about_a_third_of_the_interactions_each():
    counts = np.sort((1e5 / np.arange(1, 2001)).astype(int))
    labels = popularity_labels(np.arange(len(counts)), counts)
    for label in ("head", "middle", "tail"):
        assert abs(counts[labels == label].sum() / counts.sum() - 1 / 3) < 0.07


def test_boundaries_can_be_chosen():
    labels = popularity_labels(np.arange(3), np.array([8, 1, 1]), boundaries=(0.8, 0.9))
    assert labels.tolist() == ["head", "middle", "middle"]


@given(st.integers(0, 1000))
def test_a_length_lies_in_the_bucket_of_its_name(length):
    name = length_labels(np.array([length])).item()
    first, _, last = name.rstrip("+").partition("-")
    assert int(first) <= length
    assert name.endswith("+") or length <= int(last or first)


def test_bucket_names():
    assert length_bucket_names((2, 3)) == ("0-2", "3", "4+")
    assert set(length_labels(np.arange(100)).tolist()) == set(length_bucket_names(LENGTH_EDGES))


@given(st.lists(st.tuples(st.integers(-1, 3), st.lists(st.integers(0, 3))), min_size=1))
def test_novelty_is_membership(cases):
    targets, histories = zip(*cases, strict=True)
    labels = novelty_labels(np.array(targets), Ragged.from_lists(histories)).tolist()
    assert labels == ["repeat" if target in history else "new" for target, history in cases]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "other", None]), st.integers(0, 5)), min_size=1),
    st.integers(0, 3),
)
def test_categories_are_the_most_frequent_of_training_and_the_rest(items, most):
    categories, counts = [name for name, _ in items], np.array([count for _, count in items])
    labels, names = category_labels(np.arange(-1, len(items)), categories, counts, num_categories=most)
    totals = {name: sum(count for own, count in items if own == name) for name in set(categories) & {"a", "b", "c"}}
    frequent = sorted(totals, key=lambda name: (-totals[name], name))[:most]
    assert names == (*frequent, *REST_OF_CATEGORIES)
    expected = ["no category" if name is None else name if name in frequent else "other" for name in categories]
    assert labels.tolist() == ["outside", *expected]
