"""Which events stay: ratings, duplicates, k-core.

Knows Polars and NumPy, and nothing of ids, order, splits or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from genrec.errors import ConfigError, DataError


@dataclass(frozen=True)
class FilterPolicy:
    """Which events stay.

    Attributes:
        min_user_interactions, min_item_interactions: k-core to a fixed point; 0 or 1 is off.
        min_rating: events rated lower, or not at all, are dropped; None keeps all and needs no ratings.
        duplicates: "keep" all events; "exact" keeps one event for each (user, item, timestamp), and needs timestamps;
            "first" and "last" keep one event for each (user, item), by the declared order.
    """

    min_user_interactions: int = 5
    min_item_interactions: int = 5
    min_rating: float | None = None
    duplicates: str = "keep"

    def __post_init__(self) -> None:
        require_choice("filter.duplicates", self.duplicates, ("keep", "exact", "first", "last"))
        for name in ("min_user_interactions", "min_item_interactions"):
            if getattr(self, name) < 0:
                raise ConfigError("must not be negative", where=f"filter.{name}", found=getattr(self, name))

    def lower(self) -> str | None:
        """What to lower if too few events are left: the parts of the k-core that are on.

        >>> FilterPolicy().lower()
        'lower filter.min_user_interactions or filter.min_item_interactions'
        >>> FilterPolicy(0, 5).lower(), FilterPolicy(0, 0).lower()
        ('lower filter.min_item_interactions', None)
        """
        names = [name for name in ("min_user_interactions", "min_item_interactions") if getattr(self, name) > 1]
        return "lower " + " or ".join(f"filter.{name}" for name in names) if names else None


def find_duplicates(
    users: np.ndarray, items: np.ndarray, times: np.ndarray | None, *, keep: str, parts: np.ndarray | None = None
) -> np.ndarray:
    """Which rows to keep, in file order.

    Args:
        users, items: [M] uint32 codes.
        times: [M] int64 that say which row is first, or None: the file's order says it.
        keep: "exact" (one row for each (user, item, time)), "first" or "last" (one row for each (user, item)).
        parts: [M] split codes, which decide between rows of one time.

    Returns:
        bool [M].

    >>> u, i, t = np.array([0, 0, 0]), np.array([7, 7, 7]), np.array([3, 1, 1])
    >>> [find_duplicates(u, i, t, keep=keep).tolist() for keep in ("exact", "first", "last")]
    [[True, True, False], [False, True, False], [True, False, False]]
    """
    pair = (users.astype(np.uint64) << np.uint64(32)) | items.astype(np.uint64)
    keys = [key for key in (parts, times) if key is not None]
    rows = np.lexsort((*keys, pair))  # stable: the file's order breaks what ties are left
    differs = pair[rows[1:]] != pair[rows[:-1]]
    if keep == "exact":
        assert times is not None
        differs |= times[rows[1:]] != times[rows[:-1]]
    edge = np.array([True])
    chosen = np.concatenate([differs, edge] if keep == "last" else [edge, differs])
    mask = np.zeros(len(pair), dtype=bool)
    mask[rows[chosen]] = True
    return mask


def k_core(
    users: np.ndarray, items: np.ndarray, *, min_user_interactions: int, min_item_interactions: int
) -> tuple[np.ndarray, int]:
    """The largest set of events in which every user and every item has enough of them.

    It is unique, so the order in which users and items are dropped does not matter.

    Args:
        users, items: [M] non-negative integer codes.
        min_user_interactions, min_item_interactions: 0 and 1 keep all.

    Returns:
        keep: bool [M].
        rounds: passes that removed something.

    >>> users, items = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1])
    >>> k_core(users, items, min_user_interactions=2, min_item_interactions=2)[0].tolist()
    [True, True, True, True, False]
    """
    user_counts, item_counts = np.bincount(users), np.bincount(items)
    left_users, left_items, rounds = users, items, 0
    while True:
        stays = (user_counts >= min_user_interactions)[left_users] & (item_counts >= min_item_interactions)[left_items]
        if stays.all():
            break
        # counting only what goes is far cheaper than counting again: late rounds remove very little
        user_counts -= np.bincount(left_users[~stays], minlength=len(user_counts))
        item_counts -= np.bincount(left_items[~stays], minlength=len(item_counts))
        left_users, left_items, rounds = left_users[stays], left_items[stays], rounds + 1
    return (user_counts >= min_user_interactions)[users] & (item_counts >= min_item_interactions)[items], rounds


def filter_events(
    events: pl.DataFrame, policy: FilterPolicy, *, order: str, where: object
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Applies ratings, duplicates and k-core, in this order.

    Args:
        events: in file order: user and item (Categorical), time (Int64 ms), rating if the policy needs it, split if it
            is provided.
        policy: what to drop.
        order: "timestamp" or "file": what "first" and "last" of the duplicates mean.
        where: file name for messages.

    Returns:
        events: the rows that stay, in file order.
        steps: for reading and each step that is on: step, and the interactions, users and items it left; min_rating
            adds without_rating, k_core adds rounds.

    Raises:
        DataError: nothing is left.
    """
    steps = [count_step("read", events)]
    if policy.min_rating is not None:
        unrated = events.get_column("rating").is_null() | events.get_column("rating").is_nan()
        # Polars takes NaN for larger than every number, so unrated rows are named
        events = events.filter((pl.col("rating") >= policy.min_rating) & ~unrated).drop("rating")
        steps.append(count_step("min_rating", events) | {"without_rating": int(unrated.sum())})
    if policy.duplicates != "keep" and len(events):
        by_time = order == "timestamp" or policy.duplicates == "exact"
        users, items = _codes(events)
        keep = find_duplicates(
            users,
            items,
            events.get_column("time").to_numpy() if by_time else None,
            keep=policy.duplicates,
            parts=events.get_column("split").to_numpy() if "split" in events.columns and by_time else None,
        )
        events = events.filter(pl.Series(keep))
        steps.append(count_step("duplicates", events))
    if max(policy.min_user_interactions, policy.min_item_interactions) > 1 and len(events):
        users, items = _codes(events)
        keep, rounds = k_core(
            users,
            items,
            min_user_interactions=policy.min_user_interactions,
            min_item_interactions=policy.min_item_interactions,
        )
        events = events.filter(pl.Series(keep))
        steps.append(count_step("k_core", events) | {"rounds": rounds})
    if events.is_empty():
        fix = "lower filter.min_rating" if steps[-1]["step"] == "min_rating" else policy.lower()
        raise DataError("no interactions are left", where=where, found=tell_steps(steps), fix=fix)
    return events, steps


def _codes(events: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    users, items = (events.get_column(name).to_physical().to_numpy() for name in ("user", "item"))
    return users, items


def count_step(name: str, events: pl.DataFrame) -> dict[str, Any]:
    """Interactions, users and items that are there after a step."""
    users, items = (int(np.count_nonzero(np.bincount(codes))) for codes in _codes(events))
    return {"step": name, "interactions": len(events), "users": users, "items": items}


def tell_steps(steps: list[dict[str, Any]]) -> str:
    """What each step left, in a line, for messages."""
    told = [f"{s['interactions']} interactions of {s['users']} users and {s['items']} items" for s in steps]
    return ", ".join(f"{step['step']}: {line}" for step, line in zip(steps, told, strict=True))


def require_choice(where: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigError if a named value is not one of the choices."""
    if value not in choices:
        raise ConfigError("unknown value", where=where, expected=" | ".join(choices), found=repr(value))
