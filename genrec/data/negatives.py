"""Sampled items as a function of where they are used: no generator, no state, the same in one process and in several.

The finaliser of SplitMix64 (Steele et al. 2014) mixes the seed, the epoch and the place of a target into 64 bits for
each negative. Knows tensors alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from genrec.seeding import fold_in

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_BITS = 31


def draw_items(
    seed: int, epoch: int, places: Int64[Tensor, "P d"], *, num_negatives: int, num_items: int
) -> Int64[Tensor, "P n"]:
    """Uniform items, independent of each other and of the targets; they may repeat, and may be the target itself.

    What is drawn for a place does not depend on the other places, so not on batches or processes. The probabilities
    differ from uniform by less than num_items / 2^31, relatively.

    Args:
        seed: of the run.
        epoch: other items in each.
        places: integers that name each target, in any number.
        num_negatives: n.
        num_items: N, below 2^31.

    >>> draw_items(0, 0, torch.tensor([[5, 1], [5, 2]]), num_negatives=4, num_items=100).tolist()
    [[78, 26, 45, 51], [40, 39, 50, 97]]
    """
    assert 0 < num_items < 2**_BITS, "too many items"
    state = torch.full((len(places),), fold_in(seed, epoch), dtype=torch.int64, device=places.device)
    for column in places.unbind(dim=1):
        state = _mix(state + column * _GOLDEN)
    numbers = torch.arange(1, num_negatives + 1, device=places.device)
    words = _mix(state.unsqueeze(1) + numbers * _GOLDEN)
    return (_shift(words, 64 - _BITS) * num_items) >> _BITS


def _mix(words: Int64[Tensor, "*P"]) -> Int64[Tensor, "*P"]:
    words = (words ^ _shift(words, 30)) * _FIRST
    words = (words ^ _shift(words, 27)) * _SECOND
    return words ^ _shift(words, 31)


def _shift(words: Int64[Tensor, "*P"], places: int) -> Int64[Tensor, "*P"]:
    """To the right, filled up with zeros (torch's shift of signed integers fills up with the sign)."""
    return (words >> places) & ((1 << (64 - places)) - 1)
