"""The best predictor there can be on a planted catalogue: the transition probabilities themselves.

The upper end of the table of a synthetic data set; must not know evaluation or configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from genrec.baselines.base import check_items
from genrec.data.sequences import Ragged
from genrec.data.synthetic import PlantedCatalogue
from genrec.errors import DataError


class PlantedOptimum:
    """Scores = P(next item | last item) of the catalogue, which no model can beat in expectation.

    Args:
        catalogue: what the histories were drawn from.
        item_ids: [N] id of each item_index of the data set; its items may be fewer than the catalogue's.

    Raises:
        DataError: an item id is not one of the catalogue's.
    """

    name = "optimum"

    def __init__(self, catalogue: PlantedCatalogue, item_ids: Sequence[str]) -> None:
        self.catalogue = catalogue
        self.planted_index = catalogue.index_of(item_ids)

    def fit(self, train: Ragged, *, num_items: int, timestamps: Ragged | None = None) -> Self:
        """Learns nothing; see `Baseline.fit`."""
        if num_items != len(self.planted_index):
            raise DataError("not the items of this data set", expected=len(self.planted_index), found=num_items)
        return self

    def scores(self, histories: Ragged) -> np.ndarray:
        """[B, N] float64; histories must not be empty. See `Baseline.scores`."""
        check_items(histories, len(self.planted_index))
        last = histories.values[histories.ends - 1]
        return self.catalogue.transition(self.planted_index[last])[:, self.planted_index]
