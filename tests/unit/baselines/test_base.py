"""Lists from scores of all three forms, in more than one batch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.baselines.base import count_items, recommend
from genrec.baselines.scores import BackoffScores
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError, DataError
from oracles import ranking_oracle


class Table:
    """Row u of a matrix for the user whose history starts with u, in the form that is asked for."""

    def __init__(self, dense: np.ndarray, form: str) -> None:
        self.dense, self.form = dense, form

    def scores(self, histories: Ragged):
        rows = self.dense[histories.values[histories.starts]]
        if self.form == "dense":
            return rows
        if self.form == "sparse":
            return sp.csr_matrix(np.where(rows > 0, rows, 0))
        return BackoffScores(sp.csr_matrix(np.where(rows > 2, rows, 0)), np.minimum(self.dense[0], 2.0))


@settings(max_examples=examples(60))
@given(st.data(), st.sampled_from(["dense", "sparse", "backoff"]), st.booleans())
def test_lists_equal_sorting(data, form, exclude_seen):
    size = data.draw(st.integers(1, 6))
    values = data.draw(st.lists(st.integers(0, 4), min_size=size * size, max_size=size * size))
    dense = np.array(values, dtype=float).reshape(size, size)
    histories = data.draw(st.lists(st.lists(st.integers(0, size - 1), min_size=1, max_size=4), min_size=1, max_size=5))
    k = data.draw(st.integers(1, size))
    items, scores = recommend(Table(dense, form), Ragged.from_lists(histories), k, exclude_seen=exclude_seen)
    for at, history in enumerate(histories):
        row = dense[history[0]]
        if form == "backoff":
            row = np.where(row > 2, row, np.minimum(dense[0], 2.0))
        known = {item: score for item, score in enumerate(row) if form != "sparse" or score > 0}
        expected = ranking_oracle.recommend(known, k, set(history) if exclude_seen else set())
        found = [(item, score) for item, score in zip(items[at], scores[at], strict=True) if item >= 0]
        assert found == expected
        assert np.isneginf(scores[at][len(expected) :]).all()


@pytest.mark.parametrize("form", ["dense", "sparse", "backoff"])
def test_many_users_are_served_in_batches(form):
    dense = np.random.default_rng(0).integers(0, 5, size=(50, 50)).astype(float)
    users = np.random.default_rng(1).integers(0, 50, size=1000)
    model = Table(dense, form)
    items, scores = recommend(model, Ragged.from_lists([[int(user)] for user in users]), 7, exclude_seen=True)
    one_by_one = [recommend(model, Ragged.from_lists([[user]]), 7, exclude_seen=True) for user in range(50)]
    for user, item_row, score_row in zip(users, items, scores, strict=True):
        assert item_row.tolist() == one_by_one[user][0][0].tolist()
        assert score_row.tolist() == one_by_one[user][1][0].tolist()


def test_no_users_get_no_lists():
    items, scores = recommend(Table(np.zeros((2, 2)), "dense"), Ragged.from_lists([]), 2, exclude_seen=True)
    assert (items.shape, scores.shape) == ((0, 2), (0, 2))


def test_backoff_scores_as_a_matrix():
    scores = BackoffScores(sp.csr_matrix(np.array([[0, 7.0], [0, 0]])), np.array([1, 2]))
    assert scores.to_dense().tolist() == [[1, 7], [1, 2]]


def test_counting_checks_the_range():
    with pytest.raises(
        DataError, match=r"history 1: item outside the catalogue \(expected item_index 0 to 3, found 4\)"
    ):
        count_items(Ragged.from_lists([[0], [1, 4]]), 4)
    with pytest.raises(ConfigError, match=r"k from 1 to 2 \(the items\), found 3\); set k=2"):
        recommend(Table(np.zeros((2, 2)), "dense"), Ragged.from_lists([[0]]), 3, exclude_seen=False)
