"""Likelihood losses (docs/methods.md section 2), as pure functions.

Must not know models, tries, data or configuration: log-probabilities or logits in, a scalar and its parts out.
"""
# B any leading axes, L levels, K codes of a level

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossOutput:
    """A loss and what to write down beside it.

    Attributes:
        loss: scalar to minimise.
        parts: detached scalars by name.
    """

    loss: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def token_cross_entropy(
    log_probs: Float[Tensor, "*B L"],
    is_valid: Bool[Tensor, "*B"],
    *,
    means: Float[Tensor, "*B L"] | None = None,
    label_smoothing: float = 0.0,
    level_weights: Sequence[float] | None = None,
) -> LossOutput:
    """sum_l a_l ((1 - e) (-log p_l) + e (-m_l)) / sum_l a_l, the mean over the valid targets; 0 without any.

    Without smoothing and with equal weights it is -(1/L) sum_l log p_l. Under log-probabilities normalised over all
    codes this is token cross-entropy, under those normalised over the children in the trie it is MSL's trie-normalised
    cross-entropy: which of the two is a property of the model.

    Args:
        log_probs: log-probability of each code of each target.
        is_valid: false for padding, whose values do not matter and get no gradient.
        means: m, the mean log-probability of all that the softmax of the level runs over, the target included; for
            label smoothing.
        label_smoothing: e, in [0, 1].
        level_weights: a, a number a level, not all 0; None: 1 each.

    Returns:
        The loss; parts `nll`, the negative log-likelihood of a whole target in nats, and `nll_level_1` to L, neither
        smoothed nor weighted.

    >>> output = token_cross_entropy(torch.tensor([[-1.0, -3.0], [-9.0, torch.nan]]), torch.tensor([True, False]))
    >>> output.loss.item(), {name: part.item() for name, part in output.parts.items()}
    (2.0, {'nll': 4.0, 'nll_level_1': 1.0, 'nll_level_2': 3.0})
    """
    num_valid = is_valid.sum().clamp(min=1)
    by_level = -log_probs[is_valid].sum(dim=0) / num_valid
    detached = by_level.detach()
    parts = {"nll": detached.sum()}
    parts |= {f"nll_level_{level}": part for level, part in enumerate(detached, start=1)}
    if label_smoothing:
        assert means is not None, "label smoothing needs the means"
        smoothed = -means[is_valid].sum(dim=0) / num_valid
        by_level = (1 - label_smoothing) * by_level + label_smoothing * smoothed
    if level_weights is None:
        return LossOutput(by_level.mean(), parts)
    weights = torch.tensor(level_weights, dtype=by_level.dtype, device=by_level.device)
    return LossOutput((by_level * weights).sum() / weights.sum(), parts)


def log_probs_of_codes(
    logits: Float[Tensor, "*B K"],
    codes: Int64[Tensor, "*B"],
    is_child: Bool[Tensor, "*B K"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "*B"]:
    """Log-probability of one code, normalised over all codes or over the children of its prefix (MSL).

    For models that give a logit for each code of the level. A code that is no child has no part in the softmax and gets
    no gradient.

    Args:
        logits: of all codes of the level.
        codes: the target's code, a child wherever the result is used; below 0 where there is no target.
        is_child: the codes that continue the target's prefix in the catalogue; None: all (vocabulary normalisation).
        temperature: tau_msl, which divides the logits.

    Returns:
        log softmax(logits / temperature)[code], 0 where there is no target.

    >>> logits, is_child = torch.zeros(1, 4), torch.tensor([[True, False, True, False]])
    >>> log_probs_of_codes(logits, torch.tensor([2]), is_child).exp()
    tensor([0.5000])
    >>> log_probs_of_codes(logits, torch.tensor([2])).exp()
    tensor([0.2500])
    """
    has_target = codes >= 0
    scores = logits.float() / temperature
    if is_child is not None:
        # A row without target may have no child; it must not become NaN, not even in the backward pass.
        scores = scores.masked_fill(~is_child & has_target.unsqueeze(-1), -torch.inf)
    log_probs = scores.log_softmax(dim=-1).gather(-1, codes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(has_target, log_probs, 0.0)


def trie_cross_entropy(
    logits: Float[Tensor, "*B L K"],
    codes: Int64[Tensor, "*B L"],
    is_child: Bool[Tensor, "*B L K"],
    *,
    temperature: float = 1.0,
) -> LossOutput:
    """MSL: token cross-entropy whose softmax runs over the children of the target's prefix.

    Args:
        logits: of all codes; levels with fewer than K codes have no children beyond their own.
        codes: of each target; a row of -1 is padding.
        is_child: the codes that continue the target's prefix in the catalogue.
        temperature: tau_msl.
    """
    log_probs = log_probs_of_codes(logits, codes, is_child, temperature=temperature)
    return token_cross_entropy(log_probs, (codes >= 0).all(dim=-1))
