"""Recommendations by constrained beam search: the generative recommender as it is evaluated and shipped.

Puts a scorer, a trie and a beam search together; knows nothing of how the scorer was trained.
"""

# B requests, N items

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.beam_search import beam_search
from genrec.decoding.catalogue_search import CatalogueSearch, pad_gaps, pad_rows
from genrec.decoding.scorer import Candidates, Scorer
from genrec.decoding.value_guided_settings import initial_cost
from genrec.errors import DataError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie


class Requests(NamedTuple):
    """A batch of histories as a search takes them.

    Attributes:
        context: of B requests, from `scorer.encode`.
        constraint: what each request may get; None: everything.
        is_empty: no item of the history could be read.
    """

    context: Any
    constraint: Constraint | None
    is_empty: Bool[Tensor, " B"]


class CandidateGenerator(CatalogueSearch):
    """Recommends by constrained beam search.

    Args:
        scorer: the model; reads item indices.
        trie: the catalogue it was trained on, or a later version of it.
        item_ids: [N] id of each item_index.
        train_counts: [N] training interactions of each item, for users without a known history.
        beam_width: W of the search.
        max_history: last items of a history that the scorer reads.
        batch_size: requests searched at once.

    Raises:
        DataError: the numbers of items differ.
    """

    def __init__(
        self,
        scorer: Scorer,
        trie: SemanticIdTrie,
        *,
        item_ids: Sequence[str],
        train_counts: np.ndarray,
        beam_width: int = 50,
        max_history: int = 50,
        batch_size: int = 64,
    ) -> None:
        super().__init__(item_ids, train_counts, batch_size=batch_size, device=trie.device)
        if trie.num_items != self.num_items:
            found = f"{trie.num_items} in the trie, {self.num_items} item ids"
            raise DataError("the numbers of items differ", found=found)
        self.scorer = scorer
        self.trie = trie
        self.beam_width = beam_width
        self.max_history = max_history

    @property
    def max_candidates(self) -> int:
        """The beam width."""
        return self.beam_width

    @property
    def nodes_per_request(self) -> float:
        """Prefixes that the model reads for a request, at most; the root belongs to reading the history."""
        return initial_cost(self.trie, self.beam_width)

    def of_width(self, beam_width: int) -> CandidateGenerator:
        """The same beam search with another number of beams."""
        return CandidateGenerator(
            self.scorer,
            self.trie,
            item_ids=self.item_ids,
            train_counts=self.train_counts.cpu().numpy(),
            beam_width=beam_width,
            max_history=self.max_history,
            batch_size=self.batch_size,
        )

    @property
    def uses_gaps(self) -> bool:
        """Whether the scorer reads the time between events."""
        return getattr(self.scorer, "uses_gaps", False)

    @torch.inference_mode()
    def search(
        self,
        histories: Ragged,
        k: int,
        *,
        exclude_seen: bool = False,
        deny: Int64[Tensor, "B D"] | None = None,
        allow: Tensor | None = None,
    ) -> Candidates:
        """See `CatalogueSearch.search`."""
        requests = self.read(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        found = beam_search(
            self.scorer,
            self.trie,
            requests.context,
            beam_width=self.beam_width,
            num_candidates=k,
            constraint=requests.constraint,
        )
        if not bool(requests.is_empty.any()):
            return found
        return self.serve_empty(found, requests.is_empty, self.admissible(requests))

    @torch.inference_mode()
    def read(
        self,
        histories: Ragged,
        *,
        exclude_seen: bool = False,
        deny: Int64[Tensor, "B D"] | None = None,
        allow: Tensor | None = None,
    ) -> Requests:
        """What `search` searches with; arguments as there."""
        shown = histories.tail(self.max_history)
        items, lengths = pad_rows(shown, self.device)
        lists = [] if deny is None else [deny]
        if exclude_seen:
            lists.append(pad_rows(histories, self.device)[0])
        constraint = None
        if allow is not None or sum(part.shape[1] for part in lists):
            constraint = Constraint.build(self.trie, deny=lists, allow=allow)
        context = self.scorer.encode(items, lengths, **pad_gaps(shown, self.device, reader=self.scorer))
        return Requests(context, constraint, lengths == 0)

    def admissible(self, requests: Requests) -> Bool[Tensor, "B N"] | None:
        """The items that each request may get; None: all."""
        if requests.constraint is None:
            return None
        items = torch.arange(self.num_items, device=self.device)
        return requests.constraint.is_admissible(items.expand(len(requests.is_empty), -1))
