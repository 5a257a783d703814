"""What a dataset hides: leaks, ties, duplicates, repeats, cold items, popularity skew, missing text.

Reads the prepared tables and computes; knows Polars and NumPy, and nothing of files, of how the tables were made, or of
how results are shown.
"""

# M events, U users, N items

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from genrec.data.schema import INTERACTIONS, ITEMS, SPLITS, check_frame
from genrec.data.splits import TEST, TRAIN, VALIDATION, count_train_after_evaluation

_HELD_OUT = {"validation": VALIDATION, "test": TEST}
_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "max": 1.0}


def audit(interactions: pl.DataFrame, items: pl.DataFrame) -> dict[str, Any]:
    """Audits the prepared tables.

    Args:
        interactions: columns `INTERACTIONS`, sorted by (user_index, position).
        items: columns `ITEMS`, one row an item of the catalogue.

    Returns:
        JSON-able sections; a *target* is an event of the validation or test part, a share is one of all targets of that
        part, None where there are none:

        - ``counts``: users, items, interactions, without_timestamp (events), train, validation, test, density,
          events_per_user and events_per_item (quantiles), history_length ({"validation", "test"}: quantiles of the
          number of events before a target).
        - ``leaks``: target_in_own_history ({"validation", "test"}: targets whose item the user has met before; 0 unless
          the data have repeats), train_after_evaluation (training events after a held-out one of their user),
          target_before_latest_training ({"validation", "test"}: share of targets older than the latest training event
          of another user: the known leak of leave-one-out in global time; None without a clock).
        - ``ties``: None without a clock, else, at the stored resolution of a second: rows_in_ties (events at the same
          second as another one of their user), users_last_two_tied (share of users with two events or more),
          dependent_targets ({"validation", "test"}: share of targets at the same second as an event of the same user
          with another item, so that another tie rule may exchange them), out_of_time_order (events older than their
          predecessor, possible where the file's order rules).
        - ``duplicates``: exact (events that repeat user, item and second of another; None without a clock), repeats
          (events whose user has met the item before), users_with_repeats.
        - ``cold``: unseen_targets ({"validation", "test"}: number of targets whose item no training event has),
          unseen_share (the same as shares), unseen_items (items of the catalogue), users_without_training,
          empty_histories ({"validation", "test"}: targets with no event before them).
        - ``popularity``: of training counts: gini, top_1_percent and top_10_percent (share of the training events on
          these items), head, middle, tail, unseen (numbers of items; items that hold the first, second and third third
          of the training events, by descending count, items of equal count together).
        - ``text``: share of items with a title, brand, categories, description, text.
    """
    check_frame(interactions, INTERACTIONS, where="interactions")
    check_frame(items, ITEMS, where="items")
    users, targets, positions = (
        interactions.get_column(name).to_numpy() for name in ("user_index", "item_index", "position")
    )
    parts = interactions.get_column("split").to_physical().to_numpy()
    times = interactions.get_column("timestamp")
    clock = None if times.null_count() else times.to_numpy()

    train_counts = np.bincount(targets[parts == TRAIN], minlength=len(items))
    per_user = np.bincount(users)
    offsets = np.concatenate([[0], np.cumsum(per_user)])
    pair = (users.astype(np.uint64) << np.uint64(32)) | targets
    repeats = ~pl.Series(pair).is_first_distinct().to_numpy()  # rows are in order, so the first one is the oldest
    return {
        "counts": {
            "users": len(per_user),
            "items": len(items),
            "interactions": len(interactions),
            "without_timestamp": times.null_count(),
            **{name: int((parts == code).sum()) for code, name in enumerate(SPLITS)},
            "density": len(interactions) / (len(per_user) * len(items)),
            "events_per_user": _quantiles(per_user),
            "events_per_item": _quantiles(np.bincount(targets, minlength=len(items))),
            "history_length": {name: _quantiles(positions[parts == code]) for name, code in _HELD_OUT.items()},
        },
        "leaks": {
            "target_in_own_history": _count_targets(repeats, parts),
            "train_after_evaluation": count_train_after_evaluation(parts, offsets),
            "target_before_latest_training": None if clock is None else _time_leak(users, clock, parts),
        },
        "ties": None if clock is None else _audit_ties(users, targets, clock, parts),
        "duplicates": {
            "exact": None if clock is None else _count_exact(pair, repeats, clock),
            "repeats": int(repeats.sum()),
            "users_with_repeats": len(np.unique(users[repeats])),
        },
        "cold": {
            "unseen_targets": _count_targets(train_counts[targets] == 0, parts),
            "unseen_share": _share_of_targets(train_counts[targets] == 0, parts),
            "unseen_items": int((train_counts == 0).sum()),
            "users_without_training": len(per_user) - len(np.unique(users[parts == TRAIN])),
            "empty_histories": _count_targets(positions == 0, parts),
        },
        "popularity": _audit_popularity(train_counts),
        "text": _audit_text(items),
    }


