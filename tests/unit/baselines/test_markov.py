"""The order of the pair of keys, and a catalogue where the last item tells everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.baselines.markov import LastItemMarkov
from genrec.baselines.popularity import Popularity
from genrec.data.sequences import Cases, Ragged
from genrec.evaluation.evaluate import score_model
from oracles import knn_oracle

rows = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=6)


@given(rows.filter(any), rows)
def test_scores_order_items_as_the_pair_of_keys(train, histories):
    model = LastItemMarkov().fit(Ragged.from_lists(train), num_items=5)
    scores = model.scores(Ragged.from_lists(histories)).to_dense()
    for row, history in zip(scores, histories, strict=True):
        keys = knn_oracle.markov_order(train, history, 5)
        for i in range(5):
            for j in range(5):
                assert (row[i] > row[j]) == (keys[i] > keys[j])
                assert (row[i] == row[j]) == (keys[i] == keys[j])


def test_one_transition_outweighs_any_popularity():
    train = [[0, 1], *[[2]] * 1000]
    scores = LastItemMarkov().fit(Ragged.from_lists(train), num_items=3).scores(Ragged.from_lists([[0], [2], []]))
    assert np.argmax(scores.to_dense(), axis=1).tolist() == [1, 2, 2]


@pytest.mark.parametrize("num_items", [10, 60])
def test_a_cyclic_catalogue_is_solved_from_the_last_item(num_items):
    """Item i is always followed by i + 1 (mod N): recall@1 is 1 for models of order, 1/N-ish for popularity."""
    rng = np.random.default_rng(0)
    starts = rng.integers(num_items, size=300)
    lengths = rng.integers(3, 12, size=300)
    sequences = [
        ((start + np.arange(length)) % num_items).tolist() for start, length in zip(starts, lengths, strict=True)
    ]
    events = Ragged.from_lists(sequences)
    train = Ragged(events.values, events.starts, events.ends - 1)
    cases = Cases(np.arange(300), events.values[events.ends - 1], train)
    counts = np.bincount(train.flat()[1], minlength=num_items)

    def recall(model):
        return score_model(model.fit(train, num_items=num_items), cases, train_counts=counts, metric="recall@1")

    assert recall(LastItemMarkov()) == 1.0
    assert recall(DirectedItemKnn(window=1, backward=0.0, history_decay=0.1)) == 1.0
    assert recall(Popularity()) < 0.2
