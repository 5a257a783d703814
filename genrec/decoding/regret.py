"""What a list of candidates misses of the exact one, and what would be wrong with it.

Functions of scores and items; must not know how either was found.
"""
# B requests, N items, k candidates

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.decoding.selection import rank_items, select_best
from genrec.semantic_ids.constraints import Constraint

_ROUNDING = 1e-5  # nats, of log-probabilities that were summed in another order


class ListRegret(NamedTuple):
    """The exact list of the k best items against the one that was found; all at least 0.

    Both are sorted by the exact scores, so at every place the exact one is as good or better.

    Attributes:
        log_prob: mean difference of the log-probabilities, in nats, over the places that the found list has; 0 for an
            empty one.
        top: that of the first place; 0 for an empty list.
        mass: probability of the exact list minus that of the found one.
        num_missing: places that the exact list has and the found one has not.
        overlap: share of the items of the exact list that were found; 1 where it is empty.
        is_same: nothing is missing, and no place is worse, up to rounding: equal scores may have changed places.
    """

    log_prob: Float[Tensor, " B"]
    top: Float[Tensor, " B"]
    mass: Float[Tensor, " B"]
    num_missing: Int64[Tensor, " B"]
    overlap: Float[Tensor, " B"]
    is_same: Bool[Tensor, " B"]


def list_regret(scores: Float[Tensor, "B N"], items: Int64[Tensor, "B k"]) -> ListRegret:
    """Regret of a found list.

    Args:
        scores: exact log-probabilities of all items, -inf where a request may not get the item.
        items: the found list, distinct and admissible, in any order; -1 as padding.

    >>> scores = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> found = list_regret(scores, torch.tensor([[1, 0]])), list_regret(scores, torch.tensor([[2, 0]]))
    >>> [round(each.mass.item(), 3) for each in found], [each.overlap.item() for each in found]
    ([0.0, 0.1], [1.0, 0.5])
    """
    k = min(items.shape[1], scores.shape[1])
    best, best_items = select_best(scores, k)
    best_items, best = rank_items(best_items, best, k)
    best = best.double()
    own = scores.gather(1, items.clamp(min=0)).masked_fill(items < 0, -torch.inf)
    own = own.sort(dim=1, descending=True).values[:, :k].double()
    is_there, is_best = own > -torch.inf, best > -torch.inf
    gap = torch.where(is_there, best - own, 0.0)
    num_missing = (is_best & ~is_there).sum(dim=1)
    is_found = ((best_items.unsqueeze(2) == items.unsqueeze(1)).any(dim=2) & is_best).sum(dim=1)
    size = is_best.sum(dim=1)
    return ListRegret(
        log_prob=gap.sum(dim=1) / is_there.sum(dim=1).clamp(min=1),
        top=gap[:, 0],
        mass=(best.exp() - own.exp()).sum(dim=1),
        num_missing=num_missing,
        overlap=torch.where(size > 0, is_found / size.clamp(min=1), 1.0),
        is_same=(num_missing == 0) & (gap <= _ROUNDING).all(dim=1),
    )


class ListFaults(NamedTuple):
    """How many places of a list have something that must not be there. Searches over a trie have none, by construction.

    Attributes:
        invalid: no item of the catalogue, or one that the request may not get.
        duplicate: an item that an earlier place has.
        empty: no item, as fewer were found than asked for; no fault if there are no more.
    """

    invalid: Int64[Tensor, " B"]
    duplicate: Int64[Tensor, " B"]
    empty: Int64[Tensor, " B"]


def list_faults(items: Int64[Tensor, "B k"], num_items: int, constraint: Constraint | None = None) -> ListFaults:
    """Counts the faults of lists of item_index, -1 as padding.

    >>> [count.tolist() for count in list_faults(torch.tensor([[2, 2, 9, -1]]), 5)]
    [[1], [1], [1]]
    """
    is_item = (items >= 0) & (items < num_items)
    is_valid = is_item
    if constraint is not None:
        is_valid = is_item & constraint.is_admissible(torch.where(is_item, items, -1))
    is_empty = items == -1
    is_equal = (items.unsqueeze(2) == items.unsqueeze(1)) & ~is_empty.unsqueeze(1)
    is_repeat = is_equal.tril(diagonal=-1).any(dim=2)
    return ListFaults(*(flag.sum(dim=1) for flag in (~is_valid & ~is_empty, is_repeat, is_empty)))
