"""Advantages of candidates: how much better each code was than its alternatives (docs/methods.md section 5).

Pure functions of rewards and of the tree that the candidates of each request form; must not know models, data or
configuration. All statistics are population statistics in float64. Rewards that differ by less than `EQUAL` are equal:
what has no contrast has an advantage of exactly 0, not a rounding error divided by another one.
"""
# R candidates of all requests, V valid ones, L levels, L1 = L + 1, G groups, P pairs

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

EQUAL = 1e-6


class CandidateTree(NamedTuple):
    """Which candidates of the same request share which prefixes.

    Attributes:
        rows: the valid candidates.
        groups: number of the prefix of d codes of each valid candidate, d = 0 to L, from 0 at each depth. Equal numbers
            mean the same codes of the same request; column 0 is the request.
        num_candidates: R.
    """

    rows: Int64[Tensor, " V"]
    groups: Int64[Tensor, "V L1"]
    num_candidates: int

    def spread(self, values: Float[Tensor, "V L"]) -> Float[Tensor, "R L"]:
        """From valid candidates to all; 0 for the others."""
        return values.new_zeros(self.num_candidates, values.shape[1]).index_copy(0, self.rows, values)


def build_candidate_tree(
    codes: Int[Tensor, "R L"], request_index: Int[Tensor, " R"], is_valid: Bool[Tensor, " R"] | None = None
) -> CandidateTree:
    """The prefixes of candidates; the same codes in two requests are two prefixes.

    Args:
        codes: of each candidate, or its trie nodes of depths 1 to L. A candidate may come twice.
        request_index: whose candidate it is, in any order.
        is_valid: false for padding, which belongs to no group; None: all are valid.

    >>> build_candidate_tree(torch.tensor([[0, 5], [0, 7], [0, 5]]), torch.tensor([3, 3, 9])).groups.tolist()
    [[0, 0, 0], [0, 0, 1], [1, 1, 2]]
    """
    rows = torch.arange(len(codes), device=codes.device)
    if is_valid is not None:
        rows = rows[is_valid]
    codes, groups = codes[rows].long(), [_number(request_index[rows].long())]
    for column in codes.unbind(dim=1):
        column = _number(column)
        groups.append(_number(groups[-1] * _count(column) + column))
    return CandidateTree(rows, torch.stack(groups, dim=1), len(request_index))


class Siblings(NamedTuple):
    """The distinct prefixes of one length, each among those that continue the same shorter prefix.

    Attributes:
        of_candidates: the prefix of each valid candidate, a row of the following.
        parents: number of the shorter prefix.
        counts: m, the candidates through it.
        mean_rewards: Rbar, their mean reward.
        is_fork: it has siblings.
    """

    of_candidates: Int64[Tensor, " V"]
    parents: Int64[Tensor, " G"]
    counts: Int64[Tensor, " G"]
    mean_rewards: Float[Tensor, " G"]
    is_fork: Bool[Tensor, " G"]


def find_siblings(rewards: Float[Tensor, " V"], tree: CandidateTree, level: int) -> Siblings:
    """The prefixes of `level` + 1 codes; rewards of the valid candidates, in float64."""
    above, own = tree.groups[:, level], tree.groups[:, level + 1]
    counts = torch.bincount(own)
    parents = torch.zeros_like(counts).scatter(0, own, above)  # all candidates of a prefix write the same number
    is_fork = (torch.bincount(parents) > 1)[parents]
    return Siblings(own, parents, counts, _means(rewards, own), is_fork)


def group_advantages(
    rewards: Float[Tensor, " R"], tree: CandidateTree, *, std_floor: float = 0.0, eps: float = 1e-6
) -> Float[Tensor, "R L"]:
    """GRPO (arXiv 2402.03300): (R_i - mean) / (std + eps) over the candidates of the request, on every code.

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.
        std_floor: the least standard deviation that is divided by.
        eps: added to it.

    Returns:
        Exactly 0 where all candidates of a request have the same reward, for a single candidate, and for padding.

    >>> tree = build_candidate_tree(torch.tensor([[0], [1], [1]]), torch.tensor([0, 0, 1]))
    >>> group_advantages(torch.tensor([1.0, 0.0, 0.7]), tree, eps=0).tolist()
    [[1.0], [-1.0], [0.0]]
    """
    values = _standardise(rewards[tree.rows].double(), tree.groups[:, 0], std_floor, eps)
    return _everywhere(values, tree).to(rewards.dtype)


