"""A baseline as a search: its lists are those of `recommend`, its probabilities its shares with a floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.baselines.base import recommend
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.sequences import Ragged
from genrec.errors import DataError
from genrec.evaluation.baseline_generator import BaselineGenerator

N = 25
IDS = [str(index) for index in range(N)]
RNG = np.random.default_rng(0)
TRAIN = Ragged.from_lists([RNG.integers(0, N, size=6).tolist() for _ in range(20)])
ROWS = Ragged.from_lists([[3, 11], [24], [0, 5, 8]])


def make() -> BaselineGenerator:
    knn = DirectedItemKnn().fit(TRAIN, num_items=N)
    return BaselineGenerator(knn, item_ids=IDS, train_counts=np.arange(N), floor=0.2)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_those_of_the_baseline(exclude_seen: bool) -> None:
    generator = make()
    items, scores = recommend(generator.model, ROWS, N, exclude_seen=exclude_seen)
    found = generator.search(ROWS, N, exclude_seen=exclude_seen)
    assert found.item_index.tolist() == items.tolist()
    assert np.allclose(found.score.numpy(), scores)


def test_masks_hold_and_an_empty_history_gets_the_popular_items() -> None:
    generator = make()
    rows = Ragged.from_lists([[3, 11], []])
    allow = torch.arange(N) < 20
    found = generator.search(rows, 3, deny=torch.tensor([[-1], [19]]), allow=allow)
    assert bool((found.item_index[0] < 20).all())
    assert found.item_index[1].tolist() == [18, 17, 16]


def test_probabilities_are_shares_with_a_floor() -> None:
    generator = make()
    rows = Ragged.from_lists([[3, 11], []])
    scores = np.asarray(generator.model.scores(rows).toarray())  # type: ignore[union-attr]
    found = generator.item_log_probs(rows).exp().numpy()
    assert found.sum(axis=1) == pytest.approx([1, 1])
    assert found[0] == pytest.approx(0.8 * scores[0] / scores[0].sum() + 0.2 / N)
    assert found[1] == pytest.approx(np.full(N, 1 / N))


class Negative:
    def scores(self, histories: Ragged) -> np.ndarray:
        return np.full((len(histories), N), -1.0)


def test_negative_scores_are_no_weights() -> None:
    generator = BaselineGenerator(Negative(), item_ids=IDS, train_counts=np.arange(N))
    with pytest.raises(DataError, match="no weights"):
        generator.search(ROWS, 3)
