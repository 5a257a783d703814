"""Generated and retrieved candidates in one list: a search like any other, made of a beam search and a dense one.

    rank_fusion   reciprocal ranks of both lists
    mixture       log p + weight log q of the items of both lists
    rescoring     log p + weight log q of the generated items
    in_beam       the same, and every prefix of the search scored by log p + weight (log q of all items below it)

p is the generative model, q the dense one. Must not know how either was trained.
"""
# B requests, k candidates, N items

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.beam_search import beam_search
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.exhaustive import score_items
from genrec.decoding.fusion import MixedScorer, fuse_ranks, mix, prefix_values, unite
from genrec.decoding.generator import CandidateGenerator, Requests
from genrec.decoding.scorer import Candidates, Scorer
from genrec.decoding.selection import rank_items
from genrec.errors import ConfigError, DataError

METHODS = ("rank_fusion", "mixture", "rescoring", "in_beam")


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


@dataclass(frozen=True)
class HybridSettings:
    """How the two are put together.

    Attributes:
        method: see the module.
        weight: of the dense side, at least 0; at 0 the list is the generated one.
        constant: of rank fusion, see `fuse_ranks`.
        prefix_value: of in_beam, see `prefix_values`.

    Raises:
        ConfigError: unknown method, or a weight below 0.
    """

    method: str = "mixture"
    weight: float = 1.0
    constant: float = 60.0
    prefix_value: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError("unknown method", expected=", ".join(METHODS), found=repr(self.method))
        if not self.weight >= 0:
            raise ConfigError("the weight of the dense side is negative", expected="0 or more", found=self.weight)


class Hybrid(CatalogueSearch):
    """Recommends what two models find together. Both lists are as long as the beam is wide.

    Args:
        generative: the beam search; its ids, batches, popularity list and reading of requests are used.
        dense: over the same items.
        settings: how they are put together.

    Raises:
        DataError: the items differ.
    """

    def __init__(self, generative: CandidateGenerator, dense: DenseSide, settings: HybridSettings) -> None:
        super().__init__(
            generative.item_ids,
            generative.train_counts.cpu().numpy(),
            batch_size=generative.batch_size,
            device=generative.device,
        )
        if dense.item_ids != self.item_ids:
            found = f"{len(self.item_ids)} and {len(dense.item_ids)}"
            raise DataError("the generative and the dense recommender have different items", found=found)
        self.generative, self.dense, self.settings = generative, dense, settings

    @property
    def max_candidates(self) -> int:
        """The beam width."""
        return self.generative.beam_width

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
        requests = self.generative.read(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        is_admissible = self.generative.admissible(requests.constraint)
        method, width = self.settings.method, self.max_candidates
        generated = self._generate(requests, self._scorer(histories, is_admissible))
        if method in ("rescoring", "in_beam") or self.settings.weight == 0:
            found = self._rank_mixture(requests, histories, generated, k)
        else:
            lists = self.dense.search(histories, width, exclude_seen=exclude_seen, deny=deny, allow=allow)
            both = generated[:, :width], lists.item_index.to(self.device)
            if method == "mixture":
                found = self._rank_mixture(requests, histories, unite(*both), k)
            else:
                found = self._fuse_ranks(*both, k)
        return self.serve_empty(found, requests.is_empty, is_admissible) if bool(requests.is_empty.any()) else found

    def _scorer(self, histories: Ragged, is_admissible: Tensor | None) -> Scorer:
        """The generative model, in_beam with what the dense one says of prefixes, of admissible items alone."""
        generator = self.generative
        if self.settings.method != "in_beam":
            return generator.scorer
        log_q = self._log_q(histories)
        if is_admissible is not None:
            log_q = log_q.masked_fill(~is_admissible, -torch.inf)
        values = prefix_values(generator.trie, log_q, self.settings.prefix_value)
        return MixedScorer(generator.scorer, generator.trie, values, self.settings.weight)

    def _generate(self, requests: Requests, scorer: Scorer) -> Int64[Tensor, "B C"]:
        """The items of all beams, best first."""
        generator = self.generative
        return beam_search(
            scorer,
            generator.trie,
            requests.context,
            beam_width=generator.beam_width,
            num_candidates=generator.beam_width * generator.trie.max_bucket,
            constraint=requests.constraint,
        ).item_index

    def _fuse_ranks(self, generated: Tensor, retrieved: Tensor, k: int) -> Candidates:
        constants = {"weight": self.settings.weight, "constant": self.settings.constant}
        items, scores = fuse_ranks(generated, retrieved, k, **constants)
        return Candidates(items, torch.full_like(scores, -torch.inf), scores)

    def _rank_mixture(self, requests: Requests, histories: Ragged, items: Tensor, k: int) -> Candidates:
        """The items by log p + weight log q, each scored by both models."""
        generator = self.generative
        log_p = score_items(generator.scorer, generator.trie, requests.context, items)
        log_q = self._log_q(histories).gather(1, items.clamp(min=0))
        scores = mix(log_p, log_q, self.settings.weight).masked_fill(items < 0, -torch.inf)
        items, order = items.sort(dim=1, stable=True)
        ranked, best = rank_items(items, scores.gather(1, order), k)
        place = torch.searchsorted(items, ranked).clamp(max=items.shape[1] - 1)
        log_prob = log_p.gather(1, order).gather(1, place).masked_fill(ranked < 0, -torch.inf)
        return Candidates(ranked, log_prob, best)

    def _log_q(self, histories: Ragged) -> Float[Tensor, "B N"]:
        return self.dense.item_log_probs(histories).to(self.device)
