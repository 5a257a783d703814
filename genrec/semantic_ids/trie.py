"""The trie of all semantic IDs, as flat arrays: a node is a contiguous range of the sorted catalogue.

Built with NumPy, held as torch tensors, so that it moves to a device and can be the input of an exported graph: every
look-up is a few tensor operations of fixed shape. Must not know scores, requests or models.
"""
# N items, L levels, n_d nodes of depth d, M_l most children of a node of depth l, S most items of a leaf

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32, Int64
from torch import Tensor

from genrec.semantic_ids.rows import check_codes, sort_rows

Offsets = Int64[Tensor, " _"]


class Children(NamedTuple):
    """The children of some nodes, in the order of their codes.

    Attributes:
        nodes: node of depth l + 1, -1 where there is none.
        codes: its code, -1 where there is none.
        is_valid: there is one.
    """

    nodes: Int64[Tensor, "*B M"]
    codes: Int64[Tensor, "*B M"]
    is_valid: Bool[Tensor, "*B M"]


@dataclass(frozen=True, eq=False)
class SemanticIdTrie:
    """Compressed sparse rows, a set a level. Level l leads from depth l to depth l + 1; the root is node 0 of depth 0.

    Nodes of a depth are numbered in the order of their prefixes, so the children of consecutive nodes are consecutive,
    and so are the items under them.

    Attributes:
        codebook_sizes: K_l of each level.
        child_offsets: L tensors [n_l + 1]; the children of node n of depth l are the nodes child_offsets[l][n] to
            child_offsets[l][n + 1] - 1 of depth l + 1.
        child_codes: L tensors [n_{l+1}], the last code of each node of depth l + 1.
        parents: L tensors [n_{l+1}], the parent (of depth l) of each node of depth l + 1.
        item_order: [N] item_index in trie order: sorted by codes, then by item_index.
        item_positions: [N] place of each item in `item_order`.
        item_leaves: [N] node of depth L of each item; the same tensor as `item_positions` where no codes are shared.
        item_offsets: L + 1 tensors [n_d + 1]; node n of depth d holds the items at positions item_offsets[d][n] to
            item_offsets[d][n + 1] - 1.
        max_branching: M_l of each level.
        max_bucket: S, most items that share their codes.
    """

    codebook_sizes: tuple[int, ...]
    child_offsets: tuple[Offsets, ...]
    child_codes: tuple[Int32[Tensor, " _"], ...]
    parents: tuple[Offsets, ...]
    item_order: Int64[Tensor, " N"]
    item_positions: Int64[Tensor, " N"]
    item_leaves: Int64[Tensor, " N"]
    item_offsets: tuple[Offsets, ...]
    max_branching: tuple[int, ...]
    max_bucket: int

    @classmethod
    def build(cls, codes: np.ndarray, codebook_sizes: Sequence[int]) -> SemanticIdTrie:
        """Sorts the rows once and reads every level off the places where neighbours differ.

        Args:
            codes: integers [N, L], row i for item_index i; equal rows share a leaf.
            codebook_sizes: K_l of each level.

        Raises:
            DataError: codes out of range or of the wrong shape.

        >>> trie = SemanticIdTrie.build(np.array([[1, 0], [0, 2], [1, 0], [0, 0]]), (2, 3))
        >>> [trie.num_nodes(depth) for depth in range(3)], trie.max_branching, trie.max_bucket
        ([1, 2, 3], (2, 2), 2)
        >>> trie.item_order.tolist(), trie.item_offsets[2].tolist()
        ([3, 1, 0, 2], [0, 1, 2, 4])
        """
        check_codes(codes, codebook_sizes)
        num_items, num_levels = codes.shape
        order, first_change = sort_rows(codes, codebook_sizes)
        bounds = _bounds(first_change < num_levels)
        change = first_change[bounds[1:-1] - 1]  # at which level a node differs from the one before it
        item_offsets, child_offsets, child_codes, parents = [bounds], [], [], []
        for level in reversed(range(num_levels)):
            below = item_offsets[0]
            offsets = _bounds(change < level)
            change = change[offsets[1:-1] - 1]
            child_offsets.insert(0, offsets)
            child_codes.insert(0, codes[order[below[:-1]], level].astype(np.int32, copy=False))
            parents.insert(0, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)))
            item_offsets.insert(0, below[offsets])
        positions = np.empty(num_items, dtype=np.int64)
        positions[order] = np.arange(num_items)
        leaves = positions
        if len(bounds) <= num_items:
            leaves = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[positions]
        item_positions = torch.from_numpy(positions)
        return cls(
            codebook_sizes=tuple(int(size) for size in codebook_sizes),
            child_offsets=_tensors(child_offsets),
            child_codes=_tensors(child_codes),
            parents=_tensors(parents),
            item_order=torch.from_numpy(order),
            item_positions=item_positions,
            item_leaves=item_positions if leaves is positions else torch.from_numpy(leaves),
            item_offsets=_tensors(item_offsets),
            max_branching=tuple(int(np.diff(offsets).max()) for offsets in child_offsets),
            max_bucket=int(np.diff(bounds).max()),
        )

    @property
    def num_items(self) -> int:
        return self.item_order.shape[0]

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def device(self) -> torch.device:
        return self.item_order.device

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors; a tensor that serves twice is counted once."""
        storages = {tensor.data_ptr(): tensor.nbytes for tensor in self._all_tensors()}
        return sum(storages.values())

    def num_nodes(self, depth: int) -> int:
        """Distinct prefixes of `depth` codes."""
        return self.item_offsets[depth].shape[0] - 1

    def to(self, device: torch.device | str) -> SemanticIdTrie:
        """The same trie on a device."""
        moved: dict[int, Tensor] = {id(tensor): tensor.to(device) for tensor in self._all_tensors()}

        def move(value: object) -> object:
            if isinstance(value, tuple):
                return tuple(move(part) for part in value)
            return moved[id(value)] if isinstance(value, Tensor) else value

        return type(self)(**{field.name: move(getattr(self, field.name)) for field in fields(self)})  # pyright: ignore[reportArgumentType]

    def child_ranges(self, level: int, nodes: Int64[Tensor, "*B"]) -> tuple[Int64[Tensor, "*B"], Int64[Tensor, "*B"]]:
        """First child and number of children of nodes of depth `level`; 0 and 0 for node -1."""
        is_node = nodes >= 0
        safe = nodes.clamp(min=0)
        first, end = self.child_offsets[level][safe], self.child_offsets[level][safe + 1]
        return first * is_node, (end - first) * is_node

    def children(self, level: int, nodes: Int64[Tensor, "*B"]) -> Children:
        """The children of nodes of depth `level`, padded to M_level; node -1 has none.

        >>> trie = SemanticIdTrie.build(np.array([[0, 2], [0, 0], [1, 1]]), (2, 3))
        >>> [part.tolist() for part in trie.children(1, torch.tensor([0, 1, -1]))]
        [[[0, 1], [2, -1], [-1, -1]], [[0, 2], [1, -1], [-1, -1]], [[True, True], [True, False], [False, False]]]
        """
        first, count = self.child_ranges(level, nodes)
        slots = torch.arange(self.max_branching[level], device=nodes.device)
        is_valid = slots < count.unsqueeze(-1)
        children = torch.where(is_valid, first.unsqueeze(-1) + slots, -1)
        codes = torch.where(is_valid, self.child_codes[level][children.clamp(min=0)].long(), -1)
        return Children(children, codes, is_valid)

    def nodes_of_items(self, items: Int[Tensor, "*B"], depth: int) -> Int64[Tensor, "*B"]:
        """The node of `depth` above each item; -1 for item -1."""
        nodes = self.item_leaves[items.clamp(min=0)]
        for level in reversed(range(depth, self.num_levels)):
            nodes = self.parents[level][nodes]
        return torch.where(items >= 0, nodes, -1)

    def path_nodes(self, items: Int[Tensor, "*B"]) -> Int64[Tensor, "*B L"]:
        """The nodes of depths 1 to L on the way to each item; -1 for item -1.

        >>> trie = SemanticIdTrie.build(np.array([[1, 0], [0, 2], [0, 0]]), (2, 3))
        >>> trie.path_nodes(torch.tensor([0, 1, -1])).tolist()
        [[1, 2], [0, 1], [-1, -1]]
        """
        path = [self.item_leaves[items.clamp(min=0)]]
        for level in reversed(range(1, self.num_levels)):
            path.insert(0, self.parents[level][path[0]])
        return torch.where((items >= 0).unsqueeze(-1), torch.stack(path, dim=-1), -1)

    def item_ranges(self, depth: int, nodes: Int64[Tensor, "*B"]) -> tuple[Int64[Tensor, "*B"], Int64[Tensor, "*B"]]:
        """First position in trie order, and one past the last, of the items under nodes of a depth; 0, 0 for -1."""
        is_node = nodes >= 0
        safe = nodes.clamp(min=0)
        return self.item_offsets[depth][safe] * is_node, self.item_offsets[depth][safe + 1] * is_node

    def leaf_items(self, leaves: Int64[Tensor, "*B"]) -> Int64[Tensor, "*B S"]:
        """item_index of the items of each leaf, ascending, padded to S with -1; none for leaf -1."""
        first, end = self.item_ranges(self.num_levels, leaves)
        positions = first.unsqueeze(-1) + torch.arange(self.max_bucket, device=leaves.device)
        items = self.item_order[positions.clamp(max=self.num_items - 1)]
        return torch.where(positions < end.unsqueeze(-1), items, -1)

    def prefix_codes(self, depth: int) -> Int32[Tensor, "n d"]:
        """The codes of every node of `depth`, in the order of the nodes."""
        nodes, columns = torch.arange(self.num_nodes(depth), device=self.device), []
        for level in reversed(range(depth)):
            columns.insert(0, self.child_codes[level][nodes])
            nodes = self.parents[level][nodes]
        shape = (self.num_nodes(depth), 0)
        return torch.stack(columns, dim=1) if columns else torch.empty(shape, dtype=torch.int32, device=self.device)

    def find_nodes(self, codes: Int[Tensor, "*B d"]) -> Int64[Tensor, "*B"]:
        """The node of each prefix of d codes, -1 where the catalogue has none (codes out of range included).

        >>> trie = SemanticIdTrie.build(np.array([[1, 0], [0, 2], [0, 0]]), (2, 3))
        >>> trie.find_nodes(torch.tensor([[1, 0], [1, 1], [0, 2]])).tolist()
        [2, -1, 1]
        """
        nodes = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
        for level in range(codes.shape[-1]):
            nodes = self._find_child(level, nodes, codes[..., level])
        return nodes

    def lookup(self, codes: Int[Tensor, "*B L"]) -> Int64[Tensor, "*B 2"]:
        """The range [first, end) of `item_order` that has these codes, or (-1, -1)."""
        leaves = self.find_nodes(codes)
        ranges = torch.stack(self.item_ranges(self.num_levels, leaves), dim=-1)
        return torch.where((leaves >= 0).unsqueeze(-1), ranges, -1)

    def _find_child(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Binary search among the children, which are sorted by code, with a fixed number of steps."""
        first, count = self.child_ranges(level, nodes)
        low, high = first, first + count
        known, last = self.child_codes[level], self.num_nodes(level + 1) - 1
        for _ in range(self.max_branching[level].bit_length()):
            middle = (low + high) // 2
            is_below = (middle < high) & (known[middle.clamp(max=last)] < codes)
            low, high = torch.where(is_below, middle + 1, low), torch.where(is_below, high, middle)
        is_found = (low < first + count) & (known[low.clamp(max=last)] == codes)
        return torch.where(is_found, low, -1)

    def _all_tensors(self) -> list[Tensor]:
        values = [getattr(self, field.name) for field in fields(self)]
        flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
        return [part for part in flat if isinstance(part, Tensor)]


def _bounds(is_start: np.ndarray) -> np.ndarray:
    """Offsets of the groups of len(is_start) + 1 things, where is_start[i] says that thing i + 1 begins a group."""
    return np.concatenate([[0], np.flatnonzero(is_start) + 1, [len(is_start) + 1]]).astype(np.int64, copy=False)


def _tensors(arrays: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)
