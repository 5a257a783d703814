"""Recommendations by value-guided search: a generative recommender with a value head, at test time.

Must not know networks.
"""
# B requests, T items of a history

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from genrec.data.hashing import fold_words
from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import pad_rows
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.scorer import Candidates, Scorer
from genrec.decoding.search_tree import SearchTrace
from genrec.decoding.tree_scorer import TreeScorer
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings, check_budget
from genrec.semantic_ids.trie import SemanticIdTrie


class ValueGuidedGenerator(CandidateGenerator):
    """Recommends by value-guided search.

    What a request gets is a function of its history, the settings and the seed, whatever batch it is in.

    Args:
        trees: the model with its value head.
        scorer: the model alone, which reads the histories.
        trie: the catalogue.
        settings: the budget and how it is spent.
        seed: of the noise of expansions.
        **generator: see `CandidateGenerator`; there are no beams.

    Raises:
        ConfigError: an initial beam search that may cost more than half the budget.
        DataError: the numbers of items differ.
    """

    def __init__(
        self,
        trees: TreeScorer,
        scorer: Scorer,
        trie: SemanticIdTrie,
        *,
        settings: ValueGuidedSettings,
        seed: int = 0,
        **generator: Any,
    ) -> None:
        super().__init__(scorer, trie, **generator)
        check_budget(trie, settings)
        self.trees, self.settings, self.seed = trees, settings, seed
        self.num_forwarded = self.num_searched = 0

    @property
    def max_candidates(self) -> int:
        """All items; a list is shorter where the budget does not find as many."""
        return self.num_items

    @property
    def nodes_per_request(self) -> float:
        """Prefixes that were forwarded for a request of those that were searched, the mean."""
        return self.num_forwarded / max(1, self.num_searched)

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
        return self.grow(histories, k, exclude_seen=exclude_seen, deny=deny, allow=allow)[0]

    @torch.inference_mode()
    def grow(
        self,
        histories: Ragged,
        k: int,
        *,
        exclude_seen: bool = False,
        deny: Int64[Tensor, "B D"] | None = None,
        allow: Tensor | None = None,
    ) -> tuple[Candidates, SearchTrace]:
        """`search`, with the trees."""
        requests = self.read(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        found, trace = value_guided_search(
            self.trees,
            self.trie,
            requests.context,
            self.settings,
            num_candidates=k,
            seed=self.seed,
            request_ids=name_histories(pad_rows(histories.tail(self.max_history), self.device)[0]),
            constraint=requests.constraint,
        )
        self.num_forwarded += int(trace.num_forwarded.sum())
        self.num_searched += len(histories)
        if bool(requests.is_empty.any()):
            found = self.serve_empty(found, requests.is_empty, self.admissible(requests))
        return found, trace


def name_histories(items: Int64[Tensor, "B T"]) -> Int64[Tensor, " B"]:
    """A number for each history, a function of its items in their order; the padding (-1) does not count.

    >>> names = name_histories(torch.tensor([[3, 5, -1], [5, 3, -1], [3, 5, 7]]))
    >>> bool(names[0] == name_histories(torch.tensor([[3, 5]]))[0]), len(names.unique())
    (True, 3)
    """
    words = items.new_zeros(len(items))
    for column in items.unbind(dim=1):
        words = name_longer(words, column)
    return words


def name_longer(names: Int64[Tensor, " B"], items: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """The numbers of histories with one more item each, -1 for none."""
    return torch.where(items >= 0, fold_words(names, items), names)
