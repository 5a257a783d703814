"""The sparse algebra against loops over dicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.baselines.transitions import lag_counts
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError
from oracles import knn_oracle

rows = st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=1, max_size=6)
constants = st.fixed_dictionaries(
    {
        "window": st.integers(1, 5),
        "decay": st.sampled_from([0.0, 0.5, 0.85, 1.0]),
        "backward": st.sampled_from([0.0, 0.25, 1.0]),
        "source_power": st.sampled_from([0.0, 0.25, 0.75, 1.0]),
        "target_power": st.sampled_from([0.0, 0.15, 0.5]),
        "history_decay": st.sampled_from([0.0, 0.5, 1.0]),
    }
)


@given(rows, st.integers(1, 5))
def test_lag_counts_equal_loops(train, max_lag):
    for lag, matrix in enumerate(lag_counts(Ragged.from_lists(train), 6, max_lag), start=1):
        expected = knn_oracle.lag_counts(train, lag)
        assert {(int(i), int(j)): matrix[i, j] for i, j in zip(*matrix.nonzero(), strict=True)} == dict(expected)
        assert matrix.nnz == len(expected)


@settings(max_examples=examples(80))
@given(rows.filter(any), rows, constants, st.integers(1, 6))
def test_scores_are_the_formula(train, histories, settings_, history_length):
    model = DirectedItemKnn(**settings_, history_length=history_length).fit(Ragged.from_lists(train), num_items=6)
    scores = model.scores(Ragged.from_lists(histories))
    for row, history in enumerate(histories):
        expected = knn_oracle.knn_scores(train, history, history_length=history_length, **settings_)
        stored = slice(*scores.indptr[row : row + 2])
        found = dict(zip(scores.indices[stored].tolist(), scores.data[stored].tolist(), strict=True))
        assert found == pytest.approx(expected)


@given(rows.filter(any), st.randoms(use_true_random=False))
def test_the_order_of_users_changes_no_bit(train, random):
    shuffled = train.copy()
    random.shuffle(shuffled)
    first, second = (DirectedItemKnn().fit(Ragged.from_lists(users), num_items=6) for users in (train, shuffled))
    assert first.similarity_.toarray().tolist() == second.similarity_.toarray().tolist()


def test_direction_matters():
    """0 is always followed by 1: forwards 1 is recommended to a user of 0, backwards only as far as b allows."""
    train = Ragged.from_lists([[0, 1]] * 3)
    model = DirectedItemKnn(backward=0.25, source_power=0, target_power=0).fit(train, num_items=2)
    assert model.scores(Ragged.from_lists([[0], [1]])).toarray().tolist() == [[0, 3], [0.75, 0]]


def test_an_item_without_company_is_not_recommended():
    model = DirectedItemKnn().fit(Ragged.from_lists([[0, 1], [2]]), num_items=4)
    assert model.scores(Ragged.from_lists([[2], [3], []])).nnz == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("decay", 1.1),
        ("decay", -0.1),
        ("backward", -1.0),
        ("backward", np.inf),
        ("history_decay", 2.0),
        ("history_length", 0),
        ("source_power", np.nan),
        ("target_power", np.inf),
    ],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"key 'item_knn.{name}': item-kNN: wrong {name}"):
        DirectedItemKnn(**{name: value})
