"""What is evaluated and shipped, whatever finds the candidates: histories of item ids in, recommended item ids out.

Translates ids, cuts batches and serves users without a known history; must not know models.
"""
# B requests, T items of a history, N items, k recommendations

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from genrec.data.sequences import Ragged
from genrec.decoding.scorer import Candidates
from genrec.errors import ConfigError, DataError


@dataclass(frozen=True)
class Recommendations:
    """What a batch of users gets.

    Attributes:
        item_ids: [B] lists of at most k ids, best first.
        scores: [B] lists of what they are sorted by: natural logarithms of probabilities of a generative recommender,
            inner products of a dense one; training counts for users without a known history.
        num_unknown_items: entries of histories and lists that are not in the catalogue, and were skipped.
        num_popular: users without any known item in their history, who got the popularity list.
    """

    item_ids: list[list[str]]
    scores: list[list[float]]
    num_unknown_items: int
    num_popular: int


class CatalogueSearch(ABC):
    """Recommends by a search, which a subclass has.

    Args:
        item_ids: [N] id of each item_index.
        train_counts: [N] training interactions of each item, for users without a known history.
        batch_size: requests searched at once.
        device: where the search takes its requests.

    Raises:
        DataError: the numbers of items differ.
    """

    def __init__(
        self, item_ids: Sequence[str], train_counts: np.ndarray, *, batch_size: int, device: torch.device
    ) -> None:
        if len(item_ids) != len(train_counts):
            found = f"{len(item_ids)} item ids, {len(train_counts)} training counts"
            raise DataError("the numbers of items differ", found=found)
        self.item_ids = list(item_ids)
        self.batch_size = batch_size
        self.device = device
        self.train_counts = torch.as_tensor(np.asarray(train_counts, dtype=np.float64), device=device)
        self._index = {item_id: index for index, item_id in enumerate(self.item_ids)}

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids)

    @property
    @abstractmethod
    def max_candidates(self) -> int:
        """The longest list that a search gives."""

    @property
    def uses_gaps(self) -> bool:
        """Whether the times of a history make a difference."""
        return False

    @abstractmethod
    def search(
        self,
        histories: Ragged,
        k: int,
        *,
        exclude_seen: bool = False,
        deny: Int64[Tensor, "B D"] | None = None,
        allow: Bool[Tensor, " N"] | None = None,
    ) -> Candidates:
        """The search itself, in item indices.

        Args:
            histories: B rows of item_index; an empty row gets the most popular items.
            k: number of candidates, at most `max_candidates`.
            exclude_seen: leave out the items of the (whole) history.
            deny: [B, D] item_index that must not come, -1 as padding.
            allow: [N] the items that may come; None: all.
        """

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        *,
        exclude: Sequence[Sequence[str]] | None = None,
        exclude_seen: bool = False,
        allow: Sequence[str] | None = None,
        times: Sequence[Sequence[int]] | None = None,
    ) -> Recommendations:
        """The k best items for each history.

        Args:
            histories: [B] item ids, oldest first; unknown ids are skipped and counted.
            k: length of the lists, at most `max_candidates`; lists are shorter where fewer items are admissible or
                found.
            exclude: [B] item ids that must not be recommended.
            exclude_seen: leave out the items of the history as well.
            allow: the only item ids that may be recommended; None: all.
            times: [B] seconds of the entries of the histories, for a model that reads them; None: not known.

        Raises:
            ConfigError: k out of range, `exclude` of another length, or `times` of other ones than the histories.
        """
        if times is not None and [len(row) for row in times] != [len(row) for row in histories]:
            raise ConfigError("one time an entry of a history", expected="times as long as the histories")
        if exclude is not None and len(exclude) != len(histories):
            raise ConfigError("one list of excluded items a history", expected=len(histories), found=len(exclude))
        known = [[self._index[item] for item in row if item in self._index] for row in histories]
        clock = [
            [time for item, time in zip(row, of, strict=True) if item in self._index]
            for row, of in zip(histories, times or (), strict=times is not None)
        ]
        denied = [[self._index[item] for item in row if item in self._index] for row in exclude or [[]] * len(known)]
        allowed = None
        if allow is not None:
            allowed = torch.zeros(self.num_items, dtype=torch.bool, device=self.device)
            allowed[[self._index[item] for item in allow if item in self._index]] = True
        given = sum(map(len, histories)) + sum(map(len, exclude or [])) + len(allow or [])
        found = sum(map(len, known)) + sum(map(len, denied)) + (sum(item in self._index for item in allow or []))
        lists: list[list[str]] = []
        scores: list[list[float]] = []
        for start in range(0, len(known), self.batch_size):
            rows = Ragged.from_lists(known[start : start + self.batch_size])
            if times is not None:
                some = Ragged.from_lists(clock[start : start + self.batch_size], dtype=np.int64)
                rows = replace(rows, times=some.values)
            deny = pad_rows(Ragged.from_lists(denied[start : start + self.batch_size]), self.device)[0]
            candidates = self.search(rows, k, exclude_seen=exclude_seen, deny=deny, allow=allowed)
            for items, values in zip(candidates.item_index.tolist(), candidates.score.tolist(), strict=True):
                lists.append([self.item_ids[item] for item in items if item >= 0])
                scores.append([value for item, value in zip(items, values, strict=True) if item >= 0])
        return Recommendations(lists, scores, given - found, sum(not row for row in known))

    def serve_empty(
        self, found: Candidates, is_empty: Bool[Tensor, " B"], is_admissible: Bool[Tensor, "B N"] | None
    ) -> Candidates:
        """What was found, but for empty histories the most popular admissible items, as many, equal counts by index.

        Args:
            found: of B requests.
            is_empty: whose history is.
            is_admissible: what each may get; None: everything.
        """
        k = found.item_index.shape[1]
        counts = self.train_counts.expand(len(is_empty), -1)
        if is_admissible is not None:
            counts = counts.masked_fill(~is_admissible, -torch.inf)
        score, item = (part[:, :k] for part in counts.sort(dim=1, descending=True, stable=True))
        item = torch.where(score > -torch.inf, item, -1)
        missing = (0, k - score.shape[1])
        item = torch.nn.functional.pad(item, missing, value=-1)
        score = torch.nn.functional.pad(score, missing, value=-torch.inf)
        chosen = is_empty.unsqueeze(1)
        return Candidates(
            torch.where(chosen, item, found.item_index),
            torch.where(chosen, -torch.inf, found.log_prob),
            torch.where(chosen, score.to(found.score.dtype), found.score),
        )


def pad_rows(rows: Ragged, device: torch.device) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
    """Rows as a matrix, padded on the right with -1, and their lengths."""
    row, value, age = rows.flat()
    lengths = rows.lengths
    padded = np.full((len(rows), int(lengths.max(initial=0))), -1, dtype=np.int64)
    padded[row, lengths[row] - 1 - age] = value
    return torch.from_numpy(padded).to(device), torch.from_numpy(lengths.astype(np.int64)).to(device)


def pad_gaps(rows: Ragged, device: torch.device, *, reader: Any) -> dict[str, Int64[Tensor, "B T"]]:
    """What a reader of gaps between events takes beside `pad_rows`, by name; nothing for others, or without times."""
    if rows.times is None or not getattr(reader, "uses_gaps", False):
        return {}
    return {"gaps": pad_rows(rows.gaps(), device)[0]}
