"""What every baseline keeps, whatever it counts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.baselines.base import Baseline, Ranker, recommend
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.baselines.markov import LastItemMarkov
from genrec.baselines.popularity import Popularity, RecentPopularity
from genrec.baselines.scores import BackoffScores
from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError, DataError
from genrec.evaluation.evaluate import rank_cases
from oracles import ranking_oracle

NUM_ITEMS = 9

FACTORIES = {
    "popularity": Popularity,
    "recent_popularity_window": lambda: RecentPopularity(window_days=1.5),
    "recent_popularity_half_life": lambda: RecentPopularity(window_days=None, half_life_days=2.0),
    "markov": LastItemMarkov,
    "item_knn": DirectedItemKnn,
    "item_knn_short": lambda: DirectedItemKnn(window=1, decay=0.0, backward=0.0, history_decay=0.0, history_length=1),
}

item_lists = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7)
histories_of_users = st.lists(item_lists, min_size=1, max_size=8).filter(any)
batches = st.lists(item_lists, min_size=1, max_size=6)


def fitted(factory, train: list[list[int]]) -> Baseline:
    rows = Ragged.from_lists(train)
    days = Ragged.from_lists([[user + 10 * at for at in range(len(row))] for user, row in enumerate(train)])
    clock = Ragged(days.values.astype(np.int64) * 86_400, days.starts, days.ends)
    return factory().fit(rows, num_items=NUM_ITEMS, timestamps=clock)


def known_scores(model: Ranker, histories: Ragged) -> list[dict[int, float]]:
    """Item -> score of each row, whatever the form of the scores."""
    scores = model.scores(histories)
    if isinstance(scores, BackoffScores):
        scores = scores.to_dense()
    if isinstance(scores, np.ndarray):
        return [dict(enumerate(row)) for row in scores.tolist()]
    rows = (slice(*scores.indptr[row : row + 2]) for row in range(len(histories)))
    return [dict(zip(scores.indices[row].tolist(), scores.data[row].tolist(), strict=True)) for row in rows]


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
class TestBaseline:
    def test_fit_returns_the_model_itself_and_it_has_a_name(self, factory):
        model = factory()
        clock = Ragged.from_lists([[0, 1]])
        assert model.fit(Ragged.from_lists([[0, 1]]), num_items=2, timestamps=clock) is model
        assert model.name in {"popularity", "recent_popularity", "markov", "item_knn"}

    @settings(max_examples=examples(30))
    @given(histories_of_users, batches)
    def test_scores_are_finite_numbers_of_the_right_shape(self, factory, train, batch):
        scores = fitted(factory, train).scores(Ragged.from_lists(batch))
        entries = scores.entries if isinstance(scores, BackoffScores) else scores
        assert entries.shape == (len(batch), NUM_ITEMS)
        assert all(np.isfinite(list(row.values())).all() for row in known_scores_of(scores, len(batch)))
        assert isinstance(entries, np.ndarray | sp.csr_matrix)

    @settings(max_examples=examples(30))
    @given(histories_of_users, batches)
    def test_a_second_fit_scores_the_same(self, factory, train, batch):
        rows = Ragged.from_lists(batch)
        assert known_scores(fitted(factory, train), rows) == known_scores(fitted(factory, train), rows)

    @settings(max_examples=examples(30))
    @given(histories_of_users, batches)
    def test_users_do_not_influence_each_other(self, factory, train, batch):
        model = fitted(factory, train)
        apart = [known_scores(model, Ragged.from_lists([history]))[0] for history in batch]
        assert known_scores(model, Ragged.from_lists(batch)) == apart

    @settings(max_examples=examples(30))
    @given(histories_of_users, batches, item_lists)
    def test_what_comes_after_a_history_does_not_matter(self, factory, train, batch, future):
        """Neither in training nor in a request: rows are views, and the events behind their end belong to others."""
        model = fitted(factory, train)
        longer = Ragged.from_lists([[*history, *future] for history in batch])
        cut = Ragged(longer.values, longer.starts, longer.ends - len(future))
        assert known_scores(model, cut) == known_scores(model, Ragged.from_lists(batch))
        train_longer = Ragged.from_lists([[*history, *future] for history in train])
        train_cut = Ragged(train_longer.values, train_longer.starts, train_longer.ends - len(future))
        clock = Ragged.from_lists([[86_400 * (user + 10 * at) for at in range(len(h))] for user, h in enumerate(train)])
        again = factory().fit(train_cut, num_items=NUM_ITEMS, timestamps=clock)
        assert known_scores(again, cut) == known_scores(model, cut)

    @settings(max_examples=examples(40))
    @given(histories_of_users, batches, st.integers(1, NUM_ITEMS), st.booleans())
    def test_lists_are_the_sorted_scores(self, factory, train, batch, k, exclude_seen):
        model, rows = fitted(factory, train), Ragged.from_lists(batch)
        items, scores = recommend(model, rows, k, exclude_seen=exclude_seen)
        assert (items.shape, items.dtype) == ((len(batch), k), np.int32)
        assert scores.shape == items.shape
        for at, (known, history) in enumerate(zip(known_scores(model, rows), batch, strict=True)):
            expected = ranking_oracle.recommend(known, k, set(history) if exclude_seen else set())
            padding = k - len(expected)
            assert items[at].tolist() == [item for item, _ in expected] + [-1] * padding
            assert scores[at].tolist() == [score for _, score in expected] + [-np.inf] * padding

    @settings(max_examples=examples(30))
    @given(histories_of_users, st.integers(0, NUM_ITEMS - 1))
    def test_an_empty_history_is_ranked_by_popularity_in_an_evaluation(self, factory, train, target):
        counts = np.bincount([item for history in train for item in history], minlength=NUM_ITEMS)
        cases = Cases(np.arange(2), np.array([target, target]), Ragged.from_lists([[], [0]]))
        frame = rank_cases({"model": fitted(factory, train)}, cases, train_counts=counts)
        expected = ranking_oracle.rank_counts(dict(enumerate(counts.tolist())), target, set())
        for columns in (["num_greater", "num_tied"], ["num_greater_masked", "num_tied_masked"]):
            assert frame.select(columns).row(0) == expected

    def test_indices_outside_the_catalogue_are_refused(self, factory):
        model = fitted(factory, [[0, 1, 2]])
        for wrong in (-1, NUM_ITEMS):
            with pytest.raises(DataError, match=r"history 1: item outside the catalogue \(expected item_index 0 to 8"):
                model.scores(Ragged.from_lists([[0], [wrong]]))
            with pytest.raises(DataError, match="item outside the catalogue"):
                fitted(factory, [[0, wrong]])

    def test_no_training_interactions_are_refused(self, factory):
        with pytest.raises(DataError, match="no training interactions"):
            fitted(factory, [[], []])

    def test_impossible_list_lengths_are_refused(self, factory):
        model = fitted(factory, [[0, 1, 2]])
        for k in (0, -1, NUM_ITEMS + 1):
            with pytest.raises(ConfigError, match=r"wrong number of recommendations \(expected k from 1 to 9"):
                recommend(model, Ragged.from_lists([[0]]), k, exclude_seen=False)


def known_scores_of(scores, num_rows: int) -> list[dict[int, float]]:
    class Fixed:
        def scores(self, histories):
            return scores

    return known_scores(Fixed(), Ragged.from_lists([[]] * num_rows))
