"""Sampled items as a function of where they are used: no generator, no state, the same in one process and in several.

The seed, the epoch and the place of a target are hashed to 64 bits for each negative. Knows tensors alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from genrec.data.hashing import fold_words, top_bits
from genrec.seeding import fold_in

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
        state = fold_words(state, column)
    numbers = torch.arange(1, num_negatives + 1, device=places.device)
    return (top_bits(fold_words(state.unsqueeze(1), numbers), _BITS) * num_items) >> _BITS
