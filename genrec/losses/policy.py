"""Policy optimisation: ratios, clipping, distance to a reference, preferences (docs/methods.md section 5).

With p the policy, p_old the policy that the candidates came from, and advantages A of `losses.advantages`:

    J = J_group + alpha J_sibling - beta KL(p || p_ref) [+ cross-entropy of the target, from losses.likelihood]

Each term is a `LossOutput` to minimise, and `weighted_sum` puts them together. Pure functions; must not know models,
data or configuration. All log-probabilities are under the normalisation of the model.
"""
# R candidates of all requests, L levels, S nodes, M most children of a node

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.errors import ConfigError
from genrec.losses.advantages import SiblingPairs
from genrec.losses.likelihood import LossOutput

RATIOS = ("token", "prefix_min", "sequence")
CLIPPINGS = ("ppo", "ecpo")
_FARTHEST = 20.0  # of a log-ratio; e^20 is as good as never, and its gradient is a number


@dataclass(frozen=True)
class Clipping:
    """How far a step may move the policy.

    Attributes:
        ratio: "token", "prefix_min" or "sequence": see `log_ratios`.
        kind: "ppo" or "ecpo": see `clipped_terms`.
        low: a ratio below 1 - low is not lowered further.
        high: a ratio above 1 + high is not raised further.
        delta: of ecpo.

    Raises:
        ConfigError: unknown names, numbers out of range, or ecpo on another ratio than that of the tokens.
    """

    ratio: str = "token"
    kind: str = "ppo"
    low: float = 0.2
    high: float = 0.2
    delta: float = 0.1

    def __post_init__(self) -> None:
        for name, value, known in (("ratio", self.ratio, RATIOS), ("clipping", self.kind, CLIPPINGS)):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=", ".join(known), found=repr(value))
        if self.kind == "ecpo" and self.ratio != "token":
            raise ConfigError(
                "ecpo clips the ratio of single tokens",
                expected="the ratio token",
                found=self.ratio,
                fix="take the ratio token, or the clipping ppo",
            )
        if not (0 < self.low < 1 and self.high > 0 and self.delta >= 0):
            found = f"{self.low}, {self.high}, {self.delta}"
            raise ConfigError("wrong clipping", expected="0 < low < 1, high > 0, delta >= 0", found=found)


def code_weights(
    is_valid: Bool[Tensor, " R"],
    level_weights: Float[Tensor, " L"],
    num_hinted: Int64[Tensor, " R"] | None = None,
) -> Float[Tensor, "R L"]:
    """How much each code of each candidate counts in the means of this module.

    Args:
        is_valid: false for padding, which weighs nothing.
        level_weights: of the levels, for example `prefix_weights`.
        num_hinted: leading codes that were given and not drawn (a prefix hint): nothing is learnt from them.
    """
    level_weights = level_weights.to(is_valid.device)
    is_counted = is_valid.unsqueeze(1)
    if num_hinted is not None:
        levels = torch.arange(len(level_weights), device=is_valid.device)
        is_counted = is_counted & (levels >= num_hinted.unsqueeze(1))
    return level_weights * is_counted


def prefix_weights(share: float, num_levels: int, *, floor: float = 0.0) -> Float[Tensor, " L"]:
    """Progressive prefixes (PPPO): the first code alone at share 0, all of them at share 1, one after the other.

    Args:
        share: of the way from the one to the other, in [0, 1].
        num_levels: L.
        floor: weight of a code whose time has not come; 0: it is left out.

    >>> [prefix_weights(share, 3).tolist() for share in (0.0, 0.25, 1.0)]
    [[1.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]
    """
    reached = 1 + share * (num_levels - 1) - torch.arange(num_levels)
    return floor + (1 - floor) * reached.clamp(0, 1)


def log_ratios(
    log_probs: Float[Tensor, "R L"],
    old_log_probs: Float[Tensor, "R L"],
    kind: str,
    is_counted: Bool[Tensor, "R L"] | None = None,
) -> Float[Tensor, "R L"]:
    """Logarithms of the importance ratios of all codes; the gradient of each is that of its own log-probability.

    - token: rho_l = p_l / p_old_l.
    - prefix_min (MinPRO, arXiv 2601.22718): rho_l times the smallest ratio among the codes before it, 1 for the first:
      that the prefix is less likely now lowers the weight of what was done behind it. It is a weight, without gradient.
    - sequence (GSPO, arXiv 2507.18071, in its token form): the geometric mean of the ratios of the candidate as value,
      the gradient of each code for itself, so that advantages may differ by code.

    Args:
        log_probs: of each code given those before it.
        old_log_probs: the same when the candidates were made; no gradient.
        kind: one of `RATIOS`.
        is_counted: codes that were chosen; the others have ratio 1 and no part in the others' ratios. None: all.
    """
    own = log_probs - old_log_probs.detach()
    if is_counted is None:
        is_counted = torch.ones_like(own, dtype=torch.bool)
    own = torch.where(is_counted, own, 0.0).clamp(-_FARTHEST, _FARTHEST)
    value = own.detach()
    if kind == "token":
        return own
    if kind == "prefix_min":
        least = torch.where(is_counted, value, torch.inf).cummin(dim=1).values[:, :-1]
        return own + F.pad(least.masked_fill(least == torch.inf, 0.0), (1, 0))
    assert kind == "sequence", kind
    mean = value.sum(dim=1, keepdim=True) / is_counted.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(is_counted, own - value + mean, 0.0)