def gini(counts: np.ndarray) -> float:
    """Gini coefficient: 0 if all counts are equal, near 1 if one item has everything.

    >>> gini(np.array([2, 2])), gini(np.array([0, 0, 0, 4]))
    (0.0, 0.75)
    """
    total, size = counts.sum(), len(counts)
    if not total:
        return 0.0
    return float(2 * (np.arange(1, size + 1) * np.sort(counts)).sum() / (size * total) - (size + 1) / size)


def audit_rows(findings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The findings of `audit` for a table.

    Returns:
        (name, value, verdict); a verdict begins with "ok", "note" (know it) or "warn" (act on it, or say why not).
    """
    rows = [*_count_rows(findings), *_leak_rows(findings["leaks"]), *_tie_rows(findings)]
    return rows + _repeat_rows(findings["duplicates"]) + _catalogue_rows(findings)


def _quantiles(values: np.ndarray) -> dict[str, int | float] | None:
    if not len(values):
        return None
    found = np.quantile(values, list(_QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(_QUANTILES, found, strict=True)} | {"mean": float(values.mean())}


def _count_targets(mask: np.ndarray, parts: np.ndarray) -> dict[str, int]:
    return {name: int((mask & (parts == code)).sum()) for name, code in _HELD_OUT.items()}


def _share_of_targets(mask: np.ndarray, parts: np.ndarray) -> dict[str, float | None]:
    sizes = {name: int((parts == code).sum()) for name, code in _HELD_OUT.items()}
    return {name: count / sizes[name] if sizes[name] else None for name, count in _count_targets(mask, parts).items()}


def _time_leak(users: np.ndarray, clock: np.ndarray, parts: np.ndarray) -> dict[str, float | None]:
    is_train = parts == TRAIN
    if not is_train.any():
        return _share_of_targets(is_train, parts)
    latest = int(np.argmax(np.where(is_train, clock, np.iinfo(np.int64).min)))
    others = is_train & (users != users[latest])
    bound = np.full(len(clock), clock[latest])
    # for the user who has the latest training event, that of the others counts
    bound[users == users[latest]] = clock[others].max() if others.any() else np.iinfo(np.int64).min
    return _share_of_targets(clock < bound, parts)


def _audit_ties(users: np.ndarray, targets: np.ndarray, clock: np.ndarray, parts: np.ndarray) -> dict[str, Any]:
    new_user = np.concatenate([[True], users[1:] != users[:-1]])
    same_time = np.concatenate([[False], clock[1:] == clock[:-1]])
    older = np.concatenate([[False], clock[1:] < clock[:-1]])
    starts = np.flatnonzero(new_user | ~same_time)  # of each run of events of one user and second
    sizes = np.diff(np.append(starts, len(users)))
    mixed = np.minimum.reduceat(targets, starts) != np.maximum.reduceat(targets, starts)
    last = np.append(np.flatnonzero(new_user)[1:], len(users)) - 1
    last = last[~new_user[last]]  # users with two events or more
    return {
        "rows_in_ties": int(sizes[sizes > 1].sum()),
        "users_last_two_tied": float(same_time[last].mean()) if len(last) else 0.0,
        "dependent_targets": _share_of_targets(np.repeat(mixed, sizes), parts),
        "out_of_time_order": int((older & ~new_user).sum()),
    }


def _count_exact(pair: np.ndarray, repeats: np.ndarray, clock: np.ndarray) -> int:
    again = pl.Series(pair[repeats]).unique()
    events = pl.DataFrame({"pair": pair, "clock": clock}).filter(pl.col("pair").is_in(again.implode()))
    return len(events) - events.n_unique()


def _audit_popularity(train_counts: np.ndarray) -> dict[str, Any]:
    descending = np.sort(train_counts)[::-1]
    total = max(1, int(descending.sum()))
    cumulative = np.concatenate([[0], np.cumsum(descending)])
    # share of the training events on items that have strictly more of them than this one
    above = cumulative[np.searchsorted(-descending, -descending, side="left")] / total
    thirds = np.bincount(np.digitize(above[descending > 0], [1 / 3, 2 / 3]), minlength=3)
    return {
        "gini": gini(train_counts),
        **{f"top_{p}_percent": float(cumulative[math.ceil(len(descending) * p / 100)] / total) for p in (1, 10)},
        **{name: int(size) for name, size in zip(("head", "middle", "tail"), thirds, strict=True)},
        "unseen": int((train_counts == 0).sum()),
    }


def _audit_text(items: pl.DataFrame) -> dict[str, float]:
    strings = [
        (pl.col(name).str.strip_chars() != "").fill_null(False) for name in ("title", "brand", "description", "text")
    ]
    present = items.select(*strings, (pl.col("categories").list.len() > 0).fill_null(False)).mean()
    return {
        name: float(present.get_column(name)[0]) for name in ("title", "brand", "categories", "description", "text")
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _verdict(value: float | None, meaning: str, *, note: float = 0, warn: float = math.inf) -> str:
    """ok up to `note`, a note up to `warn`, else a warning."""
    level = "ok" if value is None or value <= note else "note" if value <= warn else "warn"
    return f"{level}: {meaning}"


def _count_rows(findings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    counts, cold = findings["counts"], findings["cold"]
    parts = " / ".join(f"{counts[name]:,}" for name in SPLITS)
    length = counts["events_per_user"]
    spread = f"{length['min']} / {length['median']} / {length['max']}"
    empty = sum(cold["empty_histories"].values())
    return [
        ("users / items", f"{counts['users']:,} / {counts['items']:,}", "ok: after all filters"),
        ("interactions", f"{counts['interactions']:,}", f"ok: density {counts['density']:.2e}"),
        ("train / validation / test", parts, "ok: events; one case for each held-out event"),
        ("events per user", spread, "ok: fewest / median / most"),
        ("cases without history", f"{empty:,}", _verdict(empty, "held-out events that are the first of their user")),
    ]


def _leak_rows(leaks: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    own, after = sum(leaks["target_in_own_history"].values()), leaks["train_after_evaluation"]
    rows = [
        (
            "targets in own history",
            f"{own:,}",
            _verdict(own, "repeat targets, which a mask of seen items makes misses"),
        ),
        (
            "training after held-out",
            f"{after:,}",
            _verdict(after, "training events that follow a held-out one", warn=0),
        ),
    ]
    if (shares := leaks["target_before_latest_training"]) is not None:
        meaning = "test targets older than training events of other users; a temporal split has none"
        rows.append(("leak in global time", _percent(shares["test"]), _verdict(shares["test"], meaning)))
    return rows


def _tie_rows(findings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    ties, counts = findings["ties"], findings["counts"]
    if ties is None:
        there = "none" if counts["without_timestamp"] == counts["interactions"] else "incomplete"
        return [("timestamps", there, "note: the order of the file rules, ties and leaks in time are unknown")]
    share, out = ties["dependent_targets"]["test"], ties["out_of_time_order"]
    meaning = "test targets that another tie rule may exchange; report the rule with every number"
    return [
        ("last two events tied", _percent(ties["users_last_two_tied"]), "ok: users, to the second"),
        ("targets decided by ties", _percent(share), _verdict(share, meaning, warn=0.05)),
        ("out of time order", f"{out:,}", _verdict(out, "events older than the one before them", warn=0)),
    ]


def _repeat_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    exact, repeats = found["exact"], found["repeats"]
    told = "-" if exact is None else f"{exact:,}"
    return [
        ("exact duplicates", told, _verdict(exact, "same user, item and second; filter.duplicates=exact drops them")),
        ("repeats", f"{repeats:,}", _verdict(repeats, "same user and item again; filter.duplicates=first drops them")),
    ]


def _catalogue_rows(findings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    share, skew, text = findings["cold"]["unseen_share"]["test"], findings["popularity"], findings["text"]
    sizes = " / ".join(f"{skew[name]:,}" for name in ("head", "middle", "tail", "unseen"))
    cold = "test targets without a training event: only content can find them"
    fields = ", ".join(f"{name} {_percent(text[name])}" for name in ("title", "categories", "description"))
    return [
        ("cold test targets", _percent(share), _verdict(share, cold, warn=0.05)),
        (
            "Gini of popularity",
            f"{skew['gini']:.3f}",
            f"ok: top 1 % of the items have {_percent(skew['top_1_percent'])}",
        ),
        ("head / middle / tail / unseen", sizes, "ok: items with a third of the training events each, and none"),
        ("items with text", _percent(text["text"]), _verdict(1 - text["text"], fields, warn=0.1)),
    ]
