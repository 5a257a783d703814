"""A fitted baseline as a search: the dense side of a hybrid where nothing is trained.

Must not know which baseline it is.
"""
# B requests, N items

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.baselines.base import Ranker
from genrec.baselines.scores import BackoffScores
from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch, pad_rows
from genrec.decoding.scorer import Candidates
from genrec.decoding.selection import best_items
from genrec.errors import DataError
from genrec.semantic_ids.constraints import mask_of_items


class BaselineGenerator(CatalogueSearch):
    """Recommends the items with the highest scores of a baseline; what has none never comes.

    Args:
        model: fitted; its scores must be 0 or more, as those of item-kNN are.
        item_ids: [N] id of each item_index.
        train_counts: [N] training interactions of each item, for users without a known history.
        batch_size: requests scored at once.
        floor: share of the probability that all items have alike, see `log_shares`; in (0, 1].
    """

    def __init__(
        self,
        model: Ranker,
        *,
        item_ids: Sequence[str],
        train_counts: np.ndarray,
        batch_size: int = 64,
        floor: float = 0.1,
    ) -> None:
        super().__init__(item_ids, train_counts, batch_size=batch_size, device=torch.device("cpu"))
        self.model, self.floor = model, floor

    @property
    def max_candidates(self) -> int:
        """N."""
        return self.num_items

    def search(
        self,
        histories: Ragged,
        k: int,
        *,
        exclude_seen: bool = False,
        deny: Int64[Tensor, "B D"] | None = None,
        allow: Bool[Tensor, " N"] | None = None,
    ) -> Candidates:
        """See `CatalogueSearch.search`."""
        is_admissible = torch.ones(len(histories), self.num_items, dtype=torch.bool)
        if allow is not None:
            is_admissible &= allow
        for denied in (deny, pad_rows(histories, self.device)[0] if exclude_seen else None):
            if denied is not None:
                is_admissible &= ~mask_of_items(denied, self.num_items)
        items, scores = best_items(masked_scores(self._scores(histories), is_admissible), k)
        found = Candidates(items, torch.full_like(scores, -torch.inf), scores)
        return self.serve_empty(found, torch.from_numpy(histories.lengths == 0), is_admissible)

    def item_log_probs(self, histories: Ragged) -> Float[Tensor, "B N"]:
        """See `log_shares`."""
        return log_shares(self._scores(histories), self.floor)

    def _scores(self, histories: Ragged) -> Float[Tensor, "B N"]:
        scores = self.model.scores(histories)
        if isinstance(scores, BackoffScores):
            dense = scores.to_dense()
        else:
            dense = scores if isinstance(scores, np.ndarray) else scores.toarray()
        if (dense < 0).any():
            raise DataError("the scores of the baseline are negative, so they are no weights", expected="0 or more")
        return torch.from_numpy(np.asarray(dense, dtype=np.float64))


def masked_scores(scores: Float[Tensor, "B N"], is_admissible: Bool[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """-inf for what a request may not get, and for what has no score."""
    return scores.masked_fill(~is_admissible | (scores == 0), -torch.inf)


def log_shares(scores: Float[Tensor, "B N"], floor: float) -> Float[Tensor, "B N"]:
    """log of (1 - floor) scores / their sum + floor / N; uniform where there are no scores.

    >>> log_shares(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), 0.5).exp().tolist()
    [[0.625, 0.375], [0.5, 0.5]]
    """
    total = scores.sum(dim=1, keepdim=True)
    uniform = torch.ones_like(scores) / scores.shape[1]
    shares = torch.where(total > 0, scores / total.clamp(min=torch.finfo(scores.dtype).tiny), uniform)
    return ((1 - floor) * shares + floor * uniform).log()
