"""Rewards of candidates, by name (docs/methods.md section 5); each in [-1, 1], and so is their weighted mean.

Functions of item numbers, log-probabilities, the trie and item embeddings; must not know models or configuration.
Reward that a collaborative model's scores give gets hacked, so there is none.
"""
# B requests, k candidates, N items, E width of the item embeddings, L levels

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie


class Answers(NamedTuple):
    """What is judged.

    Attributes:
        items: item_index of the candidates; -1 as padding, whose reward is 0.
        log_probs: of the candidates, for their ranks; those of padding do not matter.
        targets: item_index of what each request was after.
        trie: the catalogue.
        embeddings: of the items, by item_index; None where no reward needs them.
    """

    items: Int64[Tensor, "B k"]
    log_probs: Float[Tensor, "B k"]
    targets: Int64[Tensor, " B"]
    trie: SemanticIdTrie
    embeddings: Float[Tensor, "N E"] | None = None

    @property
    def is_valid(self) -> Bool[Tensor, "B k"]:
        return self.items >= 0

    @property
    def is_hit(self) -> Bool[Tensor, "B k"]:
        return self.is_valid & (self.items == self.targets.unsqueeze(1))


def exact_hit(answers: Answers) -> Float[Tensor, "B k"]:
    """1 for the target, 0 for any other item, even if it shares the target's codes."""
    return answers.is_hit.float()


def rank_discounted(answers: Answers) -> Float[Tensor, "B k"]:
    """MiniOneRec's ranking reward (arXiv 2510.24431): a wrong candidate is penalised, the more the higher it stands.

    -(1 / log2(rank + 1)) / sum_j 1 / log2(rank_j + 1), ranks from 1 by log-probability among the candidates of the
    request; 0 for the target. As in the authors' code, it is 0 for all where the target is not among them: without a
    better candidate there is nothing to prefer. Equal log-probabilities: the earlier candidate has the better rank.
    """
    scores = answers.log_probs.masked_fill(~answers.is_valid, -torch.inf)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    ranks = torch.arange(1, order.shape[1] + 1, device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, ranks)
    discounts = answers.is_valid / (ranks + 1.0).log2()
    shares = discounts / discounts.sum(dim=1, keepdim=True).clamp(min=torch.finfo(discounts.dtype).tiny)
    is_penalised = ~answers.is_hit & answers.is_hit.any(dim=1, keepdim=True)
    return -shares * is_penalised


def prefix_depth(answers: Answers) -> Float[Tensor, "B k"]:
    """The leading codes that are the target's, as a share of L."""
    target = answers.trie.path_nodes(answers.targets).unsqueeze(1)
    paths = answers.trie.path_nodes(answers.items)
    return ((paths == target) & (paths >= 0)).float().mean(dim=2)


def embedding_similarity(answers: Answers) -> Float[Tensor, "B k"]:
    """Cosine of the embeddings of candidate and target; 0 where the target is unknown.

    Raises:
        ConfigError: no embeddings.
    """
    if answers.embeddings is None:
        raise ConfigError(
            "the reward embedding_similarity needs item embeddings", fix="give embeddings, or leave it out"
        )
    own, other = (answers.embeddings[items.clamp(min=0)] for items in (answers.items, answers.targets.unsqueeze(1)))
    similarity = F.cosine_similarity(own.float(), other.float(), dim=2).clamp(-1, 1)
    return similarity * (answers.is_valid & (answers.targets >= 0).unsqueeze(1))


REWARDS: dict[str, Callable[[Answers], Tensor]] = {
    "exact_hit": exact_hit,
    "rank_discounted": rank_discounted,
    "prefix_depth": prefix_depth,
    "embedding_similarity": embedding_similarity,
}


def composed_reward(
    answers: Answers, weights: Mapping[str, float]
) -> tuple[Float[Tensor, "B k"], dict[str, Float[Tensor, ""]]]:
    """sum_i w_i r_i / sum_i |w_i| of named rewards: in [-1, 1] again.

    Args:
        answers: what is judged.
        weights: w by name; a reward of weight 0 is recorded alone.

    Returns:
        The rewards, and the mean over the valid candidates of each named one, as `reward_<name>`.

    Raises:
        ConfigError: an unknown name, no weight other than 0, or embeddings that are missing.
    """
    if unknown := sorted(set(weights) - set(REWARDS)):
        raise ConfigError("unknown rewards", expected=", ".join(REWARDS), found=", ".join(unknown))
    scale = sum(abs(weight) for weight in weights.values())
    if not scale > 0:
        raise ConfigError(
            "no reward has a weight", expected=f"one or more of {', '.join(REWARDS)}", found=dict(weights)
        )
    total = torch.zeros(answers.items.shape, device=answers.items.device)
    num_valid, means = answers.is_valid.sum().clamp(min=1), {}
    for name, weight in weights.items():
        reward = REWARDS[name](answers)
        means[f"reward_{name}"] = reward.sum() / num_valid
        total = total + weight / scale * reward
    return total, means
