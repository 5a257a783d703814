"""What a prefix is worth: dense semantic rewards and the TD(0) loss of a value head (docs/methods.md section 4).

With V the value head of V-STAR (arXiv 2602.10699) and r_l the reward for arriving in the state s_l after l codes:

    ( V(s_l) - sg[ r_l + gamma V(s_{l+1}) ] )^2,  l = 0 to L,  r_0 = 0,  V(s_{L+1}) = 0

so V(s_l) counts the reward for arriving in s_l and all that is still to come. These rewards train V alone, never the
policy. Pure functions; must not know models, data or configuration.
"""
# R candidates, L levels, L1 = L + 1, N items, E width of the item embeddings, n_d nodes of depth d

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.losses.likelihood import LossOutput

WEIGHTS = (0.3, 0.5, 1.0)


def level_weights(num_levels: int, weights: Sequence[float] = WEIGHTS) -> Float[Tensor, " L"]:
    """w_l of L levels: the given weights, interpolated over (l - 1) / (L - 1); the last one alone where L is 1.

    >>> level_weights(5).tolist()
    [0.30000001192092896, 0.4000000059604645, 0.5, 0.75, 1.0]
    >>> level_weights(1).tolist()
    [1.0]
    """
    given, last = torch.tensor(weights), len(weights) - 1
    place = torch.linspace(0, last, num_levels) if num_levels > 1 else torch.tensor([float(last)])
    below = place.floor().long().clamp(max=max(last - 1, 0))
    return torch.lerp(given[below], given[(below + 1).clamp(max=last)], place - below)


def mean_embeddings(
    embeddings: Float[Tensor, "N E"], item_order: Int64[Tensor, " N"], item_offsets: Sequence[Int64[Tensor, " _"]]
) -> tuple[Float[Tensor, "_ E"], ...]:
    """Mean embedding of the items under every node of the trie, by prefix sums in float64 over the trie's order.

    Args:
        embeddings: by item_index.
        item_order: of the trie.
        item_offsets: of the trie: node n of depth d holds the places item_offsets[d][n] to item_offsets[d][n + 1] - 1.

    Returns:
        L + 1 tensors [n_d, E], d = 0 to L.
    """
    sums = embeddings.new_zeros(len(embeddings) + 1, embeddings.shape[1], dtype=torch.float64)
    torch.cumsum(embeddings[item_order], dim=0, dtype=torch.float64, out=sums[1:])
    return tuple(
        (sums[offsets].diff(dim=0) / offsets.diff().unsqueeze(1)).to(embeddings.dtype) for offsets in item_offsets
    )


def dense_rewards(
    nodes: Int64[Tensor, "R L"],
    target_nodes: Int64[Tensor, "R L"],
    target_embeddings: Float[Tensor, "R E"],
    means: Sequence[Float[Tensor, "_ E"]],
    weights: Float[Tensor, " L"],
) -> Float[Tensor, "R L"]:
    """r_l = w_l on the target's prefix, else -w_l (1 - cos(mean embedding below the prefix, the target's embedding)).

    So r_l is in [-2 w_l, w_l], and a prefix off the target's path never has more than 0.

    Args:
        nodes: trie nodes of depths 1 to L of each candidate; -1 where there is none, with reward 0.
        target_nodes: of its target; -1 for a target that the catalogue does not have.
        target_embeddings: of its target.
        means: from `mean_embeddings`.
        weights: w_l, from `level_weights`.
    """
    columns = []
    for level, (own, target) in enumerate(zip(nodes.unbind(dim=1), target_nodes.unbind(dim=1), strict=True)):
        below = means[level + 1][own.clamp(min=0)]
        similarity = F.cosine_similarity(below, target_embeddings, dim=1).clamp(-1, 1)
        reward = torch.where(own == target, 1.0, similarity - 1)
        columns.append(weights[level] * reward.masked_fill(own < 0, 0.0))
    return torch.stack(columns, dim=1)


def td_targets(
    rewards: Float[Tensor, "R L"], values: Float[Tensor, "R L1"], *, gamma: float = 0.99
) -> Float[Tensor, "R L1"]:
    """r_l + gamma V(s_{l+1}) of the states s_0 to s_L of each candidate; no gradient.

    >>> td_targets(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 6.0, 7.0]]), gamma=0.5).tolist()
    [[3.0, 4.5, 2.0]]
    """
    return F.pad(rewards, (1, 0)).to(values.dtype) + gamma * F.pad(values.detach()[:, 1:], (0, 1))


def td_loss(
    values: Float[Tensor, "R L1"],
    rewards: Float[Tensor, "R L"],
    is_valid: Bool[Tensor, " R"],
    *,
    gamma: float = 0.99,
) -> LossOutput:
    """The squared TD(0) error, the mean over the states s_0 to s_L of the valid candidates; 0 without any.

    A state that several candidates pass through counts once for each of them.

    Args:
        values: V(s_0) to V(s_L) along each candidate.
        rewards: r_1 to r_L, from `dense_rewards`.
        is_valid: false for padding.
        gamma: discount, in [0, 1].

    Returns:
        The loss. Parts `value`, the same number; `value_error_depth_0` to L, the mean absolute errors; `value_mean`.
    """
    own = values[is_valid]
    errors = own - td_targets(rewards[is_valid], own, gamma=gamma)
    num_candidates = max(1, len(own))
    loss = errors.square().sum() / (num_candidates * values.shape[1])
    by_depth = errors.detach().abs().sum(dim=0) / num_candidates
    parts = {"value": loss.detach(), "value_mean": own.detach().sum() / (num_candidates * values.shape[1])}
    parts |= {f"value_error_depth_{depth}": error for depth, error in enumerate(by_depth)}
    return LossOutput(loss, parts)
