"""A published table that changes from day to day: items come and go, and an ID once given is never another item's.

Pure calculation on codes and the users' own item ids; must not know quantisers, vectors or files.
"""
# N items, R retired items, M new items, T taken rows, L levels of the table, l levels of the quantiser

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int32

from genrec.errors import DataError
from genrec.semantic_ids.collisions import Errors, assign
from genrec.semantic_ids.rows import check_codes, sort_rows
from genrec.semantic_ids.table import SemanticIds

_SHOWN = 3  # ids in a message


@dataclass(frozen=True, eq=False)
class Version:
    """The catalogue on one day.

    Attributes:
        item_ids: N ids, row by row of the table.
        table: their semantic IDs.
        retired_ids: R ids of items that are gone; their codes stay theirs.
        retired_codes: what these had.
    """

    item_ids: Sequence[str]
    table: SemanticIds
    retired_ids: Sequence[str]
    retired_codes: Int32[np.ndarray, "R L"]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where new items went, in the order of the ids that were given.

    Attributes:
        codes: their semantic IDs.
        is_moved: has another last code of the quantiser than it gave.
        added: what that adds to the squared error, 0 for the others.
    """

    codes: Int32[np.ndarray, "M L"]
    is_moved: Bool[np.ndarray, " M"]
    added: Float64[np.ndarray, " M"]


def append_items(
    version: Version,
    item_ids: Sequence[str],
    codes: np.ndarray,
    *,
    returning: Sequence[str] = (),
    errors: Errors | None = None,
    mean_error: float = 0.0,
) -> tuple[Version, Placement]:
    """The next version, with new items and with retired ones that come back; the rows that are there stay.

    New rows come after the old ones, sorted by id, so neither rows nor codes depend on the order of `item_ids`. A
    retired item has the codes that it had. A new one is placed by `place_items` as if all came in the order of ids.

    Args:
        version: of today.
        item_ids: M ids that the catalogue never had, distinct.
        codes: integers [M, l], what the quantiser gave them; any shape where M is 0.
        returning: retired ids that come back.
        errors, mean_error: see `place_items`.

    Raises:
        DataError: an item finds no code, or codes of a wrong shape.

    >>> from genrec.semantic_ids.table import build_semantic_ids
    >>> table, _ = build_semantic_ids(np.array([[0], [1], [0]]), (2,))
    >>> first = Version(["a", "b", "c"], table, [], np.empty((0, 2), dtype=np.int32))
    >>> second, _ = append_items(retire_items(first, ["c"]), ["e", "d"], np.array([[0], [1]]))
    >>> second.item_ids, second.table.codes.tolist()
    (['a', 'b', 'd', 'e'], [[0, 0], [1, 0], [1, 1], [0, 2]])
    >>> third, _ = append_items(second, [], np.empty((0, 1), dtype=np.int32), returning=["c"])
    >>> third.item_ids[-1], third.table.codes[-1].tolist(), third.retired_ids
    ('c', [0, 1], [])
    """
    order = np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), dtype=np.int64)
    names = sorted(item_ids)
    taken = np.concatenate([version.table.codes, version.retired_codes])
    by_order = None if errors is None else lambda items, last: errors(order[items], last)
    placed = place_items(codes[order], names, version.table, taken, errors=by_order, mean_error=mean_error)
    retired = {name: row for row, name in enumerate(version.retired_ids)}
    back = np.array([retired.pop(name) for name in returning], dtype=np.int64)
    new_names = [*names, *returning]
    new_codes = np.concatenate([placed.codes, version.retired_codes[back]])
    by_id = sorted(range(len(new_names)), key=new_names.__getitem__)
    left = np.array(list(retired.values()), dtype=np.int64)
    after = Version(
        [*version.item_ids, *(new_names[row] for row in by_id)],
        replace(version.table, codes=np.concatenate([version.table.codes, new_codes[by_id]])),
        list(retired),
        version.retired_codes[left],
    )
    given = np.argsort(order)
    return after, Placement(placed.codes[given], placed.is_moved[given], placed.added[given])


def retire_items(version: Version, item_ids: Sequence[str]) -> Version:
    """The next version, without some of its items; their codes are kept and never given to others.

    Raises:
        DataError: no item is left.
    """
    gone = set(item_ids)
    is_gone = np.array([name in gone for name in version.item_ids], dtype=bool)
    if is_gone.all():
        raise DataError("no item would be left in the catalogue", found=f"all {len(is_gone)} items to be retired")
    names = [name for name in version.item_ids if name in gone]
    return Version(
        [name for name in version.item_ids if name not in gone],
        replace(version.table, codes=version.table.codes[~is_gone]),
        [*version.retired_ids, *names],
        np.concatenate([version.retired_codes, version.table.codes[is_gone]]),
    )


def place_items(
    codes: np.ndarray,
    names: Sequence[str],
    table: SemanticIds,
    taken: Int32[np.ndarray, "T L"],
    *,
    errors: Errors | None = None,
    mean_error: float = 0.0,
) -> Placement:
    """Codes for new items beside those that are taken, by the collision policy of the table.

    `suffix`: the next number of the item's bucket that nobody ever had. `reassign`: the quantiser's codes where they
    are free (of several new items with the same ones the closest has them, the first of those that are equally close);
    for the others free last codes under the same parent, at least total increase of the squared error, as
    `collisions.reassign` does it for a whole catalogue. `reassign_or_suffix`: the same within the limit of the table,
    and a suffix for the rest.

    Args:
        codes: integers [M, l], what the quantiser gave.
        names: M ids, for messages; of equals the first comes first.
        table: policy and level sizes.
        taken: the codes of all items that are or were in the catalogue.
        errors: squared errors of the new items at last codes of the quantiser; for the two policies that move.
        mean_error: of the set that the quantiser was fitted on, what the limit is a share of.

    Raises:
        DataError: a suffix level or a parent is full (names the item and what to do), or codes of a wrong shape.
    """
    has_suffix = table.collisions in ("suffix", "reassign_or_suffix")
    num_levels = table.num_levels - has_suffix
    sizes = table.codebook_sizes[:num_levels]
    added = np.zeros(len(codes))
    if not len(codes):
        return Placement(np.empty((0, table.num_levels), dtype=np.int32), added > 0, added)
    check_codes(codes, sizes, where="codes of the new items")
    placed = np.array(codes, dtype=np.int32)
    if table.collisions.startswith("reassign"):
        assert errors is not None, "moves need errors"
        share = table.max_added_distortion
        limit = None if share is None else share * mean_error
        placed, added = _move(placed, names, sizes, taken[:, :num_levels], errors, limit)
    is_moved = placed[:, -1] != codes[:, -1]
    if has_suffix:
        suffixes = _next_suffixes(placed, sizes, taken)
        _check_suffixes(suffixes, names, table)
        placed = np.concatenate([placed, suffixes[:, None]], axis=1)
    return Placement(placed, is_moved, added)


def some_ids(item_ids: Sequence[str]) -> str:
    """The first few ids, for a message."""
    shown = ", ".join(map(repr, item_ids[:_SHOWN]))
    return shown if len(item_ids) <= _SHOWN else f"{shown} and {len(item_ids) - _SHOWN} more"


def _next_suffixes(placed: np.ndarray, sizes: Sequence[int], taken: np.ndarray) -> np.ndarray:
    """Numbers of new items that come one after the other, beyond all that their buckets have ever had."""
    bucket = _groups(np.concatenate([taken[:, :-1], placed]), sizes, len(sizes))
    following = np.zeros(bucket.max() + 1, dtype=np.int32)
    np.maximum.at(following, bucket[: len(taken)], taken[:, -1] + 1)
    suffixes = np.empty(len(placed), dtype=np.int32)
    for item, group in enumerate(bucket[len(taken) :]):
        suffixes[item] = following[group]
        following[group] += 1
    return suffixes


def _check_suffixes(suffixes: np.ndarray, names: Sequence[str], table: SemanticIds) -> None:
    size = table.codebook_sizes[-1]
    full = np.flatnonzero(suffixes >= size)
    if len(full):
        raise DataError(
            f"{len(full)} new items find no free suffix, the first is {names[full[0]]!r}",
            expected=f"at most {size} items with the same codes, retired ones included",
            fix="leave such items out, or tokenize again with a larger tokenizer.reserve=... and train again",
        )


def _move(
    codes: np.ndarray,
    names: Sequence[str],
    sizes: Sequence[int],
    taken: np.ndarray,
    errors: Errors,
    limit: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiser's codes after the moves, and what each move adds; without a limit all are distinct and were free."""
    num_taken = len(taken)
    rows = np.concatenate([taken, codes])
    own = errors(np.arange(len(codes)), codes[:, -1:])[:, 0]
    movers = _without_own(_groups(rows, sizes, len(sizes)), num_taken, own)
    placed, added = codes.copy(), np.zeros(len(codes))
    parent = _groups(rows, sizes, len(sizes) - 1)
    order = np.argsort(parent, kind="stable")
    by_parent = parent[order]
    is_mover = np.zeros(len(rows), dtype=bool)
    is_mover[num_taken + movers] = True
    for group in np.unique(parent[num_taken + movers]):
        members = order[slice(*np.searchsorted(by_parent, [group, group + 1]))]
        chosen = members[is_mover[members]] - num_taken
        free = np.setdiff1d(np.arange(sizes[-1]), rows[members[~is_mover[members]], -1])
        if limit is None and len(free) < len(chosen):
            raise DataError(
                f"the new item {names[chosen[len(free)]]!r} finds no free code under the prefix "
                f"{codes[chosen[0], :-1].tolist()}",
                expected=f"at most {sizes[-1]} items under a prefix, retired ones included",
                fix="leave such items out, or tokenize again with tokenizer.collisions=reassign_or_suffix",
            )
        if len(free):
            cost = errors(chosen, np.broadcast_to(free, (len(chosen), len(free)))) - own[chosen, None]
            found, columns = assign(cost, limit)
            placed[chosen[found], -1] = free[columns]
            added[chosen[found]] = cost[found, columns]
    return placed, added


def _without_own(bucket: np.ndarray, num_taken: int, own: np.ndarray) -> np.ndarray:
    """New items that cannot have the quantiser's codes, ascending: they are taken, or a closer new item has them."""
    mine = bucket[num_taken:]
    is_taken = np.zeros(bucket.max() + 1, dtype=bool)
    is_taken[bucket[:num_taken]] = True
    by_error = np.lexsort([np.arange(len(mine)), own, mine])
    is_first = np.ones(len(mine), dtype=bool)
    is_first[1:] = mine[by_error][1:] != mine[by_error][:-1]
    stays = by_error[is_first & ~is_taken[mine[by_error]]]
    return np.setdiff1d(np.arange(len(mine)), stays)


def _groups(rows: np.ndarray, sizes: Sequence[int], depth: int) -> np.ndarray:
    """A number for each row that it shares with those that begin with the same codes, `depth` of them."""
    order, first_change = sort_rows(rows, sizes)
    group = np.empty(len(rows), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(first_change < depth)])
    return group
