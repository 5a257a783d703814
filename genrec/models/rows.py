"""Rows of a batch: their last items, where their targets stand, and rectangles of what belongs to them.

Must not know codes or networks.
"""
# B batch, T items, P targets, R things in rows of a batch, Q most in a row

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def last_items(
    histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"], limit: int
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
    """The last `limit` items of each history, and how many there are.

    >>> items, lengths = last_items(torch.tensor([[1, 2, 3], [4, -1, -1]]), torch.tensor([3, 1]), 2)
    >>> items.tolist(), lengths.tolist()
    ([[2, 3], [4, -1]], [2, 1])
    """
    if histories.shape[1] <= limit:
        return histories, lengths
    start = (lengths - limit).clamp(min=0)
    return histories.gather(1, start.unsqueeze(1) + torch.arange(limit, device=histories.device)), lengths - start


def last_columns(
    histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"], limit: int
) -> tuple[Int64[Tensor, "B limit"], Int64[Tensor, " B"]]:
    """`last_items` in `limit` columns however long the rows are, as a graph for rows of any length needs it.

    >>> items, lengths = last_columns(torch.tensor([[1, 2, 3], [4, -1, -1]]), torch.tensor([3, 1]), 2)
    >>> items.tolist(), lengths.tolist()
    ([[2, 3], [4, -1]], [2, 1])
    """
    places = (lengths - limit).clamp(min=0).unsqueeze(1) + torch.arange(limit, device=histories.device)
    items = histories.gather(1, places.clamp(max=histories.shape[1] - 1))
    return torch.where(places < lengths.unsqueeze(1), items, -1), lengths.clamp(max=limit)


class Grid(NamedTuple):
    """Things that belong to rows of a batch, laid out as a rectangle whose rows may end in padding.

    Attributes:
        rows, slots: where each of them stands.
        shape: of the rectangle.
    """

    rows: Int64[Tensor, " R"]
    slots: Int64[Tensor, " R"]
    shape: tuple[int, int]

    def place(self, values: Tensor) -> Tensor:
        """[R, ...] -> [B, Q, ...], 0 in the padding."""
        empty = values.new_zeros(*self.shape, *values.shape[1:])
        return empty.index_put((self.rows, self.slots), values)

    def take(self, table: Tensor) -> Tensor:
        """[B, Q, ...] -> [R, ...]."""
        return table[self.rows, self.slots]


def lay_out(rows: Int64[Tensor, " R"], num_rows: int) -> Grid:
    """Where things go whose rows are given in ascending order.

    >>> grid = lay_out(torch.tensor([0, 2, 2]), 3)
    >>> grid.shape, grid.place(torch.tensor([5, 6, 7])).tolist()
    ((3, 2), [[5, 0], [0, 0], [6, 7]])
    """
    counts = torch.bincount(rows, minlength=num_rows)
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    return Grid(rows, slots, (num_rows, int(counts.max()) if num_rows else 0))


def target_rows(
    histories: Int64[Tensor, "B T"], is_target: Bool[Tensor, "B T"]
) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
    """The row of each target, and how many items it follows.

    >>> rows, counts = target_rows(torch.tensor([[5, 6], [-1, -1]]), torch.tensor([[False, True], [True, False]]))
    >>> rows.tolist(), counts.tolist()
    ([0, 1], [2, 0])
    """
    rows, column = is_target.nonzero(as_tuple=True)
    return rows, torch.where(histories[rows, 0] >= 0, column + 1, 0)
