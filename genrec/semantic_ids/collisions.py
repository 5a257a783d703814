"""The collision policy `reassign`: who leaves a bucket of equal codes, for which free code, and at what cost.

Pure calculation on codes and a function of squared errors; must not know quantisers, vectors, tables or files.
"""
# N items, L levels, M items that move, m items and k last codes of one request

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64

from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.rows import check_codes, sort_rows

# (item_index [m], last codes [m, k]) -> float64 [m, k]: |vector - decode(first L - 1 codes of the item, last code)|^2
Errors = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Reassignment:
    """Codes after the moves, and the moves.

    Attributes:
        codes: all codes; only the last one of an item that moves differs from the quantiser's. Rows are unique if
            there was no limit.
        items: item_index of those that moved, ascending.
        old_codes: their last codes before.
        added: what each move adds to the item's squared error.
        mean_error: the mean squared error that costs are compared with.
        max_added_distortion: the limit of `added` / `mean_error`; None: there was none.
    """

    codes: Int32[np.ndarray, "N L"]
    items: Int64[np.ndarray, " M"]
    old_codes: Int32[np.ndarray, " M"]
    added: Float64[np.ndarray, " M"]
    mean_error: float
    max_added_distortion: float | None

    def facts(self, num_shown: int = 1000) -> dict[str, Any]:
        """The moves as plain JSON types: their number, and the costliest of them, the first item first among equals."""
        shown = np.lexsort([self.items, -self.added])[:num_shown]
        new = self.codes[self.items]
        old = np.concatenate([new[:, :-1], self.old_codes[:, None]], axis=1)
        moves = zip(self.items[shown], old[shown], new[shown], self.added[shown], strict=True)
        return {
            "total": len(self.items),
            "mean_squared_error": self.mean_error,
            "max_added_distortion": self.max_added_distortion,
            "costliest": [
                {"item_index": int(item), "old_codes": was.tolist(), "new_codes": now.tolist(), "cost": float(cost)}
                for item, was, now, cost in moves
            ],
        }


def reassign(
    codes: np.ndarray,
    codebook_sizes: Sequence[int],
    errors: Errors,
    *,
    mean_error: float,
    max_added_distortion: float | None = None,
) -> Reassignment:
    """Moves the items of a bucket, all but one, to free last-level codes of their parent (docs/methods.md section 1).

    In each bucket of equal codes the item with the smallest squared error stays, the first of those that are equally
    close. The others of all buckets under one parent prefix compete for the last codes that no item of it has: one
    assignment a parent, of least total cost, where the cost of a move is the increase of the item's squared error. An
    item that was alone never moves, and a code that somebody has stays taken.

    With a limit (`reassign_or_suffix`) a move that adds more than max_added_distortion * mean_error is not made. As
    many items as can move within the limit do, at least total cost; the others stay where they are. The limit is a
    share of the mean error of the catalogue, not of the item's own: an item that lies on its code has an error of 0, of
    which every increase is an infinite share, and one far from its code could go anywhere. So the mean error rises by
    at most max_added_distortion times the share of items that move.

    The same input gives the same moves. Of items with equal vectors the first stays; which of the others gets which of
    their codes is not decided by the vectors, and so depends on the order of the items. Which codes they get together
    does not, as long as only one set of codes has the least total cost; the number of moves never does.

    Args:
        codes: integers [N, L] of a quantiser, row i for item_index i.
        codebook_sizes: K_l of each level.
        errors: squared errors of items at last codes under their own prefix; asked for items that collide, once, and
            for those that move at the free codes of their parent, a parent at a time.
        mean_error: of the catalogue, or of the set the quantiser was fitted on; at least 0.
        max_added_distortion: the limit, as a share of mean_error; None: all but one of each bucket move.

    Returns:
        The codes after the moves; without a limit exactly sum of (bucket size - 1) items have moved.

    Raises:
        DataError: codes out of range or of the wrong shape; or, without a limit, more items under a parent than it has
            codes (with the first item that finds none).
        ConfigError: a limit or a mean error that is negative or not finite.

    >>> points = np.array([0.0, 0.1, 2.1, 0.3])  # codes of the one level stand at 0, 1, 2 and 3
    >>> moved = reassign(np.array([[0], [0], [2], [0]]), (4,), lambda i, k: (points[i, None] - k) ** 2, mean_error=1)
    >>> moved.codes.ravel().tolist(), moved.items.tolist(), moved.added.round(6).tolist()
    ([0, 1, 2, 3], [1, 3], [0.8, 7.2])
    """
    for name, value in (("mean_error", mean_error), ("max_added_distortion", max_added_distortion)):
        if value is not None and not 0 <= value < np.inf:
            raise ConfigError(f"reassigned codes: wrong {name}", expected="a number of at least 0", found=value)
    check_codes(codes, codebook_sizes)
    codes = np.array(codes, dtype=np.int32, order="C")
    limit = None if max_added_distortion is None else max_added_distortion * mean_error
    order, first_change = sort_rows(codes, codebook_sizes)
    movers, own = _movers(codes, order, first_change, errors)
    groups = _groups(order, first_change, movers, codes.shape[1])
    if limit is None:
        _check_room(codes, groups, movers, codebook_sizes[-1])
    last = codes[:, -1].copy()  # what is free under a parent is decided before any move
    items, added = [], []
    for chosen, members in groups:
        free = np.setdiff1d(np.arange(codebook_sizes[-1]), last[members], assume_unique=False)
        if len(free):
            cost = errors(movers[chosen], np.broadcast_to(free, (len(chosen), len(free)))) - own[chosen, None]
            rows, columns = assign(cost, limit)
            codes[movers[chosen[rows]], -1] = free[columns]
            items.append(movers[chosen[rows]])
            added.append(cost[rows, columns])
    moved = np.concatenate([np.empty(0, dtype=np.int64), *items])
    by_item = np.argsort(moved)
    moved = moved[by_item]
    cost = np.concatenate([np.empty(0), *added])[by_item]
    return Reassignment(codes, moved, last[moved], cost, float(mean_error), max_added_distortion)


