"""The time between an event and the one before it, in buckets that double.

Knows NumPy only.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

NUM_GAPS = 32


def gap_buckets(times: np.ndarray, places: np.ndarray, firsts: np.ndarray) -> Int64[np.ndarray, "*S"]:
    """Bucket 0 where there is no event before, 1 for no time at all, b + 2 for 2^b to 2^(b + 1) - 1 s, at most 31.

    Where the data are in an order of their own, an event may be earlier than the one before it: that is no time at all.

    Args:
        times: seconds of all events.
        places: of the events that are asked for.
        firsts: of the first event of the history that each of them is in; broadcast against `places`.

    >>> gap_buckets(np.array([5, 5, 6, 9, 2, 86_402]), np.arange(6), np.zeros(6, dtype=int)).tolist()
    [0, 1, 2, 3, 1, 18]
    """
    before = np.maximum(places - 1, firsts)
    seconds = np.maximum(times[places] - times[before], 0)
    lengths = np.frexp(seconds.astype(np.float64))[1]  # binary digits: 0 of 0, b + 1 of 2^b
    return np.where(places > firsts, np.minimum(1 + lengths, NUM_GAPS - 1), 0).astype(np.int64)