def sibling_advantages(
    rewards: Float[Tensor, " R"], tree: CandidateTree, *, std_floor: float = 0.0, eps: float = 1e-6
) -> Float[Tensor, "R L"]:
    """V-STAR (arXiv 2602.10699): each code against the codes that candidates of the same request have in its place.

    For a prefix h with two or more distinct next codes v, A(h, v) = (Rbar(v) - mean_v) / (std_v + eps) over the
    siblings, each of them counted once however many candidates m go through it. A(h, v) belongs to the branching code,
    so each of its m candidates carries A(h, v) / m there; 0 where nothing branches.

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.
        std_floor: the least standard deviation that is divided by. With 0 (the paper) two siblings always have
            +1 and -1, however little they differ.
        eps: added to it.

    >>> codes = torch.tensor([[0, 0], [0, 1], [1, 0]])
    >>> tree = build_candidate_tree(codes, torch.tensor([0, 0, 0]))
    >>> sibling_advantages(torch.tensor([1.0, 0.0, 0.0]), tree, eps=0).tolist()
    [[0.5, 1.0], [0.5, -1.0], [-1.0, 0.0]]
    """
    values = _by_level(rewards, tree, std_floor, eps, is_shared=True)
    return tree.spread(values).to(rewards.dtype)


def fork_advantages(
    rewards: Float[Tensor, " R"],
    tree: CandidateTree,
    *,
    group_share: float = 0.5,
    std_floor: float = 0.0,
    eps: float = 1e-6,
) -> Float[Tensor, "R L"]:
    """PORTool (arXiv 2510.26020): a A_group + (1 - a) A_sibling, the whole A(h, v) on every candidate through v.

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.
        group_share: a, in [0, 1]. At 1 these are the group advantages.
        std_floor: as in `sibling_advantages`.
        eps: likewise.
    """
    group = _standardise(rewards[tree.rows].double(), tree.groups[:, 0], std_floor, eps).unsqueeze(1)
    siblings = _by_level(rewards, tree, std_floor, eps, is_shared=False)
    return tree.spread(group_share * group + (1 - group_share) * siblings).to(rewards.dtype)


def tree_td_advantages(
    rewards: Float[Tensor, " R"], tree: CandidateTree, *, std_floor: float = 0.0, eps: float = 1e-6
) -> Float[Tensor, "R L"]:
    """TEMPO (arXiv 2509.18314): A_l = (R_i - mean + Vhat(s_l) - Vhat(s_{l-1})) / (std + eps).

    Vhat(s) is the mean reward of the candidates below s; mean and std are those of the request. Where the tree does not
    branch the second part is exactly 0, and where all rewards of a request are equal everything is.
    """
    own = rewards[tree.rows].double()
    columns = tree.groups.unbind(dim=1)
    values = torch.stack([_means(own, column)[column] for column in columns], dim=1)  # [V, L + 1]
    counts = torch.stack([torch.bincount(column)[column] for column in columns], dim=1)
    gains = values.diff(dim=1).masked_fill(counts.diff(dim=1) == 0, 0.0)
    group = columns[0]
    centred, std, has_signal = _statistics(own, group)
    scale = (std.clamp(min=std_floor) + eps)[group].unsqueeze(1)
    advantages = torch.where(has_signal[group].unsqueeze(1), (centred.unsqueeze(1) + gains) / scale, 0.0)
    return tree.spread(advantages).to(rewards.dtype)


def potential_advantages(
    rewards: Float[Tensor, " R"],
    tree: CandidateTree,
    potentials: Float[Tensor, "R L1"],
    *,
    kappa: float = 1.0,
    limit: float = 1.0,
    ceiling: float = 1.0,
    std_floor: float = 0.0,
    eps: float = 1e-6,
) -> Float[Tensor, "R L"]:
    """SPAE (arXiv 2601.03823): A_group + kappa clip(Phi(s_l) - Phi(s_{l-1}), -d, d) as long as Phi(s_{l-1}) < Phi_max.

    The second part needs no contrast among the rewards, so it is there in groups whose A_group is 0. Without limits it
    telescopes: its sum over the levels is kappa (Phi(s_L) - Phi(s_0)).

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.
        potentials: Phi of the prefixes of 0 to L codes: the probability of the target below the prefix, or its value.
        kappa: weight of the second part.
        limit: d, above 0.
        ceiling: Phi_max; no shaping behind a prefix that is as good as this.
        std_floor: as in `group_advantages`.
        eps: likewise.
    """
    own = potentials[tree.rows].double()
    group = _standardise(rewards[tree.rows].double(), tree.groups[:, 0], std_floor, eps)
    gains = own.diff(dim=1).clamp(-limit, limit).masked_fill(own[:, :-1] >= ceiling, 0.0)
    return tree.spread(group.unsqueeze(1) + kappa * gains).to(rewards.dtype)


