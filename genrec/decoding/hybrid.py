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
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.beam_search import beam_search
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.exhaustive import score_items
from genrec.decoding.fusion import MixedScorer, fuse_ranks, mix, prefix_values, unite
from genrec.decoding.generator import CandidateGenerator, Requests
from genrec.decoding.scorer import Candidates
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


class Pool(NamedTuple):
    """What both models say of the candidates of some requests; what a weight makes of it is another matter.

    Attributes:
        generated: item_index, best first, -1 as padding.
        retrieved: likewise; none (m = 0) where only generated items count.
        log_p: of both lists, one after the other; of a retrieved item that was generated too, -inf.
        log_q: likewise.
        is_admissible: what each request may get; None: everything.
        is_empty: no item of the history could be read.
    """

    generated: Int64[Tensor, "B k"]
    retrieved: Int64[Tensor, "B m"]
    log_p: Float[Tensor, "B C"]
    log_q: Float[Tensor, "B C"]
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
        pools: dict[Any, Pool] | None = None,
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
        pool = self._pool(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        found = self._rank(pool, k)
        return self.serve_empty(found, pool.is_empty, pool.is_admissible) if bool(pool.is_empty.any()) else found

    def _rank(self, pool: Pool, k: int) -> Candidates:
        weight = self.settings.weight
        if self.settings.method == "rank_fusion":
            constants = {"weight": weight, "constant": self.settings.constant}
            items, scores = fuse_ranks(pool.generated, pool.retrieved, k, **constants)
            return Candidates(items, torch.full_like(scores, -torch.inf), scores)
        items = torch.cat([pool.generated, pool.retrieved], dim=1)
        is_in = (items >= 0) & (pool.log_p > -torch.inf)
        if not weight:
            is_in[:, pool.generated.shape[1] :] = False
        scores = mix(pool.log_p, pool.log_q, weight).masked_fill(~is_in, -torch.inf)
        ranked, best = rank_items(items, scores, k)
        # An item that is in both lists counts in the first, so the best match is the place that was ranked.
        is_place = (ranked.unsqueeze(2) == items.unsqueeze(1)) & is_in.unsqueeze(1)
        log_prob = pool.log_p.unsqueeze(1).masked_fill(~is_place, -torch.inf).amax(dim=2)
        return Candidates(ranked, log_prob, best)

    def _pool(self, histories: Ragged, *, exclude_seen: bool, deny: Tensor | None, allow: Tensor | None) -> Pool:
        if self.pools is None or deny is not None or allow is not None:
            return self._find(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        settings = self.settings
        key = (histories.starts.tobytes(), histories.ends.tobytes(), exclude_seen, settings.method)
        if settings.method == "in_beam":
            key = (*key, settings.weight, settings.prefix_value)
        if key not in self.pools:
            self.pools[key] = self._find(histories, exclude_seen=exclude_seen, deny=None, allow=None)
        return self.pools[key]

    def _find(self, histories: Ragged, *, exclude_seen: bool, deny: Tensor | None, allow: Tensor | None) -> Pool:
        """Runs both searches, and scores what each found by both models."""
        requests = self.generative.read(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        is_admissible = self.generative.admissible(requests)
        log_q = self.dense.item_log_probs(histories).to(self.device)
        generated, log_p = self._generate(requests, log_q, is_admissible)
        retrieved = generated[:, :0]
        if self.settings.method in ("rank_fusion", "mixture"):
            width = self.max_candidates
            lists = self.dense.search(histories, width, exclude_seen=exclude_seen, deny=deny, allow=allow)
            generated, log_p = generated[:, :width], log_p[:, :width]
            retrieved = lists.item_index.to(self.device)
        if self.settings.method == "mixture":
            alone = unite(generated, retrieved)[:, generated.shape[1] :]
            log_p = torch.cat([log_p, self._score(requests, alone)], dim=1)
        else:
            log_p = torch.nn.functional.pad(log_p, (0, retrieved.shape[1]), value=-torch.inf)
        items = torch.cat([generated, retrieved], dim=1)
        return Pool(generated, retrieved, log_p, log_q.gather(1, items.clamp(min=0)), is_admissible, requests.is_empty)

    def _generate(
        self, requests: Requests, log_q: Tensor, is_admissible: Tensor | None
    ) -> tuple[Int64[Tensor, "B C"], Float[Tensor, "B C"]]:
        """The items of all beams, best first, and their log p; in_beam with what the dense model says of prefixes."""
        generator, settings = self.generative, self.settings
        scorer = generator.scorer
        if settings.method == "in_beam":
            if is_admissible is not None:
                log_q = log_q.masked_fill(~is_admissible, -torch.inf)
            values = prefix_values(generator.trie, log_q, settings.prefix_value)
            scorer = MixedScorer(scorer, generator.trie, values, settings.weight)
        found = beam_search(
            scorer,
            generator.trie,
            requests.context,
            beam_width=generator.beam_width,
            num_candidates=generator.beam_width * generator.trie.max_bucket,
            constraint=requests.constraint,
        )
        log_p = self._score(requests, found.item_index) if settings.method == "in_beam" else found.log_prob
        return found.item_index, log_p

    def _score(self, requests: Requests, items: Int64[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        return score_items(self.generative.scorer, self.generative.trie, requests.context, items)