def _movers(
    codes: np.ndarray, order: np.ndarray, first_change: np.ndarray, errors: Errors
) -> tuple[np.ndarray, np.ndarray]:
    """All items but the closest of each bucket, ascending, and their squared errors where they are."""
    bucket = np.concatenate([[0], np.cumsum(first_change < codes.shape[1])])
    is_colliding = np.bincount(bucket)[bucket] > 1
    items, bucket = order[is_colliding], bucket[is_colliding]
    if not len(items):
        return items, np.empty(0)
    own = errors(items, codes[items, -1:])[:, 0]
    by_error = np.lexsort([items, own, bucket])
    bucket = bucket[by_error]
    leaves = by_error[np.flatnonzero(bucket[1:] == bucket[:-1]) + 1]  # all but the first of each bucket
    leaves = leaves[np.argsort(items[leaves])]
    return items[leaves], own[leaves]


def _groups(
    order: np.ndarray, first_change: np.ndarray, movers: np.ndarray, num_levels: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each parent with movers: the positions of these in `movers`, ascending, and all items under the parent."""
    if not len(movers):
        return []
    starts = np.concatenate([[0], np.flatnonzero(first_change < num_levels - 1) + 1])
    ends = np.append(starts[1:], len(order))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    parent = np.searchsorted(starts, place[movers], side="right") - 1
    by_parent = np.argsort(parent, kind="stable")
    cuts = np.flatnonzero(np.diff(parent[by_parent])) + 1
    return [
        (chosen, order[starts[parent[chosen[0]]] : ends[parent[chosen[0]]]]) for chosen in np.split(by_parent, cuts)
    ]


def _check_room(codes: np.ndarray, groups: list[tuple[np.ndarray, np.ndarray]], movers: np.ndarray, size: int) -> None:
    full = [(chosen, members) for chosen, members in groups if len(members) > size]
    if full:
        chosen, members = full[0]
        num_placed = len(chosen) - (len(members) - size)
        item = int(movers[chosen[num_placed]])
        more = f", the first of {len(full)} full parents" if len(full) > 1 else ""
        raise DataError(
            f"item {item} finds no free code under the prefix {codes[item, :-1].tolist()}{more}",
            where="reassigned codes",
            expected=f"at most {size} items under a prefix, as the last level has codes",
            found=len(members),
            fix="use tokenizer.collisions=reassign_or_suffix, or a larger last codebook",
        )


def assign(cost: np.ndarray, limit: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of row and column at least total cost; as many within the limit as there can be."""
    from scipy.optimize import linear_sum_assignment  # a fifth of a second, not at the start of every command

    if limit is None:
        return linear_sum_assignment(cost)
    is_allowed = cost <= limit
    if not is_allowed.any():
        none = np.empty(0, dtype=np.int64)
        return none, none
    low, high = cost[is_allowed].min(), cost[is_allowed].max()
    # One pair more within the limit is worth any change of the others' costs.
    refused = high + min(cost.shape) * (high - low) + (abs(high) or 1.0)
    rows, columns = linear_sum_assignment(np.where(is_allowed, cost, refused))
    is_made = is_allowed[rows, columns]
    return rows[is_made], columns[is_made]