def target_potentials(
    target_log_probs: Float[Tensor, "R L"], nodes: Int64[Tensor, "R L"], target_nodes: Int64[Tensor, "R L"]
) -> Float[Tensor, "R L1"]:
    """Phi for `potential_advantages`: the probability that what follows the prefix is the target; 0 off its path.

    Args:
        target_log_probs: of each code of the request's target given those before it.
        nodes: trie nodes of depths 1 to L of each candidate; -1 where there is none.
        target_nodes: of its target.

    Returns:
        Phi of the prefixes of 0 to L codes; the last is 1 for the target and 0 for all others.

    >>> path = torch.tensor([[0, 3], [0, 4]])
    >>> target_potentials(torch.tensor([[0.5, 0.25]]).log().expand(2, -1), path, path[:1].expand(2, -1)).tolist()
    [[0.125, 0.25, 1.0], [0.125, 0.25, 0.0]]
    """
    is_on_path = torch.nn.functional.pad((nodes == target_nodes) & (nodes >= 0), (1, 0), value=True)
    remaining = target_log_probs.flip(1).cumsum(dim=1).flip(1)
    return torch.nn.functional.pad(remaining, (0, 1)).exp() * is_on_path


def progress_advantages(
    rewards: Float[Tensor, " R"],
    tree: CandidateTree,
    progress: Float[Tensor, "R L1"],
    *,
    is_centred: bool = False,
    std_floor: float = 0.0,
    eps: float = 1e-6,
) -> Float[Tensor, "R L"]:
    """SPA (arXiv 2505.20732): the reward shared out among the codes, R (g_l - g_{l-1}); the sum over the levels is R.

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.
        progress: g of the prefixes of 0 to L codes, 0 at the root and 1 at the end.
        is_centred: share out A_group instead of R. Ours: the paper subtracts the estimate of a critic, and without
            one the rewards of a request have no common baseline.
        std_floor: as in `group_advantages`.
        eps: likewise.
    """
    own = rewards[tree.rows].double()
    if is_centred:
        own = _standardise(own, tree.groups[:, 0], std_floor, eps)
    return tree.spread(own.unsqueeze(1) * progress[tree.rows].double().diff(dim=1)).to(rewards.dtype)


def explained_progress(rewards: Float[Tensor, " R"], tree: CandidateTree) -> Float[Tensor, "R L1"]:
    """g for `progress_advantages`: the share of the rewards' variance within requests that the first l codes explain.

    Ours, in place of the network that SPA trains to tell how far a prefix has come. With Vhat(s) the mean reward of the
    candidates below s, g_l = sum (Vhat(s_l) - mean)^2 / sum (Vhat(s_L) - mean)^2 over the candidates of all requests.
    By the law of total variance it never falls. One g for all: what the first code decides is decided there for
    everybody. Without any contrast every code has the same share.

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.

    >>> tree = build_candidate_tree(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), torch.zeros(4, dtype=torch.int64))
    >>> explained_progress(torch.tensor([3.0, 1.0, 0.0, 0.0]), tree)[0].tolist()
    [0.0, 0.6666666865348816, 1.0]
    """
    own = rewards[tree.rows].double()
    columns = tree.groups.unbind(dim=1)
    values = torch.stack([_means(own, column)[column] for column in columns], dim=1)
    explained = (values - values[:, :1]).square().sum(dim=0)
    num_levels = len(columns) - 1
    even = torch.linspace(0, 1, num_levels + 1, dtype=torch.float64, device=rewards.device)
    has_contrast = bool(len(own)) and bool((own - values[:, 0]).abs().max() > EQUAL)
    progress = explained / explained[-1] if has_contrast and explained[-1] > 0 else even
    return progress.to(rewards.dtype).expand(tree.num_candidates, -1)


ADVANTAGES: dict[str, Callable[..., Tensor]] = {
    "group": group_advantages,
    "sibling": sibling_advantages,
    "fork": fork_advantages,
    "tree_td": tree_td_advantages,
    "potential": potential_advantages,
    "progress": progress_advantages,
}


class SiblingPairs(NamedTuple):
    """Codes of which one is better than the other, under one prefix of one request.

    Attributes:
        better: a candidate through the better code.
        worse: a candidate through the worse one.
        levels: where the two part, from 0.
    """

    better: Int64[Tensor, " P"]
    worse: Int64[Tensor, " P"]
    levels: Int64[Tensor, " P"]


