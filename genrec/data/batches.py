"""Training batches of windows of histories, in an order that is a function of (seed, epoch) and nothing else.

Knows ragged histories and NumPy; must not know models or devices. A stream can be put at any (epoch, batch), so a run
that was killed goes on with exactly the batches it would have had.
"""

# B windows of a batch, T items of a window (inputs), S stride

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from genrec.data.gaps import gap_buckets
from genrec.data.sequences import Ragged
from genrec.errors import DataError
from genrec.seeding import generator

_POOL = 64  # batches whose windows are sorted by length together


@dataclass(frozen=True)
class Batch:
    """Windows of histories for teacher forcing: at position t the model has read ``items[:, : t + 1]``.

    Attributes:
        items: [B, T] item_index, oldest first, padded on the right with -1.
        targets: [B, T] the item that follows each position, -1 where there is none.
        is_target: [B, T] whether the position counts in the loss: true for every target of a history exactly once.
        user_index: [B] row of the histories that a window is from.
        gaps: [B, T] `gap_buckets` of the items; None: not asked for.
    """

    items: Int64[np.ndarray, "B T"]
    targets: Int64[np.ndarray, "B T"]
    is_target: Bool[np.ndarray, "B T"]
    user_index: Int64[np.ndarray, " B"]
    gaps: Int64[np.ndarray, "B T"] | None = None

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())