def clipped_terms(
    log_ratio: Float[Tensor, "R L"], advantages: Float[Tensor, "R L"], clipping: Clipping
) -> tuple[Float[Tensor, "R L"], Bool[Tensor, "R L"]]:
    """min(rho A, clip(rho, 1 - low, 1 + high) A) of each code, and where it differs from rho A.

    PPO's minimum leaves one way open: a bad code (A < 0) whose ratio has grown is pushed down with the whole ratio.
    ecpo (OneRec, arXiv 2506.13695) bounds it: for A < 0, p_old is replaced by max(p_old, sg(p) / (1 + high + delta)).
    """
    ratio = log_ratio.exp()
    if clipping.kind == "ecpo":
        most = 1 + clipping.high + clipping.delta
        is_bounded = (advantages < 0) & (ratio > most)
        # p / (sg(p) / most): its value is `most`, and its gradient that of `most` log p.
        ratio = torch.where(is_bounded, most * (log_ratio - log_ratio.detach()).exp(), ratio)
    else:
        is_bounded = torch.zeros_like(ratio, dtype=torch.bool)
    free, held = ratio * advantages, ratio.clamp(1 - clipping.low, 1 + clipping.high) * advantages
    is_held = held < free
    return torch.where(is_held, held, free), is_held | is_bounded


