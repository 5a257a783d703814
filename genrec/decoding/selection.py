"""Choosing the best of many scores, with ties that always fall the same way.

Pure functions of tensors; must not know tries, scorers or requests.
"""
# B requests, C candidates, k chosen

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_MASK = (1 << 32) - 1

# Scores [B, C] and k -> the k largest of each row and their indices, in the order of the index; see `select_best`.
Select = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def select_best(scores: Float[Tensor, "B C"], k: int) -> tuple[Float[Tensor, "B k"], Int64[Tensor, "B k"]]:
    """The k largest scores of each row, of equal ones those with the lowest index, *in the order of the index*.

    `torch.topk` may take any of several equal scores. For 16- and 32-bit floats the bits of the score and the index
    make one integer, no two of which are equal; 64-bit floats are sorted, which is slower. In an exported graph ONNX's
    TopK does by itself what is wanted here.

    Args:
        scores: no NaN.
        k: at most C.

    Returns:
        The scores and their indices.

    >>> scores, index = select_best(torch.tensor([[0.5, 2.0, 0.5, -1.0, 0.5]]), 3)
    >>> index.tolist(), scores.tolist()
    ([[0, 1, 2]], [[0.5, 2.0, 0.5]])
    """
    if scores.dtype == torch.float64:
        index = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    else:
        bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0 because -0.0 equals 0.0 and its bits do not
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # now ordered as the floats are
        tie = torch.arange(_MASK, _MASK - scores.shape[1], -1, device=scores.device)
        key = (bits.long() << 32) | tie
        index = _MASK - (key.topk(k, dim=1, sorted=False).values & _MASK)
    index = index.sort(dim=1).values
    return scores.gather(1, index), index


def rank_items(
    items: Int64[Tensor, "B C"], scores: Float[Tensor, "B C"], k: int
) -> tuple[Int64[Tensor, "B k"], Float[Tensor, "B k"]]:
    """The k best items in the order (score descending, item ascending), padded with -1 and -inf.

    Args:
        items: item_index, in any order; whatever has the score -inf is padding.
        scores: no NaN.
        k: may be larger than C.

    >>> rank_items(torch.tensor([[7, 3, 5]]), torch.tensor([[1.0, 1.0, -torch.inf]]), 4)
    (tensor([[ 3,  7, -1, -1]]), tensor([[1., 1., -inf, -inf]]))
    """
    order = rank_order(items, scores)[:, :k]
    items, scores = items.gather(1, order), scores.gather(1, order)
    items = items.masked_fill(scores == -torch.inf, -1)
    missing = (0, k - items.shape[1])
    return torch.nn.functional.pad(items, missing, value=-1), torch.nn.functional.pad(scores, missing, value=-torch.inf)


def best_items(
    scores: Float[Tensor, "B N"], k: int, *, select: Select = select_best
) -> tuple[Int64[Tensor, "B k"], Float[Tensor, "B k"]]:
    """`rank_items` of a whole catalogue, whose columns are its items.

    Args:
        scores: no NaN; -inf for what must not come.
        k: may be larger than N.
        select: how the k best are chosen.

    >>> best_items(torch.tensor([[1.0, -torch.inf, 2.0, 1.0]]), 2)
    (tensor([[2, 0]]), tensor([[2., 1.]]))
    """
    values, items = select(torch.nn.functional.pad(scores, (0, k), value=-torch.inf), k)
    return rank_items(items, values, k)


def rank_order(items: Int64[Tensor, "B C"], scores: Float[Tensor, "B C"]) -> Int64[Tensor, "B C"]:
    """The places of each row in the order (score descending, item ascending); no NaN.

    >>> rank_order(torch.tensor([[7, 3, 5]]), torch.tensor([[1.0, 1.0, 2.0]])).tolist()
    [[2, 1, 0]]
    """
    items, order = items.sort(dim=1, stable=True)
    return order.gather(1, scores.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
