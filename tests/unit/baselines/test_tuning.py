"""Tuning of item-kNN: the cheap fit equals the plain one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.baselines.tuning import KnnFactory
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError


def test_the_factory_fits_the_same_models_in_any_order():
    rng = np.random.default_rng(0)
    train = Ragged.from_lists([rng.integers(12, size=rng.integers(0, 9)).tolist() for _ in range(40)])
    factory = KnnFactory(train, num_items=12, max_window=4)
    for window, decay, power in itertools.product((4, 1, 3), (0.5, 1.0), (0.0, 0.5)):
        params = {"window": window, "decay": decay, "source_power": power}
        found = factory.fit(params, history_length=7)
        expected = DirectedItemKnn(**params, history_length=7).fit(train, num_items=12)
        assert found.similarity_.toarray().tolist() == expected.similarity_.toarray().tolist()
        assert found.history_length == 7
    with pytest.raises(ConfigError, match=r"window too large \(expected at most 4, found 5\)"):
        factory.fit({"window": 5})
