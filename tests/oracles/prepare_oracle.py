"""What `prepare` and `audit` have to find, by plain loops over small lists."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A raw event: ids, milliseconds, rating, and the number of the part it was put into (0, 1, 2)."""

    user: str
    item: str
    ms: int | None = None
    rating: float | None = None
    part: int = 0


@dataclass(frozen=True)
class Event:
    """A prepared event, by ids."""

    user: str
    item: str
    seconds: int | None
    position: int
    part: int


def id_key(ids: set[str]):
    """Sort key of an index map."""
    if all(i.isascii() and i.isdigit() and str(int(i)) == i for i in ids):
        return int
    return lambda text: [ord(character) for character in text]


def k_core(pairs: list[tuple[object, object]], min_user: int, min_item: int) -> set[int]:
    """Row numbers that are left after dropping rare users and items until nothing changes."""
    left = set(range(len(pairs)))
    while True:
        users, items = Counter(pairs[n][0] for n in left), Counter(pairs[n][1] for n in left)
        drop = {n for n in left if users[pairs[n][0]] < min_user or items[pairs[n][1]] < min_item}
        if not drop:
            return left
        left -= drop


def drop_duplicates(rows: list[Row], policy: str, by: str, provided: bool) -> list[Row]:
    if policy == "keep":
        return rows
    use_time = by == "timestamp" or policy == "exact"
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        key = (row.user, row.item, row.ms) if policy == "exact" else (row.user, row.item)
        groups[key].append((row.ms if use_time else 0, row.part if provided and use_time else 0, number))
    kept = {(max if policy == "last" else min)(group)[2] for group in groups.values()}
    return [row for number, row in enumerate(rows) if number in kept]


def temporal_cuts(seconds: list[int], validation_fraction: float, test_fraction: float) -> tuple[int, int]:
    ordered = sorted(seconds)
    num_test = max(1, round(len(ordered) * test_fraction))
    num_valid = max(1, round(len(ordered) * validation_fraction))
    first_test = len(ordered) - num_test
    return ordered[max(0, first_test - num_valid)], ordered[first_test]


def prepare(
    rows: list[Row],
    *,
    min_user: int = 0,
    min_item: int = 0,
    min_rating: float | None = None,
    duplicates: str = "keep",
    by: str = "timestamp",
    ties: str = "item_id",
    split: str = "leave_one_out",
    fractions: tuple[float, float] = (0.1, 0.1),
) -> list[Event]:
    """Events by (user, position); empty if a part of the split would be empty."""
    if min_rating is not None:
        rows = [row for row in rows if row.rating is not None and row.rating >= min_rating]
    provided = split == "provided"
    rows = drop_duplicates(rows, duplicates, by, provided)
    kept = k_core([(row.user, row.item) for row in rows], min_user, min_item)
    rows = [row for number, row in enumerate(rows) if number in kept]
    user_key, item_key = id_key({row.user for row in rows}), id_key({row.item for row in rows})

    def key(numbered):
        number, row = numbered
        if by == "file":
            return (number,)
        return (row.ms, row.part if provided else 0, item_key(row.item) if ties == "item_id" else number)

    cuts = (0, 0)
    if split == "temporal" and rows:
        cuts = temporal_cuts([(row.ms or 0) // 1000 for row in rows], *fractions)
    events = []
    for user in sorted({row.user for row in rows}, key=user_key):
        own = [row for _, row in sorted(((n, row) for n, row in enumerate(rows) if row.user == user), key=key)]
        for position, row in enumerate(own):
            seconds = None if row.ms is None else row.ms // 1000
            if split == "leave_one_out":
                part = {len(own) - 1: 2, len(own) - 2: 1}.get(position, 0) if len(own) >= 3 else 0
            elif split == "temporal":
                part = sum((seconds or 0) >= cut for cut in cuts)
            else:
                part = row.part
            events.append(Event(user, row.item, seconds, position, part))
    return events if {event.part for event in events} == {0, 1, 2} else []


def audit(events: list[Event]) -> dict:
    """The findings that are not mere counts, from prepared events with a clock."""
    found = Counter()
    for n, event in enumerate(events):
        assert event.seconds is not None
        earlier = [other for other in events[:n] if other.user == event.user]
        others_train = [o.seconds or 0 for o in events if o.user != event.user and o.part == 0]
        same_second = [o for o in events if o.user == event.user and o.seconds == event.seconds]
        part = ("train", "validation", "test")[event.part]
        found["repeats"] += any(o.item == event.item for o in earlier)
        found["exact"] += any(o.item == event.item and o.seconds == event.seconds for o in earlier)
        found["train_after_evaluation"] += event.part == 0 and any(o.part for o in earlier)
        found["rows_in_ties"] += len(same_second) > 1
        found[f"own_{part}"] += any(o.item == event.item for o in earlier)
        found[f"early_{part}"] += any(event.seconds < seconds for seconds in others_train)
        found[f"dependent_{part}"] += any(o.item != event.item for o in same_second)
        found[f"unseen_{part}"] += all(o.item != event.item for o in events if o.part == 0)
        found[f"empty_{part}"] += not earlier
    return found


def gini(counts: list[int]) -> float:
    """Mean absolute difference of all pairs, over twice the mean."""
    total = sum(counts)
    return sum(abs(a - b) for a in counts for b in counts) / (2 * len(counts) * total) if total else 0.0


def popularity_class(counts: list[int], item: int) -> str:
    if not counts[item]:
        return "unseen"
    above = sum(count for count in counts if count > counts[item])
    return "head" if 3 * above < sum(counts) else "middle" if 3 * above < 2 * sum(counts) else "tail"
