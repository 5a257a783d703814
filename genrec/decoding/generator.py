"""From histories of the user's own item ids to recommended item ids: the object that is evaluated and shipped.

Puts a scorer, a trie and a beam search together; knows nothing of how the scorer was trained.
"""

# B requests, T items of a history, N items, k recommendations

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.beam_search import beam_search
from genrec.decoding.scorer import Candidates, Scorer
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie


@dataclass(frozen=True)
class Recommendations:
    """What a batch of users gets.

    Attributes:
        item_ids: [B] lists of at most k ids, best first.
        scores: [B] lists of the natural logarithm of each item's probability; training counts for users without a
            known history.
        num_unknown_items: entries of histories and lists that are not in the catalogue, and were skipped.
        num_popular: users without any known item in their history, who got the popularity list.
    """

    item_ids: list[list[str]]
    scores: list[list[float]]
    num_unknown_items: int
    num_popular: int


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


class CandidateGenerator:
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
        sizes = {"trie": trie.num_items, "item ids": len(item_ids), "training counts": len(train_counts)}
        if len(set(sizes.values())) != 1:
            raise DataError("the numbers of items differ", found=", ".join(f"{n} {name}" for name, n in sizes.items()))
        self.scorer = scorer
        self.trie = trie
        self.item_ids = list(item_ids)
        self.beam_width = beam_width
        self.max_history = max_history
        self.batch_size = batch_size
        self.train_counts = torch.as_tensor(np.asarray(train_counts, dtype=np.float64), device=trie.device)
        self._index = {item_id: index for index, item_id in enumerate(self.item_ids)}

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        *,
        exclude: Sequence[Sequence[str]] | None = None,
        exclude_seen: bool = False,
        allow: Sequence[str] | None = None,
    ) -> Recommendations:
        """The k most probable items for each history.

        Args:
            histories: [B] item ids, oldest first; unknown ids are skipped and counted.
            k: length of the lists, at most the beam width; lists are shorter where fewer items are admissible or found.
            exclude: [B] item ids that must not be recommended.
            exclude_seen: leave out the items of the history as well.
            allow: the only item ids that may be recommended; None: all.

        Raises:
            ConfigError: k out of range, or `exclude` of another length.
        """
        if exclude is not None and len(exclude) != len(histories):
            raise ConfigError("one list of excluded items a history", expected=len(histories), found=len(exclude))
        known = [[self._index[item] for item in row if item in self._index] for row in histories]
        denied = [[self._index[item] for item in row if item in self._index] for row in exclude or [[]] * len(known)]
        allowed = None
        if allow is not None:
            allowed = torch.zeros(self.trie.num_items, dtype=torch.bool, device=self.trie.device)
            allowed[[self._index[item] for item in allow if item in self._index]] = True
        given = sum(map(len, histories)) + sum(map(len, exclude or [])) + len(allow or [])
        found = sum(map(len, known)) + sum(map(len, denied)) + (sum(item in self._index for item in allow or []))
        lists: list[list[str]] = []
        scores: list[list[float]] = []
        for start in range(0, len(known), self.batch_size):
            rows = Ragged.from_lists(known[start : start + self.batch_size])
            deny = _pad(Ragged.from_lists(denied[start : start + self.batch_size]), self.trie.device)[0]
            candidates = self.search(rows, k, exclude_seen=exclude_seen, deny=deny, allow=allowed)
            for items, values in zip(candidates.item_index.tolist(), candidates.score.tolist(), strict=True):
                lists.append([self.item_ids[item] for item in items if item >= 0])
                scores.append([value for item, value in zip(items, values, strict=True) if item >= 0])
        return Recommendations(lists, scores, given - found, sum(not row for row in known))

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
        """The search itself, in item indices.

        Args:
            histories: B rows of item_index; an empty row gets the most popular items.
            k: number of candidates, at most the beam width.
            exclude_seen: leave out the items of the (whole) history.
            deny: [B, D] item_index that must not come, -1 as padding.
            allow: [N] the items that may come; None: all.
        """
        context, constraint, is_empty = self.read(histories, exclude_seen=exclude_seen, deny=deny, allow=allow)
        found = beam_search(
            self.scorer, self.trie, context, beam_width=self.beam_width, num_candidates=k, constraint=constraint
        )
        if not bool(is_empty.any()):
            return found
        popular = self._popular(len(is_empty), k, constraint)
        chosen = is_empty.unsqueeze(1)
        score = torch.where(chosen, popular.score.to(found.score.dtype), found.score)
        return Candidates(
            torch.where(chosen, popular.item_index, found.item_index),
            torch.where(chosen, -torch.inf, found.log_prob),
            score,
        )

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
        items, lengths = _pad(histories.tail(self.max_history), self.trie.device)
        lists = [] if deny is None else [deny]
        if exclude_seen:
            lists.append(_pad(histories, self.trie.device)[0])
        constraint = None
        if allow is not None or sum(part.shape[1] for part in lists):
            constraint = Constraint.build(self.trie, deny=lists, allow=allow)
        return Requests(self.scorer.encode(items, lengths), constraint, lengths == 0)

    def _popular(self, num_rows: int, k: int, constraint: Constraint | None) -> Candidates:
        """The admissible items with the most training interactions, by (count descending, item_index ascending)."""
        counts = self.train_counts.expand(num_rows, -1)
        if constraint is not None:
            items = torch.arange(self.trie.num_items, device=counts.device).expand(num_rows, -1)
            counts = counts.masked_fill(~constraint.is_admissible(items), -torch.inf)
        score, item = counts.sort(dim=1, descending=True, stable=True)
        item = torch.where(score[:, :k] > -torch.inf, item[:, :k], -1)
        return Candidates(item, torch.full_like(score[:, :k], -torch.inf), score[:, :k])


def _pad(rows: Ragged, device: torch.device) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
    """Rows as a matrix, padded on the right with -1, and their lengths."""
    row, value, age = rows.flat()
    lengths = rows.lengths
    padded = np.full((len(rows), int(lengths.max(initial=0))), -1, dtype=np.int64)
    padded[row, lengths[row] - 1 - age] = value
    return torch.from_numpy(padded).to(device), torch.from_numpy(lengths.astype(np.int64)).to(device)
