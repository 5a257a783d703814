"""Tuning of item-kNN: the values that are tried, and a fit that re-uses co-occurrence counts.

Which trial comes next is `genrec.tuning`'s affair. Knows nothing of metrics, run folders or configuration.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn, decayed_cooccurrence
from genrec.baselines.transitions import lag_counts
from genrec.data.sequences import Ragged
from genrec.errors import ConfigError
from genrec.tuning import Params, Space

KNN_SPACE: Space = {
    "window": (3, 5, 8, 12),
    "decay": (0.5, 0.7, 0.85, 1.0),
    "backward": (0.0, 0.25, 0.5, 1.0),
    "source_power": (0.0, 0.25, 0.5, 0.75),
    "target_power": (0.0, 0.15, 0.3, 0.45),
    "history_decay": (0.35, 0.5, 0.65, 0.8),
}

_MAX_KEPT = 4  # co-occurrence matrices, each of the order of the training part times the window


class KnnFactory:
    """Fits item-kNN with many settings on the same data: pairs are counted once, the last few T are kept.

    Args:
        train: training histories, oldest first.
        num_items: N.
        max_window: largest window that will be asked for.

    Raises:
        DataError: no interactions, or an index outside the catalogue.
    """

    def __init__(self, train: Ragged, *, num_items: int, max_window: int) -> None:
        self.item_counts = count_items(train, num_items)
        self._lags = lag_counts(train, num_items, max_window)
        self._cooccurrence: dict[tuple[int, float], sp.csr_matrix] = {}

    def fit(self, params: Params, *, history_length: int = 20) -> DirectedItemKnn:
        """The same model as ``DirectedItemKnn(**params).fit(train)``.

        Raises:
            ConfigError: a value out of range, or a window above `max_window`.
        """
        model = DirectedItemKnn(**params, history_length=history_length)
        if model.window > len(self._lags):
            raise ConfigError("window too large", expected=f"at most {len(self._lags)}", found=model.window)
        key = (model.window, float(model.decay))
        if key not in self._cooccurrence:
            if len(self._cooccurrence) == _MAX_KEPT:
                del self._cooccurrence[next(iter(self._cooccurrence))]  # the one made first
            self._cooccurrence[key] = decayed_cooccurrence(self._lags[: model.window], model.decay)
        return model.fit_cooccurrence(self._cooccurrence[key], np.asarray(self.item_counts))