@dataclass(frozen=True)
class Windows:
    """Which part of which history a window is.

    Attributes:
        user_index: [W] row of the histories.
        start: [W] first input, counted from the start of the row.
        end: [W] one past the last input; the item at `end` is the last target.
        first_target: [W] first position (counted from the start of the row) whose target counts in this window.
    """

    user_index: np.ndarray
    start: np.ndarray
    end: np.ndarray
    first_target: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def cut_windows(lengths: np.ndarray, max_length: int, stride: int | None = None) -> Windows:
    """Windows of at most `max_length` inputs in which every item but the first of a history is a target exactly once.

    A history of n items has n - 1 targets. Its last window ends with the last one, each earlier window ends `stride`
    targets before the next. A window's own targets are those that no earlier window has, so every target has at least
    T - S + 1 items before it, or all there are.

    Args:
        lengths: [U] items of each history.
        max_length: T, inputs of a window.
        stride: S, targets that a further window adds, 1 to T; None: T // 2, at least 1.

    >>> windows = cut_windows(np.array([7, 1, 3]), max_length=4, stride=2)
    >>> np.stack([windows.user_index, windows.start, windows.end, windows.first_target], axis=1).tolist()
    [[0, 2, 6, 4], [0, 0, 4, 0], [2, 0, 2, 0]]
    """
    stride = max(1, max_length // 2) if stride is None else stride
    assert 1 <= stride <= max_length
    num_inputs = np.maximum(lengths - 1, 0)
    # After the last T inputs, every further window covers S more of those before them.
    counts = np.where(num_inputs > 0, 1 + np.maximum(-(-(num_inputs - max_length) // stride), 0), 0)
    user = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0: the last window of its history
    end = num_inputs[user] - number * stride
    is_first = number == counts[user] - 1
    end = np.where(
        is_first, np.minimum(num_inputs[user], np.maximum(end, np.minimum(max_length, num_inputs[user]))), end
    )
    start = np.maximum(end - max_length, 0)
    # A window's own targets begin where those of the next older window end.
    older_end = np.append(end[1:], 0)
    return Windows(user, start, end, np.where(is_first, 0, older_end))


def cut_pairs(lengths: np.ndarray, max_length: int, *, last_only: bool = False) -> Windows:
    """A window for each target, which alone counts in it: the item after the last input, of at most `max_length`.

    As encoder-decoder models are usually trained; a history is read as often as it has targets.

    Args:
        lengths: [U] items of each history.
        max_length: T, inputs of a window.
        last_only: of each history its last target alone.

    >>> windows = cut_pairs(np.array([4, 1]), max_length=2)
    >>> np.stack([windows.user_index, windows.start, windows.end, windows.first_target], axis=1).tolist()
    [[0, 0, 1, 0], [0, 0, 2, 1], [0, 1, 3, 2]]
    """
    counts = np.maximum(lengths - 1, 0)
    user = np.repeat(np.arange(len(lengths)), counts)
    end = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    if last_only:
        is_last = end == counts[user]
        user, end = user[is_last], end[is_last]
    return Windows(user, np.maximum(end - max_length, 0), end, end - 1)


class BatchStream:
    """Batches of an epoch, windows of about one length together, in the order of (seed, epoch).

    Windows are shuffled, sorted by length inside pools of 64 batches, cut into batches, and the batches shuffled:
    padding stays small, and which windows meet still changes from epoch to epoch.

    Args:
        histories: training histories of item_index, oldest first.
        batch_size: B, windows of a batch; the last one of an epoch may be smaller.
        max_length: T, inputs of a window.
        stride: see `cut_windows`.
        seed: of the order.
        pairs: a window for each target (`cut_pairs`) instead of for as many as fit; "last": of the last target alone.
        change: what becomes of each batch, by a generator that is a function of (seed, epoch, number of the batch).
        gaps: give the time between events too; the histories have times.

    Raises:
        DataError: no history has two items.
    """

    def __init__(
        self,
        histories: Ragged,
        *,
        batch_size: int,
        max_length: int,
        stride: int | None = None,
        seed: int = 0,
        pairs: bool | Literal["last"] = False,
        change: Callable[[Batch, np.random.Generator], Batch] | None = None,
        gaps: bool = False,
    ) -> None:
        self.histories = histories
        self.gaps = gaps
        self.batch_size = batch_size
        self.seed = seed
        self.change = change
        self.repeats = 1
        lengths = histories.lengths
        if pairs:
            self.windows = cut_pairs(lengths, max_length, last_only=pairs == "last")
        else:
            self.windows = cut_windows(lengths, max_length, stride)
        if not len(self.windows):
            raise DataError("no training history has two items, so there is nothing to predict")

    def repeated(self, times: int) -> BatchStream:
        """The same stream, in which each batch comes so many times in a row."""
        stream = copy(self)
        stream.repeats = times
        return stream

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return self.repeats * -(-len(self.windows) // self.batch_size)

    @property
    def num_targets(self) -> int:
        """Targets of an epoch, each as often as it comes."""
        return self.repeats * int((self.windows.end - self.windows.first_target).sum())

    def epoch_order(self, epoch: int) -> list[np.ndarray]:
        """The windows of each batch of an epoch."""
        random = generator(self.seed, epoch)
        shuffled = random.permutation(len(self.windows))
        lengths = self.windows.end - self.windows.start
        pool = self.batch_size * _POOL
        order = np.concatenate(
            [
                part[np.argsort(lengths[part], kind="stable")]
                for part in np.split(shuffled, range(pool, len(shuffled), pool))
            ]
        )
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        return [batches[number] for number in random.permutation(len(batches)) for _ in range(self.repeats)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        for number, windows in enumerate(self.epoch_order(epoch)[start:], start):
            batch, place = self.gather(windows), number // self.repeats
            yield batch if self.change is None else self.change(batch, generator(self.seed, epoch, place))

    def gather(self, windows: np.ndarray) -> Batch:
        """The batch of these windows."""
        user, start = self.windows.user_index[windows], self.windows.start[windows]
        length = self.windows.end[windows] - start
        within = np.arange(length.max())
        is_input = within < length[:, None]
        at = (self.histories.starts[user] + start)[:, None] + np.where(is_input, within, 0)
        items = np.where(is_input, self.histories.values[at], -1).astype(np.int64)
        targets = np.where(is_input, self.histories.values[at + 1], -1).astype(np.int64)
        is_target = is_input & (start[:, None] + within >= self.windows.first_target[windows][:, None])
        gaps = None
        if self.gaps:
            assert self.histories.times is not None, "histories without times"
            gaps = gap_buckets(self.histories.times, at, self.histories.starts[user][:, None])
        return Batch(items, targets, is_target, user.astype(np.int64), gaps)
