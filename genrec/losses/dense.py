"""Losses of dense recommenders, as pure functions: vectors and targets in, a scalar and its parts out.

The score of an item is the inner product of query and item vector; temperatures are in the vectors. Must not know
models, data or configuration, and draws nothing.
"""
# P positions with a target, N items, D width, S negatives that all positions share, n negatives of a position

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from genrec.losses.likelihood import LossOutput


def full_softmax(
    queries: Float[Tensor, "P D"],
    items: Float[Tensor, "N D"],
    targets: Int64[Tensor, " P"],
    *,
    label_smoothing: float = 0.0,
) -> LossOutput:
    """Cross-entropy over the whole catalogue: the mean of (1 - e) (-log p) + e mean_j (-log p_j); 0 without a target.

    Args:
        queries: one a target.
        items: of the catalogue.
        targets: item_index.
        label_smoothing: e, in [0, 1].

    Returns:
        The loss; part `nll`, not smoothed.

    >>> output = full_softmax(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 3]))
    >>> output.loss.exp(), output.parts["nll"].exp()
    (tensor(4.), tensor(4.))
    """
    log_probs = (queries @ items.T).float().log_softmax(dim=-1)
    nll = _mean(-log_probs.gather(1, targets.unsqueeze(1)))
    loss = nll
    if label_smoothing:
        loss = (1 - label_smoothing) * nll + label_smoothing * _mean(-log_probs.mean(dim=1))
    return LossOutput(loss, {"nll": nll.detach()})


def sampled_softmax(
    queries: Float[Tensor, "P D"],
    items: Float[Tensor, "N D"],
    targets: Int64[Tensor, " P"],
    negatives: Int64[Tensor, " S"],
    log_q: Float[Tensor, " N"] | None = None,
) -> LossOutput:
    """Cross-entropy of the target against sampled items that all positions share.

    With `log_q` the normaliser is exp(s_target) + sum_j exp(s_j) / (S q_j) over the negatives that are not the target:
    an unbiased estimate of that of the full softmax. The target is not corrected, since it is not sampled (Bengio and
    Senecal 2008, eq. 7, apart from that). Without `log_q` the negatives count as they are, so popular items are pushed
    down the more often they are drawn.

    Args:
        queries: one a target.
        items: of the catalogue.
        targets: item_index.
        negatives: item_index, drawn with replacement from q.
        log_q: log-probability of each item in that draw; None: no correction.

    Returns:
        The loss, 0 without a target; part `nll`, the same.

    >>> queries, items = torch.ones(1, 1), torch.tensor([[0.3], [-1.0], [0.2]])
    >>> uniform = torch.full((3,), 1 / 3).log()
    >>> sampled = sampled_softmax(queries, items, torch.tensor([1]), torch.arange(3), uniform).loss
    >>> torch.isclose(sampled, full_softmax(queries, items, torch.tensor([1])).loss)
    tensor(True)
    """
    positive = (queries * items[targets]).sum(dim=1, keepdim=True)
    scores = queries @ items[negatives].T
    if log_q is not None:
        num_drawn = torch.tensor(float(len(negatives)), device=scores.device)
        scores = scores - (log_q[negatives] + num_drawn.log())
    scores = scores.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)
    log_probs = torch.cat([positive, scores], dim=1).float().log_softmax(dim=1)
    nll = _mean(-log_probs[:, 0])
    return LossOutput(nll, {"nll": nll.detach()})


def generalised_bce(
    queries: Float[Tensor, "P D"],
    items: Float[Tensor, "N D"],
    targets: Int64[Tensor, " P"],
    negatives: Int64[Tensor, "P n"],
    *,
    calibration: float = 0.75,
) -> LossOutput:
    """gBCE: -b log s(positive) - sum_j log(1 - s(negative_j)); Petrov and Macdonald 2023, arXiv 2308.07192, section 5.

    s is the sigmoid; b = a (t (1 - 1/a) + 1/a), with a = n / (N - 1) the sampling rate and t the calibration: b = 1 at
    t = 0 (plain binary cross-entropy), b = a at t = 1, where the sigmoids estimate true probabilities. Negatives that
    are the target do not count.

    Args:
        queries: one a target.
        items: of the catalogue.
        targets: item_index.
        negatives: uniform item_index.
        calibration: t, in [0, 1].

    Returns:
        The loss, the mean over the targets, 0 without one; parts `positive` and `negative`, its two terms.
    """
    rate = negatives.shape[1] / max(1, items.shape[0] - 1)
    power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    positive = (queries * items[targets]).sum(dim=1).float()
    scores = (items[negatives] @ queries.unsqueeze(2)).squeeze(2).float()
    counts = negatives != targets.unsqueeze(1)
    terms = -power * _mean(F.logsigmoid(positive)), -_mean((F.logsigmoid(-scores) * counts).sum(dim=1))
    return LossOutput(terms[0] + terms[1], {"positive": terms[0].detach(), "negative": terms[1].detach()})


def _mean(values: Tensor) -> Tensor:
    """0 of nothing."""
    return values.sum() / max(1, values.shape[0])
