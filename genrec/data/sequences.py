"""Ragged histories over one flat (memory-mapped) array, and evaluation cases.

Knows NumPy only. A row is ``values[starts[i]:ends[i]]``, oldest first; rows may overlap, so the histories of all cases
of a user share the memory of that user's events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from genrec.data.gaps import gap_buckets


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths.

    Attributes:
        values: [M] any integer dtype, possibly a read-only memory map.
        starts: [B] int64, first element of each row.
        ends: [B] int64, one past the last element of each row, ``ends >= starts``.
        times: [M] seconds of each element; None: not known.
        firsts: [B] int64, first element of each row before `tail` cut it; None: no row was cut.

    >>> rows = Ragged.from_lists([[3, 1, 4], [], [1, 5]])
    >>> len(rows), rows.lengths.tolist(), rows[0].tolist(), rows.tail(1).to_lists()
    (3, [3, 0, 2], [3, 1, 4], [[4], [], [5]])
    """

    values: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    times: np.ndarray | None = None
    firsts: np.ndarray | None = None

    @classmethod
    def from_offsets(cls, values: np.ndarray, offsets: np.ndarray, times: np.ndarray | None = None) -> Ragged:
        """Rows ``values[offsets[i]:offsets[i + 1]]``; offsets [B + 1]."""
        offsets = np.asarray(offsets, dtype=np.int64)
        return cls(values, offsets[:-1], offsets[1:], times)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], dtype: type = np.int32) -> Ragged:
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
        values = np.fromiter((value for row in rows for value in row), dtype=dtype, count=int(offsets[-1]))
        return cls.from_offsets(values, offsets)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.ends[row]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """[B] int64."""
        return self.ends - self.starts

    def to_lists(self) -> list[list[int]]:
        return [row.tolist() for row in self]

    def take(self, rows: np.ndarray | slice) -> Ragged:
        """The chosen rows; shares values."""
        firsts = None if self.firsts is None else self.firsts[rows]
        return Ragged(self.values, self.starts[rows], self.ends[rows], self.times, firsts)

    def tail(self, length: int) -> Ragged:
        """The last `length` elements of each row (fewer where the row is shorter); shares values."""
        firsts = self.starts if self.firsts is None else self.firsts
        return Ragged(self.values, np.maximum(self.starts, self.ends - length), self.ends, self.times, firsts)

    def flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of all elements, row by row, oldest first.

        Returns:
            row: [S] int64, the row an element is in.
            value: [S], the element.
            age: [S] int64, 0 for the last element of its row.
        """
        lengths = self.lengths
        row = np.repeat(np.arange(len(self)), lengths)
        within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, self.values[self.starts[row] + within], lengths[row] - 1 - within

    def gaps(self) -> Ragged:
        """`gap_buckets` of the elements; those that `tail` cut off are events before all the same."""
        assert self.times is not None, "times are not known"
        row, _, age = self.flat()
        firsts = self.starts if self.firsts is None else self.firsts
        buckets = gap_buckets(self.times, self.ends[row] - 1 - age, firsts[row])
        return Ragged.from_offsets(buckets, np.concatenate([[0], np.cumsum(self.lengths)]))


@dataclass(frozen=True)
class Cases:
    """Evaluation cases: predict `target` from `histories`.

    Attributes:
        user_index: [C] int32.
        target: [C] int32 item_index.
        histories: C rows of item_index, oldest first, everything of that user before the target.
    """

    user_index: np.ndarray
    target: np.ndarray
    histories: Ragged

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray | slice) -> Cases:
        return Cases(self.user_index[rows], self.target[rows], self.histories.take(rows))