def sibling_pairs(rewards: Float[Tensor, " R"], tree: CandidateTree, *, margin: float = 0.0) -> SiblingPairs:
    """The best code under each prefix with each sibling that is worse, by the mean reward of the candidates below.

    Args:
        rewards: of each candidate; those of padding do not matter.
        tree: of the candidates.
        margin: how much worse it has to be, at least `EQUAL`. Of several best siblings the one with the lowest code
            is taken; a prefix whose siblings are all alike gives no pair.
    """
    own = rewards[tree.rows].double()
    found = []
    for level in range(tree.groups.shape[1] - 1):
        siblings = find_siblings(own, tree, level)
        num, numbers = len(siblings.counts), torch.arange(len(siblings.counts), device=own.device)
        best = _extreme(siblings.mean_rewards, siblings.parents, "amax")[siblings.parents]
        is_best = siblings.mean_rewards >= best - EQUAL
        winner = _extreme(torch.where(is_best, numbers, num), siblings.parents, "amin")[siblings.parents]
        candidate = _extreme(tree.rows, siblings.of_candidates, "amin")  # the first one through each prefix
        is_worse = siblings.mean_rewards < siblings.mean_rewards[winner] - max(margin, EQUAL)
        better, worse = candidate[winner[is_worse]], candidate[is_worse]
        found.append((better, worse, torch.full_like(better, level)))
    return SiblingPairs(*(torch.cat(part) for part in zip(*found, strict=True)))


def signal_parts(
    rewards: Float[Tensor, " R"], tree: CandidateTree, *, std_floor: float = 0.0, eps: float = 1e-6
) -> dict[str, Float[Tensor, ""]]:
    """What the candidates have to teach, for the record of a step.

    Returns:
        `zero_signal_share`: requests whose candidates all have the same reward. `duplicate_share`: candidates that are
        not the first with their codes. For each level l from 1, over the prefixes with siblings (0 without any):
        `sibling_variance_level_l`, the variance of A(h, v), and `sibling_std_level_l`, the standard deviation of Rbar
        around the mean of its siblings. All 0 without candidates.
    """
    own = rewards[tree.rows].double()
    group = tree.groups[:, 0]
    _, _, has_signal = _statistics(own, group)
    distinct = _count(tree.groups[:, -1]) / len(own) if len(own) else 1.0
    parts = {
        "zero_signal_share": 1 - _mean(has_signal.double(), empty=1.0),
        "duplicate_share": own.new_tensor(1 - distinct),
    }
    for level in range(tree.groups.shape[1] - 1):
        siblings = find_siblings(own, tree, level)
        centred, _, _ = _statistics(siblings.mean_rewards, siblings.parents)
        advantages = _standardise(siblings.mean_rewards, siblings.parents, std_floor, eps)
        parts[f"sibling_variance_level_{level + 1}"] = _mean(advantages[siblings.is_fork].square())
        parts[f"sibling_std_level_{level + 1}"] = _mean(centred[siblings.is_fork].square()).sqrt()
    return parts


def _by_level(
    rewards: Tensor, tree: CandidateTree, std_floor: float, eps: float, *, is_shared: bool
) -> Float[Tensor, "V L"]:
    """A(h, v) of each code of each valid candidate, divided by the candidates through v if `is_shared`."""
    own, columns = rewards[tree.rows].double(), []
    for level in range(tree.groups.shape[1] - 1):
        siblings = find_siblings(own, tree, level)
        values = _standardise(siblings.mean_rewards, siblings.parents, std_floor, eps)
        if is_shared:
            values = values / siblings.counts
        columns.append(values[siblings.of_candidates])
    return torch.stack(columns, dim=1)


def _everywhere(values: Float[Tensor, " V"], tree: CandidateTree) -> Float[Tensor, "R L"]:
    return tree.spread(values.unsqueeze(1).expand(-1, tree.groups.shape[1] - 1))


def _standardise(values: Tensor, groups: Tensor, std_floor: float, eps: float) -> Tensor:
    """(value - mean) / (max(std, floor) + eps) inside each group, exactly 0 in groups without contrast."""
    centred, std, has_signal = _statistics(values, groups)
    scale = (std.clamp(min=std_floor) + eps)[groups]
    return torch.where(has_signal[groups], centred / scale, 0.0)


def _statistics(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred values, and of each group its standard deviation and whether its values differ."""
    centred = values - _means(values, groups)[groups]
    std = _means(centred.square(), groups).sqrt()
    has_signal = _extreme(values, groups, "amax") - _extreme(values, groups, "amin") > EQUAL
    return centred, std, has_signal


def _means(values: Tensor, groups: Tensor) -> Tensor:
    counts = torch.bincount(groups)
    return values.new_zeros(len(counts)).index_add(0, groups, values) / counts


def _extreme(values: Tensor, groups: Tensor, kind: str) -> Tensor:
    """The largest ("amax") or smallest ("amin") value of each group."""
    return values.new_zeros(_count(groups)).scatter_reduce(0, groups, values, kind, include_self=False)


def _number(keys: Tensor) -> Tensor:
    """Equal keys -> equal numbers from 0, in the order of the keys."""
    return keys.unique(return_inverse=True)[1]


def _count(groups: Tensor) -> int:
    return int(groups.max()) + 1 if len(groups) else 0


def _mean(values: Tensor, empty: float = 0.0) -> Tensor:
    return values.mean() if len(values) else values.new_tensor(empty)
