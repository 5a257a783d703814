"""What the lists of a model are like, whatever the targets: coverage, evenness, popularity, novelty, variety.

Lists are counted as they come, so that none is kept: N counts a cut-off and one number a case are all there is. Knows
NumPy and lists of item indices; must not know models or who made the lists. Lists are as they are shipped: equal scores
in the order of item_index.
"""

# B lists of a batch, C cases, K the largest of M cut-offs, N items, E numbers of an item vector

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from genrec.errors import DataError
from genrec.processes import Team


def coverage(counts: np.ndarray) -> float:
    """Share of the catalogue that is in at least one list.

    Args:
        counts: [N] lists that each item is in.

    >>> coverage(np.array([3, 0, 1, 0]))
    0.5
    """
    return float(np.count_nonzero(counts) / len(counts))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of the counts over the whole catalogue: 0 if all items come equally often, near 1 if one does.

    With the counts x in ascending order, sum_i (2 i - N - 1) x_i / (N sum x), i from 1 on; half the mean difference of
    two items relative to the mean. 0 if nothing was recommended.

    Args:
        counts: [N] lists that each item is in.

    >>> gini(np.array([2, 2])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    ordered = np.sort(counts).astype(np.float64)
    num_items, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    return float(((2.0 * np.arange(1, num_items + 1) - num_items - 1) * ordered).sum() / (num_items * total))


def self_information(train_counts: np.ndarray) -> np.ndarray:
    """[N] bits of news in each item: -log2 of its share p of the training interactions (surprisal, Zhou et al. 2010).

    They take the share of the users. Ours is of the interactions, with one more for every item, so that items without
    any have a finite value: p = (count + 1) / (sum of counts + N).

    >>> self_information(np.array([3, 1, 0])).round(2).tolist()
    [0.81, 1.81, 2.81]
    """
    counts = np.asarray(train_counts, dtype=np.float64) + 1.0
    return np.log2(counts.sum()) - np.log2(counts)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """[N, E] float32 at length 1; a vector of zeros stays one, and is at distance 1 from everything.

    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def intra_list_diversity(lists: np.ndarray, units: np.ndarray, cutoffs: Sequence[int]) -> np.ndarray:
    """Mean of 1 - cosine over all pairs of items among the first k of a list (Ziegler et al. 2005, up to a constant).

    The cosines of all pairs come from one sum: |sum v|^2 = sum |v|^2 + 2 sum of them.

    Args:
        lists: [B, K] item_index, best first, -1 as padding after the last item.
        units: [N, E] from `unit_vectors`.
        cutoffs: M values of k, ascending, the last at most K.

    Returns:
        [B, M] float64 in [0, 2]; NaN where there are fewer than two items.
    """
    found = np.full((len(lists), len(cutoffs)), np.nan)
    items, column = np.unique(lists, return_inverse=True)
    column = column.reshape(lists.shape)
    units = units[items]  # what is listed; padding brings a row that nothing refers to
    squares = np.einsum("ue,ue->u", units, units, dtype=np.float64)
    total = np.zeros((len(lists), units.shape[1]))
    own, size = np.zeros(len(lists)), np.zeros(len(lists))
    start = 0
    for at, k in enumerate(cutoffs):
        row, place = np.nonzero(lists[:, start:k] >= 0)
        member = sp.csr_matrix(
            (np.ones(len(row), np.float32), (row, column[row, start + place])), shape=(len(lists), len(items))
        )
        total += member @ units
        own += member @ squares
        size += np.bincount(row, minlength=len(lists))
        pairs = size * (size - 1)
        is_list = pairs > 0
        cosines = np.einsum("be,be->b", total, total) - own
        found[is_list, at] = 1.0 - cosines[is_list] / pairs[is_list]
        start = k
    return found


class ListTally:
    """Counts the lists of one model, mask by mask.

    Args:
        num_items: N.
        num_cases: C.
        cutoffs: k of the metrics, ascending; lists are as long as the last.
        masks: their names.
        units: [N, E] item vectors of length 1; None: no diversity.
    """

    def __init__(
        self,
        num_items: int,
        num_cases: int,
        *,
        cutoffs: Sequence[int],
        masks: Sequence[str],
        units: np.ndarray | None = None,
    ) -> None:
        self.cutoffs, self.units = tuple(cutoffs), units
        self.num_cases = num_cases
        # Of the places between one cut-off and the next. No list of all cases together holds an item more than C times.
        self.counts = {mask: np.zeros((len(self.cutoffs), num_items), dtype=np.int32) for mask in masks}
        # One value a case, so that sums do not depend on how many processes there are.
        columns = 0 if units is None else len(self.cutoffs)
        self.diversity = {mask: np.zeros((num_cases, columns)) for mask in masks}

    @property
    def length(self) -> int:
        """K: the length of the lists that `add` takes."""
        return self.cutoffs[-1]

    def add(self, mask: str, rows: np.ndarray, lists: np.ndarray, *, model: str = "model") -> None:
        """Counts the lists of some cases.

        Args:
            mask: what was left out.
            rows: [B] places of the cases among all.
            lists: [B, K] item_index, best first, -1 as padding after the last item.
            model: name for error messages.

        Raises:
            DataError: an item twice in one list.
        """
        ordered = np.sort(lists, axis=1)
        if np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)):
            raise DataError("an item is twice in one list", where=f"model {model!r}", expected="distinct items")
        num_items, start = self.counts[mask].shape[1], 0
        for at, k in enumerate(self.cutoffs):
            part = lists[:, start:k]
            self.counts[mask][at] += np.bincount(part[part >= 0], minlength=num_items).astype(np.int32)
            start = k
        if self.units is not None:
            self.diversity[mask][rows] = intra_list_diversity(lists, self.units, self.cutoffs)

    def gather(self, team: Team) -> None:
        """Adds up what the processes of a team have counted, each of them its own cases."""
        for sums in (self.counts, self.diversity):
            for mask, values in sums.items():
                sums[mask] = team.total(values)

    def rows(self, train_counts: np.ndarray) -> list[dict[str, Any]]:
        """The metrics, one row a mask and cut-off; plain JSON types.

        Args:
            train_counts: [N] training interactions of each item.

        Returns:
            Rows of mask, cutoff, mean_length (items of a list, at most k), coverage, gini, average_popularity (training
            interactions of a recommended item, the mean over all places of all lists), novelty (bits, likewise), and
            diversity: the mean over lists of at least two items, None without vectors or such lists.
        """
        information, found = self_information(train_counts), []
        for mask, parts in self.counts.items():
            for at, (k, counts) in enumerate(zip(self.cutoffs, np.cumsum(parts, axis=0, dtype=np.int64), strict=True)):
                total = max(1, int(counts.sum()))
                row = {
                    "mask": mask,
                    "cutoff": k,
                    "mean_length": float(counts.sum() / max(1, self.num_cases)),
                    "coverage": coverage(counts),
                    "gini": gini(counts),
                    "average_popularity": float(counts @ train_counts / total),
                    "novelty": float(counts @ information / total),
                    "diversity": self._mean_diversity(mask, at),
                }
                found.append(row)
        return found

    def _mean_diversity(self, mask: str, at: int) -> float | None:
        if self.units is None:
            return None
        values = self.diversity[mask][:, at]
        return None if np.isnan(values).all() else float(np.nanmean(values))
