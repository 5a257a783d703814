"""A dense recommender as it is evaluated and shipped: query vectors of histories, searched in an index of item vectors.

Must not know how the model was trained.
"""
# B requests, T items of a history, D width, N items

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch, pad_rows
from genrec.decoding.scorer import Candidates
from genrec.errors import DataError
from genrec.evaluation.dense_index import DenseIndex, recall_of
from genrec.semantic_ids.constraints import mask_of_items


class TwoTowers(Protocol):
    """A model whose scores are inner products."""

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Query vectors; a row may be empty, whose query nobody will use."""
        ...

    def item_vectors(self) -> Float[Tensor, "N D"]:
        """Of all items, on the device of the model."""
        ...


class DenseGenerator(CatalogueSearch):
    """Recommends the items with the largest inner products, as the model is when this is made.

    Args:
        model: the dense recommender.
        item_ids: [N] id of each item_index.
        train_counts: [N] training interactions of each item, for users without a known history.
        max_history: last items of a history that the model reads.
        batch_size: requests searched at once.
        index: kind of the index, see `DenseIndex`.
        **index_options: of `DenseIndex`.

    Raises:
        DataError: the numbers of items differ.
    """

    def __init__(
        self,
        model: TwoTowers,
        *,
        item_ids: Sequence[str],
        train_counts: np.ndarray,
        max_history: int = 50,
        batch_size: int = 64,
        index: str = "flat",
        **index_options: int,
    ) -> None:
        super().__init__(item_ids, train_counts, batch_size=batch_size, device=torch.device("cpu"))
        self.model = model
        self.max_history = max_history
        with torch.inference_mode():
            vectors = model.item_vectors().float()
            self.index = DenseIndex(vectors.cpu(), index, **index_options)
        self._model_device = vectors.device
        if len(vectors) != self.num_items:
            found = f"{len(vectors)} item vectors, {self.num_items} item ids"
            raise DataError("the numbers of items differ", found=found)

    @property
    def max_candidates(self) -> int:
        """N."""
        return self.num_items

    @torch.inference_mode()
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
        lists = [] if deny is None else [deny]
        if exclude_seen:
            lists.append(pad_rows(histories, self.device)[0])
        denied = torch.cat(lists, dim=1) if lists else None
        found = self.index.search(self.queries(histories), k, deny=denied, allow=allow)
        is_empty = torch.from_numpy(histories.lengths == 0)
        if not bool(is_empty.any()):
            return found
        is_admissible = None if allow is None else allow.expand(len(histories), -1)
        if denied is not None:
            is_free = ~mask_of_items(denied, self.num_items)
            is_admissible = is_free if is_admissible is None else is_free & is_admissible
        return self.serve_empty(found, is_empty, is_admissible)

    @torch.inference_mode()
    def queries(self, histories: Ragged) -> Float[Tensor, "B D"]:
        """Query vectors, on the CPU."""
        items, lengths = pad_rows(histories.tail(self.max_history), self._model_device)
        return self.model.encode(items, lengths).float().cpu()

    @torch.inference_mode()
    def item_scores(self, histories: Ragged) -> Float[Tensor, "B N"]:
        """The scores of the whole catalogue."""
        return self.queries(histories) @ self.index.vectors.T

    def item_log_probs(self, histories: Ragged) -> Float[Tensor, "B N"]:
        """Log-softmax of the scores of the whole catalogue: what training by the full softmax makes probabilities."""
        return self.item_scores(histories).log_softmax(dim=1)

    def index_recall(self, histories: Ragged, k: int) -> float:
        """Mean share of the exact k best items that the index finds; 1 for a flat one."""
        exact = DenseIndex(self.index.vectors)
        return recall_of(self.index, exact, self.queries(histories), k)
