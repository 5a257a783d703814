"""Generated and retrieved candidates in one list: a search like any other, made of a beam search and a dense one.

    rank_fusion   reciprocal ranks of both lists
    mixture       log p + weight log q of the items of both lists
    rescoring     log p + weight log q of the generated items
    in_beam       the same, and every prefix of the search scored by log p + weight (log q of all items below it)

p is the generative model, q the dense one. Must not know how either was trained.
"""
# B requests, k candidates, N items

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.exhaustive import check_scores
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.pool import DenseOpinion, HybridSettings, Pool, find_pool, rank_pool
from genrec.decoding.scorer import Candidates
from genrec.errors import ConfigError, DataError


class DenseSide(Protocol):
    """What the hybrid asks of a dense model: a `CatalogueSearch` that can score all items."""

    item_ids: list[str]

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
        ...

    def item_log_probs(self, histories: Ragged) -> Float[Tensor, "B N"]:
        """log q of every item; finite, a row sums to one."""
        ...


class Found(NamedTuple):
    """The pool of some requests, and what else their lists depend on.

    Attributes:
        pool: of all of them.
        is_admissible: what each request may get; None: everything.
        is_empty: no item of the history could be read.
    """

    pool: Pool
    is_admissible: Bool[Tensor, "B N"] | None
    is_empty: Bool[Tensor, " B"]


class Hybrid(CatalogueSearch):
    """Recommends what two models find together. Both lists are as long as the beam is wide.

    Args:
        generative: the beam search; its ids, batches, popularity list and reading of requests are used.
        dense: over the same items.
        settings: how they are put together.
        pools: where the pools of requests without lists of items are kept, for others of the same method that differ in
            weight or constant; None: nowhere.

    Raises:
        DataError: the items differ.
    """

    def __init__(
        self,
        generative: CandidateGenerator,
        dense: DenseSide,
        settings: HybridSettings,
        *,
        pools: dict[Any, Found] | None = None,
    ) -> None:
        super().__init__(
            generative.item_ids,
            generative.train_counts.cpu().numpy(),
            batch_size=generative.batch_size,
            device=generative.device,
        )
        if dense.item_ids != self.item_ids:
            found = f"{len(self.item_ids)} and {len(dense.item_ids)}"
            raise DataError("the generative and the dense recommender have different items", found=found)
        self.generative, self.dense, self.settings, self.pools = generative, dense, settings, pools

    @property
    def max_candidates(self) -> int:
        """The beam width."""
        return self.generative.beam_width

    @property
    def uses_gaps(self) -> bool:
        """Whether the generative recommender does."""
        return self.generative.uses_gaps

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
        """See `CatalogueSearch.search`. `log_prob` is that of the generative model; -inf in a fusion of ranks."""
        if not 1 <= k <= self.max_candidates:
            raise ConfigError(
                "wrong number of candidates",
                expected=f"1 to {self.max_candidates}, the beam width",
                found=k,
                fix="widen the beam, or ask for fewer",
            )
        pool, is_admissible, is_empty = self._pool(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        found = rank_pool(pool, self.settings, k)
        return self.serve_empty(found, is_empty, is_admissible) if bool(is_empty.any()) else found

    @torch.inference_mode()
    def is_firm(
        self,
        histories: Ragged,
        margin: float,
        *,
        deny: Int64[Tensor, "B D"] | None = None,
        allow: Bool[Tensor, " N"] | None = None,
    ) -> Bool[Tensor, " B"]:
        """Whether scores that are `margin` / 2 off would leave the ranks as they are, where ranks are what is fused.

        Equal scores are as firm as different ones. What a prefix of a beam is worth at the cut of a level is not looked
        at.

        Args:
            histories: B rows of item_index.
            margin: least difference of scores that are neighbours in a list and not equal.
            deny: see `search`.
            allow: see `search`.
        """
        is_empty = torch.from_numpy(histories.lengths == 0)  # who gets the popular items
        if self.settings.method != "rank_fusion":
            return torch.ones_like(is_empty)
        pool = self._find(histories, exclude_seen=False, deny=deny, allow=allow).pool
        lists = self.dense.search(histories, self.max_candidates + 1, deny=deny, allow=allow)
        generated = _gaps_exceed(pool.log_p[:, : self.max_candidates], margin)
        return is_empty | (generated.cpu() & _gaps_exceed(lists.score, margin).cpu())

    def _pool(self, histories: Ragged, *, exclude_seen: bool, deny: Tensor | None, allow: Tensor | None) -> Found:
        if self.pools is None or deny is not None or allow is not None:
            return self._find(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        settings = self.settings
        key = (histories.starts.tobytes(), histories.ends.tobytes(), exclude_seen, settings.method)
        if settings.method == "in_beam":
            key = (*key, settings.weight, settings.prefix_value)
        if key not in self.pools:
            self.pools[key] = self._find(histories, exclude_seen=exclude_seen, deny=None, allow=None)
        return self.pools[key]

    def _find(self, histories: Ragged, *, exclude_seen: bool, deny: Tensor | None, allow: Tensor | None) -> Found:
        """Runs both searches, and scores what each found by both models."""
        generator = self.generative
        requests = generator.read(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        log_q, retrieved = self.dense.item_log_probs(histories).to(self.device), None
        if self.settings.unites_lists:
            width = self.max_candidates
            lists = self.dense.search(histories, width, exclude_seen=exclude_seen, deny=deny, allow=allow)
            retrieved = lists.item_index.to(self.device)
        pool, is_bad = find_pool(
            generator.scorer,
            generator.trie,
            requests.context,
            DenseOpinion(log_q, retrieved),
            self.settings,
            beam_width=generator.beam_width,
            constraint=requests.constraint,
        )
        check_scores(is_bad)
        return Found(pool, generator.admissible(requests), requests.is_empty)


def _gaps_exceed(scores: Float[Tensor, "B k"], margin: float) -> Bool[Tensor, " B"]:
    """Whether neighbours in a list are equal or further apart than that; what is padding does not count."""
    first, second = scores[:, :-1], scores[:, 1:]
    is_fine = (first == second) | (second == -torch.inf) | (first - second > margin)
    return is_fine.all(dim=1)
