"""APAO's prefix-aware losses and their adaptive weights (arXiv 2603.02730; docs/methods.md section 3): pure functions.

A search keeps an item only as long as each of its prefixes is kept, so every prefix depth t = 1..L has a loss L_t of
its own, and the total is

    cross-entropy + beta sum_t w_t L_t

with weights w on the simplex that lean towards the depths that are worst. Codes alone are scored: where a model has an
end token, it is no depth here. Must not know models, data or configuration.
"""
# P targets, C candidates (the target and C - 1 negatives), L depths

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class PairwiseLosses(NamedTuple):
    """Of targets against negatives, by depth.

    Attributes:
        losses: L_t, the mean over the targets; with a gradient.
        auc: how often a target's prefix has a higher score than a negative's, ties half.
        mrr: mean of 1 / (1 + negatives whose prefix scores at least as high as the target's).
    """

    losses: Float[Tensor, " L"]
    auc: Float[Tensor, " L"]
    mrr: Float[Tensor, " L"]


def pointwise_losses(log_probs: Float[Tensor, "P L"]) -> Float[Tensor, " L"]:
    """L_t = -(1/t) sum_{j <= t} log p_j for t = 1..L, the mean over the targets; 0 without any.

    >>> pointwise_losses(torch.tensor([[-1.0, -3.0], [-3.0, -5.0]])).tolist()
    [2.0, 3.0]
    """
    depths = torch.arange(1, log_probs.shape[1] + 1, device=log_probs.device)
    return -log_probs.sum(dim=0).cumsum(dim=0) / depths / max(len(log_probs), 1)


def pairwise_losses(
    log_probs: Float[Tensor, "P C L"],
    nodes: Int64[Tensor, "P C L"],
    num_prefixes: Sequence[int],
    *,
    temperature: float = 1.0,
    depth_scaled: bool = True,
) -> PairwiseLosses:
    """A softmax of the target's prefix against those of sampled items, depth by depth.

    With S_t(y) = sum_{j <= t} log p_j of item y, target y and sampled items n of which m_t are left unmasked:

        L_t = -log [ e^(S_t(y) / tau) / ( e^(S_t(y) / tau) + (V_t - 1) / m_t  sum_n e^(S_t(n) / tau) ) ]

    A negative is masked at depth t if its prefix there is the target's, or that of an earlier negative. L_t is 0 for a
    target without an unmasked negative. Deviation: none from the authors' code, whose further 1 / t the paper does not
    have: `depth_scaled`.

    Args:
        log_probs: of each code of each candidate given the codes before it; the target is candidate 0.
        nodes: which prefix the first t codes of each candidate are: equal numbers at a depth, equal prefixes.
        num_prefixes: V_t, the distinct prefixes of t codes in the catalogue.
        temperature: tau_pair.
        depth_scaled: divide L_t by t.
    """
    scores = log_probs.cumsum(dim=2)
    is_negative = first_of_its_kind(nodes)[:, 1:]
    count = is_negative.sum(dim=1)  # [P, L]
    has_negative = count > 0
    target, others = scores[:, 0] / temperature, scores[:, 1:] / temperature
    # A target without negatives keeps finite numbers, or its gradient would be NaN instead of 0.
    others = others.masked_fill(~is_negative & has_negative.unsqueeze(1), -torch.inf)
    total = torch.tensor(num_prefixes, device=scores.device) - 1
    scale = (total / count.clamp(min=1)).clamp(min=torch.finfo(scores.dtype).tiny).to(scores.dtype)
    losses = F.softplus(others.logsumexp(dim=1) + scale.log() - target) if others.shape[1] else 0 * target
    losses = torch.where(has_negative, losses, 0.0)
    if depth_scaled:
        losses = losses / torch.arange(1, losses.shape[1] + 1, device=losses.device)
    return PairwiseLosses(losses.sum(dim=0) / max(len(losses), 1), *prefix_ranks(scores.detach(), is_negative))


def first_of_its_kind(nodes: Int64[Tensor, "P C L"]) -> Bool[Tensor, "P C L"]:
    """Whether no earlier candidate has the same prefix.

    >>> first_of_its_kind(torch.tensor([[[4], [7], [4], [7], [1]]])).flatten().tolist()
    [True, True, False, False, True]
    """
    ordered, order = nodes.sort(dim=1, stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(is_first).scatter_(1, order, is_first)


def prefix_ranks(
    scores: Float[Tensor, "P C L"], is_negative: Bool[Tensor, "P N L"]
) -> tuple[Float[Tensor, " L"], Float[Tensor, " L"]]:
    """AUC and MRR of each depth, over the targets that have a negative there; 1 where none has.

    Args:
        scores: S_t of each candidate, the target first.
        is_negative: which of the other N = C - 1 count.
    """
    target, others = scores[:, :1], scores[:, 1:]
    is_better, is_equal = (others > target) & is_negative, (others == target) & is_negative
    count = is_negative.sum(dim=1)
    has_negative = (count > 0).to(scores.dtype)
    num_targets = has_negative.sum(dim=0)
    won = 1 - (is_better.sum(dim=1) + 0.5 * is_equal.sum(dim=1)) / count.clamp(min=1)
    reciprocal = 1.0 / (1 + is_better.sum(dim=1) + is_equal.sum(dim=1))
    auc, mrr = ((part * has_negative).sum(dim=0) / num_targets.clamp(min=1) for part in (won, reciprocal))
    return torch.where(num_targets > 0, auc, 1.0), torch.where(num_targets > 0, mrr, 1.0)


def persistent_weights(weights: Float[Tensor, " L"], losses: Float[Tensor, " L"], rate: float) -> Float[Tensor, " L"]:
    """One step of mirror ascent on the simplex: w_t exp(eta L_t) / Z (the paper); no gradient flows through it.

    >>> persistent_weights(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 200.0]), 1.0).tolist()
    [0.0, 1.0]
    """
    return (weights.log() + rate * losses.detach()).softmax(dim=0)


def stateless_weights(losses: Float[Tensor, " L"], rate: float) -> Float[Tensor, " L"]:
    """w_t proportional to L_t exp(eta L_t) (the authors' code), uniform if all are 0; no gradient flows through it."""
    losses = losses.detach().clamp(min=0)
    largest = losses.max()
    shares = losses / largest.clamp(min=torch.finfo(losses.dtype).tiny)  # relative, so that nothing underflows
    weights = shares * (rate * (losses - largest)).exp()
    return torch.where(largest >= torch.finfo(losses.dtype).tiny, weights / weights.sum(), 1.0 / len(losses))