def policy_loss(
    log_probs: Float[Tensor, "R L"],
    old_log_probs: Float[Tensor, "R L"],
    weights: Float[Tensor, "R L"],
    advantages: Float[Tensor, "R L"],
    *,
    siblings: Float[Tensor, "R L"] | None = None,
    alpha: float = 1.0,
    clipping: Clipping | None = None,
) -> LossOutput:
    """-(J_group + alpha J_sibling), each the weighted mean over all codes of all candidates of clipped terms.

    With `sibling_advantages`, whose A(h, v) / m is on each of m candidates, J_sibling counts every (h, v) once. It is
    divided by the same number of codes as J_group, so a batch that branches less moves less (ours).

    At ratio 1 the gradient is that of REINFORCE: -A grad log p, for every ratio and clipping.

    Args:
        log_probs: of each code given those before it; those of weight 0 may be anything.
        old_log_probs: the same when the candidates were made.
        weights: from `code_weights`.
        advantages: of J_group, by any of `losses.advantages`.
        siblings: of J_sibling; None: without it.
        alpha: its weight.
        clipping: None: PPO's, on the ratio of each token.

    Returns:
        The loss, 0 without candidates. Parts: `policy_group` and `policy_sibling`, the two J; `clip_share`, of the
        terms that have an advantage; `mean_ratio` and `max_ratio` of the codes that count, 1 without any.
    """
    clipping = Clipping() if clipping is None else clipping
    is_counted = weights > 0
    log_ratio = log_ratios(log_probs, old_log_probs, clipping.ratio, is_counted)
    total = weights.sum()
    total = torch.where(total > 0, total, 1.0)

    def objective(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = torch.where(is_counted, values, 0.0).detach()
        terms, is_clipped = clipped_terms(log_ratio, values, clipping)
        has_signal = values != 0
        return (weights * terms).sum() / total, (is_clipped & has_signal).sum(), has_signal.sum()

    group, num_clipped, num_terms = objective(advantages)
    loss, parts = -group, {"policy_group": group.detach()}
    if siblings is not None:
        sibling, more_clipped, more_terms = objective(siblings)
        loss = loss - alpha * sibling
        num_clipped, num_terms = num_clipped + more_clipped, num_terms + more_terms
        parts["policy_sibling"] = sibling.detach()
    ratios = log_ratio.detach().exp()[is_counted]
    parts["clip_share"] = num_clipped / num_terms.clamp(min=1)
    parts["mean_ratio"] = ratios.mean() if len(ratios) else ratios.new_ones(())
    parts["max_ratio"] = ratios.max() if len(ratios) else ratios.new_ones(())
    return LossOutput(loss, parts)


def exact_kl(
    log_probs: Sequence[Float[Tensor, "... _"]],
    reference: Sequence[Float[Tensor, "... _"]],
    is_visited: Sequence[Bool[Tensor, "..."]],
    *,
    has_rest: bool = False,
) -> LossOutput:
    """sum_v p(v) log(p(v) / p_ref(v)) over the children v of each visited node, the mean over the nodes of all levels.

    Args:
        log_probs: a tensor a level, [..., M]: of the children of some nodes, -inf as padding.
        reference: of the same children; no gradient.
        is_visited: the nodes that count, each as often as it is given. A node with one child diverges from nothing.
        has_rest: the children do not have all the probability (normalisation `vocabulary`). What is left is then one
            more outcome, and the sum a lower bound of the divergence over all codes.

    Returns:
        The divergence, 0 without nodes, infinite if the reference excludes a child that the policy does not. Parts
        `kl` and `entropy`, the mean of -sum_v p(v) log p(v) in nats.
    """
    sums = []
    for own, other, counts in zip(log_probs, reference, is_visited, strict=True):
        own, other = own[counts], other[counts].detach()
        if has_rest:
            own, other = (torch.cat([part, _log_rest(part)], dim=1) for part in (own, other))
        is_possible = own.exp() > 0  # neither padding nor a probability that underflows
        safe = torch.where(is_possible, own, 0.0)
        probs = safe.exp() * is_possible
        differences = safe - torch.where(is_possible, other, 0.0)
        sums.append(torch.stack([(probs * differences).sum(), -(probs * safe).detach().sum()]))
    num_nodes = max(1, sum(int(counts.sum()) for counts in is_visited))
    kl, entropy = torch.stack(sums).sum(dim=0) / num_nodes
    return LossOutput(kl, {"kl": kl.detach(), "entropy": entropy.detach()})


def sampled_kl(
    log_probs: Float[Tensor, "R L"], reference: Float[Tensor, "R L"], weights: Float[Tensor, "R L"]
) -> LossOutput:
    """k3 (Schulman 2020): p_ref / p - log(p_ref / p) - 1 of each code, the weighted mean; at least 0.

    Its expectation is KL(p || p_ref) for codes drawn from p; for candidates of a search it is no estimate of anything.

    Returns:
        The loss, 0 without codes that count; part `kl`.
    """
    own = torch.where(weights > 0, reference.detach() - log_probs, 0.0).clamp(-_FARTHEST, _FARTHEST)
    total = weights.sum()
    kl = (weights * (own.exp() - own - 1)).sum() / torch.where(total > 0, total, 1.0)
    return LossOutput(kl, {"kl": kl.detach()})


def step_preference(
    log_probs: Float[Tensor, "R L"], reference: Float[Tensor, "R L"], pairs: SiblingPairs, *, beta: float = 0.1
) -> LossOutput:
    """DPO (arXiv 2305.18290) on single codes, as Step-DPO: the better sibling against a worse one behind one prefix.

    -log sigmoid(beta [log p(v+) / p_ref(v+) - log p(v-) / p_ref(v-)]), the mean over the pairs. All that comes before
    the two is common to them, and all that comes after is left out. An alternative to `policy_loss`: it needs neither
    ratios nor old log-probabilities.

    Args:
        log_probs: of each code given those before it.
        reference: the same under p_ref; no gradient.
        pairs: from `sibling_pairs`.
        beta: above 0.

    Returns:
        The loss, 0 without pairs. Parts `preference_accuracy`, pairs in which the better one has gained on the worse
        one (ties half), and `num_pairs`.
    """
    gains = log_probs - reference.detach()
    margins = gains[pairs.better, pairs.levels] - gains[pairs.worse, pairs.levels]
    num_pairs = max(1, len(margins))
    wins = (margins.detach() > 0).sum() + 0.5 * (margins.detach() == 0).sum()
    parts = {"preference_accuracy": wins / num_pairs, "num_pairs": wins.new_tensor(len(margins))}
    return LossOutput(-F.logsigmoid(beta * margins).sum() / num_pairs, parts)


def weighted_sum(terms: Iterable[tuple[float, LossOutput]]) -> LossOutput:
    """sum weight * loss, with the parts of all terms; a term of weight 0 is only recorded, and gets no gradient.

    >>> far = LossOutput(torch.tensor(4.0), {"kl": torch.tensor(4.0)})
    >>> total = weighted_sum([(1.0, LossOutput(torch.tensor(2.0), {})), (0.5, far)])
    >>> total.loss, total.parts
    (tensor(4.), {'kl': tensor(4.)})
    """
    total, parts = None, {}
    for weight, term in terms:
        assert not parts.keys() & term.parts.keys(), "two terms with parts of one name"
        parts |= term.parts
        if weight:
            total = weight * term.loss if total is None else total + weight * term.loss
    assert total is not None, "nothing to minimise"
    return LossOutput(total, parts)


def _log_rest(log_probs: Float[Tensor, "S M"]) -> Float[Tensor, "S 1"]:
    """log(1 - sum p), with the rest at least as large as rounding can tell from 0."""
    total = log_probs.exp().sum(dim=1, keepdim=True)
    return (1 - total).clamp(min=torch.finfo(total.dtype).eps).log()
