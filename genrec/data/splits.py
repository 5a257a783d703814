"""Which events are held out: leave-one-out, two cuts in time, or as the source says.

Knows Polars and NumPy, and nothing of ids, files or items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from genrec.data.filters import require_choice, tell_steps
from genrec.data.schema import SPLITS
from genrec.errors import ConfigError, DataError

TRAIN, VALIDATION, TEST = range(3)
MIN_LEAVE_ONE_OUT = 3  # events a user needs to have a test, a validation and a training event


@dataclass(frozen=True)
class SplitPolicy:
    """Which events are held out.

    Attributes:
        name: "leave_one_out" (a user's last event is test, the last but one validation; users with fewer than 3 events
            are training users wholly), "temporal" (two global cuts in time) or "provided" (the source's split column).
        validation_fraction, test_fraction: temporal only: shares of all events, in time order. Cuts fall on whole
            seconds, never between events of one second: all events of the cut's second belong to the later part.
        validation_from, test_from: temporal only, both or neither, instead of the fractions: first moment of the part,
            an ISO date or date-time (UTC unless it says otherwise) or seconds since 1970.
    """

    name: str = "leave_one_out"
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    validation_from: str | int | None = None
    test_from: str | int | None = None

    def __post_init__(self) -> None:
        require_choice("split.name", self.name, ("leave_one_out", "temporal", "provided"))
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(
                    "out of range", where=f"split.{name}", expected="0 < fraction < 1", found=getattr(self, name)
                )
        if self.validation_fraction + self.test_fraction >= 1:
            found = self.validation_fraction + self.test_fraction
            raise ConfigError(
                "no share is left for training", where="split.validation_fraction + split.test_fraction", found=found
            )
        if (self.validation_from is None) != (self.test_from is None):
            raise ConfigError("split.validation_from and split.test_from go together", fix="set both, or neither")
        cuts = self.cuts()
        if cuts and cuts[0] >= cuts[1]:
            raise ConfigError(
                "must be before split.test_from", where="split.validation_from", found=f"{cuts[0]} s and {cuts[1]} s"
            )

    def cuts(self) -> tuple[int, int] | None:
        """The explicit cuts in s UTC, or None."""
        if self.validation_from is None or self.test_from is None:
            return None
        return parse_moment(self.validation_from, where="split.validation_from"), parse_moment(
            self.test_from, where="split.test_from"
        )


def split_leave_one_out(offsets: np.ndarray) -> np.ndarray:
    """The last event of a user is test, the last but one validation; users with fewer than 3 events only train.

    Args:
        offsets: [U + 1], user u's events are rows offsets[u] to offsets[u + 1] - 1.

    Returns:
        uint8 [M]: 0 train, 1 validation, 2 test.

    >>> split_leave_one_out(np.array([0, 3, 5])).tolist()
    [0, 1, 2, 0, 0]
    """
    parts = np.zeros(offsets[-1], dtype=np.uint8)
    last = offsets[1:][np.diff(offsets) >= MIN_LEAVE_ONE_OUT] - 1
    parts[last], parts[last - 1] = TEST, VALIDATION
    return parts


def find_temporal_cuts(seconds: np.ndarray, *, validation_fraction: float, test_fraction: float) -> tuple[int, int]:
    """First second of the validation and of the test part, so that about these shares of the events are in them.

    >>> find_temporal_cuts(np.arange(10), validation_fraction=0.2, test_fraction=0.1)
    (7, 9)
    """
    in_order = np.sort(seconds)
    num_test = max(1, round(len(seconds) * test_fraction))
    num_valid = max(1, round(len(seconds) * validation_fraction))
    test_row = len(seconds) - num_test
    return int(in_order[max(0, test_row - num_valid)]), int(in_order[test_row])


def split_temporal(seconds: np.ndarray, validation_from: int, test_from: int) -> np.ndarray:
    """Events before `validation_from` train, those from `test_from` on test, the others validate.

    >>> split_temporal(np.array([9, 5, 7, 7]), 7, 9).tolist()
    [2, 0, 1, 1]
    """
    return (seconds >= validation_from).astype(np.uint8) + (seconds >= test_from)


def count_train_after_evaluation(parts: np.ndarray, offsets: np.ndarray) -> int:
    """Training events that come after a validation or test event of the same user.

    >>> count_train_after_evaluation(np.array([0, 2, 0, 0, 1]), np.array([0, 3, 5]))
    1
    """
    held_out = np.cumsum(parts != TRAIN)
    before = np.concatenate([[0], held_out])[offsets[:-1]]  # held out in the rows of earlier users
    return int(((held_out > np.repeat(before, np.diff(offsets))) & (parts == TRAIN)).sum())


def parse_moment(value: str | int, *, where: str) -> int:
    """Seconds UTC of an ISO date or date-time (UTC unless it says otherwise), or of seconds, which pass through.

    >>> [parse_moment(value, where="x") for value in ("2014-01-01", "2014-01-01T01:00+01:00", 9)]
    [1388534400, 1388534400, 9]
    """
    text = str(value).strip()
    if isinstance(value, int) or (text.isascii() and text.isdigit() and len(text) > len("20140101")):
        seconds = int(text)
        if seconds > 1e11:  # the year 5138: milliseconds, surely
            raise ConfigError("looks like milliseconds", where=where, expected="seconds", found=value)
        return seconds
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("not a moment", where=where, expected="ISO date or seconds", found=repr(value)) from error
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def assign_split(
    table: pl.DataFrame,
    offsets: np.ndarray,
    policy: SplitPolicy,
    *,
    steps: list[dict[str, Any]],
    lower: str | None,
    where: object,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Splits the ordered events.

    Args:
        table: by user and position: time (Int64 ms, complete for a temporal split), split (UInt8) if it is provided.
        offsets: [U + 1], user u's events are rows offsets[u] to offsets[u + 1] - 1.
        policy: how.
        steps: what the filters left, for messages.
        lower: what to do about filters that left too few events, for messages.
        where: file name for messages.

    Returns:
        parts: uint8 [M]: 0 train, 1 validation, 2 test; none of them is empty.
        facts: train_after_evaluation, and users_without_evaluation (leave-one-out) or cuts (temporal, s).

    Raises:
        DataError: a part would be empty, or the order of a user's events contradicts a temporal split.
    """
    facts: dict[str, Any] = {}
    fix = lower
    if policy.name == "provided":
        parts = table.get_column("split").to_numpy()
    elif policy.name == "leave_one_out":
        parts = split_leave_one_out(offsets)
        facts["users_without_evaluation"] = int((np.diff(offsets) < MIN_LEAVE_ONE_OUT).sum())
        need = f"leave-one-out needs users with {MIN_LEAVE_ONE_OUT} events"
        fix = f"{lower}: {need}" if lower else need
    else:
        seconds = (table.get_column("time") // 1000).to_numpy()
        cuts = policy.cuts() or find_temporal_cuts(
            seconds, validation_fraction=policy.validation_fraction, test_fraction=policy.test_fraction
        )
        parts = split_temporal(seconds, *cuts)
        _check_direction(parts, offsets, where=where)
        facts["cuts"] = {"validation_from": cuts[0], "test_from": cuts[1]}
        fix = f"move the cuts (now {cuts[0]} s and {cuts[1]} s; events are from {seconds.min()} s to {seconds.max()} s)"
    facts["train_after_evaluation"] = count_train_after_evaluation(parts, offsets)
    empty = [name for name, count in zip(SPLITS, np.bincount(parts, minlength=3), strict=True) if not count]
    if empty:
        what = f"split={policy.name} leaves {' and '.join(empty)} empty"
        raise DataError(what, where=where, found=tell_steps(steps), fix=fix)
    return parts, facts


def _check_direction(parts: np.ndarray, offsets: np.ndarray, *, where: object) -> None:
    """A temporal split of a sequence in file order is only one if the file's order is that of time."""
    back = np.diff(parts.astype(np.int8)) < 0
    back[offsets[1:-1] - 1] = False  # the step from one user to the next
    if back.any():
        what = f"split=temporal: {back.sum()} events stand before an event of their user from an earlier part"
        raise DataError(what, where=where, fix="set order.by=timestamp")
