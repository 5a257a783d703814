"""What followed the items of a history in training, kept as counts: a term of every logit beside the learnt ones.

A model of learnt vectors alone finds it hard to memorise rare transitions that a plain count of them knows. So the
logit of node v of level l gets

    gain_l log(m(v) + exp(log_floor_l)),   m(v) = sum of the scores of directed item-kNN (docs/methods.md section 6)
                                                  over the items below v,

gain and floor learnt. With gain 1, floor 0, temperature 1 and nothing else, the trie's probabilities are the normalised
item-kNN (of items that share no codes). Ours. Knows histories, the trie and the formula of item-kNN, by which a row's
own pairs are taken off; must not know networks, or where the counts come from.
"""
# B batch, T items, P queries, N items, K followers kept of each, L levels, S = T + 1

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.settings import MemorySettings
from genrec.semantic_ids.trie import SemanticIdTrie

LARGEST_CATALOGUE = 200_000
INITIAL_LOG_FLOOR = -4.0


class TransitionMemory(nn.Module):
    """Scores of item-kNN for histories, as masses of trie nodes; see the module for the equation.

    A row of *training* is not told its own future: the pairs that it has itself contributed to the counts are taken
    off before anything is summed (those of the window at hand; a pair across the cut of a long history stays), while
    the counts of items in the powers stay those of all rows. Which pairs these are, the whole row says: in training,
    unlike afterwards, what comes later changes the scores of earlier positions.

    Deviations from `DirectedItemKnn`: the strongest followers of an item alone count, chosen before a row's own pairs
    are taken off; and all items of the history that is read count, not its last 20.

    Args:
        num_items: N.
        num_levels: L.
        settings: size and constants.

    Raises:
        ConfigError: the catalogue is larger than 200,000: a score of every item is held for every position.
    """

    neighbours: Tensor
    weights: Tensor
    source_scale: Tensor
    target_scale: Tensor

    def __init__(self, num_items: int, num_levels: int, settings: MemorySettings) -> None:
        super().__init__()
        if num_items > LARGEST_CATALOGUE:
            raise ConfigError(
                "the catalogue is too large for a transition memory",
                expected=f"at most {LARGEST_CATALOGUE:,} items",
                found=f"{num_items:,}",
                fix="model.memory.followers=0",
            )
        self.settings = settings
        size = min(settings.followers, num_items)
        self.register_buffer("neighbours", torch.full((num_items, size), -1, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(num_items, size))
        self.register_buffer("source_scale", torch.zeros(num_items))
        self.register_buffer("target_scale", torch.zeros(num_items))
        self.gain = nn.Parameter(torch.ones(num_levels))
        self.log_floor = nn.Parameter(torch.full((num_levels,), INITIAL_LOG_FLOOR))

    def remember(
        self, neighbours: Int[Tensor, "N K"], weights: Float[Tensor, "N K"], counts: Int64[Tensor, " N"]
    ) -> None:
        """Fills the memory; to be called before training and again when the data change.

        Args:
            neighbours: item_index of the strongest followers of each item, -1 as padding.
            weights: their similarity C[i, j] (`DirectedItemKnn.similarity_`).
            counts: training interactions of each item.
        """
        seen = counts.clamp(min=1).double()
        self.neighbours.copy_(neighbours)
        self.weights.copy_(weights)
        self.source_scale.copy_(seen**-self.settings.source_power)
        self.target_scale.copy_(seen**-self.settings.target_power)

    def take_over(self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"]) -> None:
        """Remembers what the same memory remembered over other items.

        Followers are items, so they move as the rows do. New items have none and follow nothing; they have been seen as
        little as an item that training does not show.

        Args:
            state: `state_dict` of the other memory, of equal settings.
            places: item_index here of each item there, -1 where it is gone.
        """
        size = self.neighbours.shape[1]
        there = state["neighbours"].long()
        followers = torch.where(there >= 0, places[there.clamp(min=0)], -1)
        weights = torch.where(followers >= 0, state["weights"], 0.0)
        kept = min(size, there.shape[1])  # a catalogue smaller than the number of followers has fewer columns
        order = (followers < 0).long().argsort(dim=1, stable=True)[:, :kept]
        num_items, is_kept = len(self.neighbours), places >= 0
        self.neighbours.fill_(-1)[places[is_kept], :kept] = followers.gather(1, order)[is_kept].to(torch.int32)
        self.weights.zero_()[places[is_kept], :kept] = weights.gather(1, order)[is_kept]
        for name in ("source_scale", "target_scale"):
            moved = torch.ones(num_items).index_copy(0, places[is_kept], state[name][is_kept])
            self.get_buffer(name).copy_(moved)

    @torch.no_grad()
    def scores(self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"] | None) -> Float[Tensor, "B T N"]:
        """Scores of all items after each position, by item_index.

        Args:
            histories: item_index, oldest first, padded with -1 at the end.
            targets: what follows each position, for rows of training, whose own pairs do not count; None: they do.
        """
        with torch.autocast(histories.device.type, enabled=False):
            added = self._followers_of(histories)
            if targets is not None:
                added = self._without_own(added, histories, targets)
            return self._ages(histories.shape[1], added) @ added

    @torch.no_grad()
    def last_scores(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Float[Tensor, "B N"]:
        """Scores of all items after the last item of each history; no entry of [B, T, N] is made."""
        ages = (lengths.unsqueeze(1) - 1 - torch.arange(histories.shape[1], device=histories.device)).clamp(min=0)
        is_item = (histories >= 0).unsqueeze(-1)
        items = histories.clamp(min=0)
        neighbours, weights = self.neighbours[items].long(), self.weights[items]
        weights = weights * (is_item & (neighbours >= 0)) * (self.settings.history_decay**ages).unsqueeze(-1)
        scores = self.weights.new_zeros(histories.shape[0], self.neighbours.shape[0])
        return scores.scatter_add_(1, neighbours.clamp(min=0).flatten(1), weights.flatten(1))

    def terms(self, level: int, masses: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """What nodes of depth `level` + 1 get for their masses."""
        return self.gain[level] * (masses + self.log_floor[level].exp()).log()

    def _followers_of(self, histories: Int64[Tensor, "B T"]) -> Float[Tensor, "B T N"]:
        items = histories.clamp(min=0)
        neighbours = self.neighbours[items].long()
        weights = self.weights[items] * ((histories >= 0).unsqueeze(-1) & (neighbours >= 0))
        added = self.weights.new_zeros(*histories.shape, len(self.neighbours))
        return added.scatter_add_(2, neighbours.clamp(min=0), weights)

    def _without_own(
        self, added: Float[Tensor, "B T N"], histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]
    ) -> Float[Tensor, "B T N"]:
        # The row as training saw it: its inputs, and the target of its last position.
        row = torch.cat([histories[:, :1], torch.where(histories >= 0, targets, -1)], dim=1)
        row[:, 1:-1] = torch.where(histories[:, 1:] >= 0, histories[:, 1:], row[:, 1:-1])
        is_item = row >= 0
        safe = row.clamp(min=0)
        places = torch.arange(row.shape[1], device=row.device)
        distance = places - places.unsqueeze(1)
        pairs = self._decayed(distance) + self.settings.backward * self._decayed(-distance)  # [S, S]
        is_same = (row.unsqueeze(2) == row.unsqueeze(1)) & is_item.unsqueeze(2)  # [B, S, S]
        own = is_same[:, :-1].to(added.dtype) @ pairs.to(added.dtype)  # [B, T, S]: from an item, to a place
        own = own * self.source_scale[safe[:, :-1]].unsqueeze(2) * self.target_scale[safe].unsqueeze(1)
        own = own * (is_item[:, :-1].unsqueeze(2) & is_item.unsqueeze(1))
        return added.scatter_add_(2, safe.unsqueeze(1).expand_as(own), -own).clamp_(min=0)

    def _decayed(self, distance: Int64[Tensor, "S S"]) -> Float[Tensor, "S S"]:
        is_near = (distance > 0) & (distance <= self.settings.window)
        return torch.where(is_near, self.settings.decay ** (distance - 1).clamp(min=0).double(), 0.0)

    def _ages(self, length: int, like: Tensor) -> Float[Tensor, "T T"]:
        places = torch.arange(length, device=like.device)
        age = places.unsqueeze(1) - places
        decayed = self.settings.history_decay ** age.clamp(min=0).double()
        return torch.where(age >= 0, decayed, 0.0).to(like.dtype)


def sum_in_trie_order(trie: SemanticIdTrie, scores: Float[Tensor, "P N"]) -> Float[Tensor, "P M"]:
    """Running sums [P, N + 1] of scores in trie order, in which the items below a node are a contiguous range.

    float64: the mass of a node is a small difference of large sums, and its logarithm must not be rounding.
    """
    return torch.nn.functional.pad(scores[:, trie.item_order].cumsum(dim=1, dtype=torch.float64), (1, 0))


def masses_of_depth(trie: SemanticIdTrie, depth: int, sums: Float[Tensor, "P M"]) -> Float[Tensor, "P n"]:
    """Mass of every node of a depth."""
    return sums[:, trie.item_offsets[depth]].diff(dim=1).clamp(min=0).float()


def masses_of_nodes(
    trie: SemanticIdTrie, depth: int, sums: Float[Tensor, "P M"], rows: Int64[Tensor, "*P"], nodes: Int64[Tensor, "*P"]
) -> Float[Tensor, "*P"]:
    """Mass of some nodes of a depth, each for its own row of the sums; 0 for node -1."""
    first, end = trie.item_ranges(depth, nodes)
    return (sums[rows, end] - sums[rows, first]).clamp(min=0).float()


def strongest(similarity: sp.csr_matrix, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the largest entries of each row, and these; ties: the lower column first.

    Args:
        similarity: [N, N], no negative entry.
        size: K.

    Returns:
        Columns [N, K] int32 with -1 as padding, and entries [N, K] float32 with 0.

    >>> rows, entries = strongest(sp.csr_matrix([[0, 2, 1], [0, 0, 0], [3, 3, 0]]), 2)
    >>> rows.tolist(), entries.tolist()
    ([[1, 2], [-1, -1], [0, 1]], [[2.0, 1.0], [0.0, 0.0], [3.0, 3.0]])
    """
    row, column, value = sp.find(similarity)
    order = np.lexsort((column, -np.asarray(value, dtype=np.float64), row))
    row, column, value = row[order], column[order], value[order]
    num_items = len(similarity.indptr) - 1
    counts = np.bincount(row, minlength=num_items)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_kept = place < size
    columns = np.full((num_items, size), -1, dtype=np.int32)
    values = np.zeros((num_items, size), dtype=np.float32)
    columns[row[is_kept], place[is_kept]] = column[is_kept]
    values[row[is_kept], place[is_kept]] = value[is_kept]
    return columns, values
