"""The parts of policy optimisation put together on a policy of tables: rewards rise, and a reference holds it back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.decoding.exhaustive import score_catalogue
from genrec.decoding.sampling import Sampling, beam_rollouts, stochastic_beam_search
from genrec.decoding.scorer import TableScorer
from genrec.decoding.visited import score_visited
from genrec.losses.advantages import (
    build_candidate_tree,
    fork_advantages,
    group_advantages,
    sibling_advantages,
    sibling_pairs,
    tree_td_advantages,
)
from genrec.losses.likelihood import LossOutput
from genrec.losses.policy import code_weights, exact_kl, policy_loss, step_preference, weighted_sum
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.rewards import Answers, composed_reward
from oracles.search_oracle import random_tables

CODES = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3).astype(np.int32)
TRIE = SemanticIdTrie.build(CODES, (3, 3, 3))
TARGETS = torch.tensor([4, 17, 8, 0, 26, 13])
REQUESTS = torch.arange(len(TARGETS))
WEIGHTS = {"exact_hit": 1.0, "prefix_depth": 0.5}
WAYS = ("group", "sibling", "fork", "tree_td", "preference")


def flat(table: torch.Tensor) -> torch.Tensor:
    return table.flatten(0, 1)


def objective(way: str, log_probs: torch.Tensor, rewards: torch.Tensor, codes: torch.Tensor) -> LossOutput:
    tree = build_candidate_tree(flat(codes), REQUESTS.repeat_interleave(codes.shape[1]))
    own, given = flat(log_probs), rewards.flatten()
    if way == "preference":
        return step_preference(own, own, sibling_pairs(given, tree), beta=1.0)
    everything = code_weights(torch.ones(len(own), dtype=torch.bool), torch.ones(3))
    if way == "sibling":
        siblings = sibling_advantages(given, tree)
        return policy_loss(own, own, everything, torch.zeros_like(siblings), siblings=siblings)
    advantages = {"group": group_advantages, "fork": fork_advantages, "tree_td": tree_td_advantages}
    return policy_loss(own, own, everything, advantages[way](given, tree))


def tune(way: str, *, kl_weight: float = 0.0, steps: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean reward under the policy of each request, exactly, before and after."""
    first = random_tables(TRIE, "normal", 0, num_tables=len(TARGETS))
    tables = [table.clone().requires_grad_() for table in first]
    reference = TableScorer(TRIE, first)
    everything = torch.arange(27).expand(len(TARGETS), -1)
    of_items, _ = composed_reward(Answers(everything, torch.zeros(everything.shape), TARGETS, TRIE), WEIGHTS)

    def quality() -> torch.Tensor:
        log_probs = score_catalogue(TableScorer(TRIE, tables), TRIE, REQUESTS)
        return (log_probs.exp() * of_items).sum(dim=1).detach()

    before = quality()
    for step in range(steps):
        policy = TableScorer(TRIE, tables)
        found = stochastic_beam_search(policy, TRIE, REQUESTS, Sampling(step, REQUESTS), num_candidates=8)
        levels = score_visited(policy, TRIE, REQUESTS, found.nodes)
        log_probs = torch.stack([level.chosen() for level in levels], dim=2)
        answers = Answers(found.item_index, found.log_probs.sum(dim=2), TARGETS, TRIE)
        rewards, _ = composed_reward(answers, WEIGHTS)
        terms = [(1.0, objective(way, log_probs, rewards, found.codes))]
        if kl_weight:
            others = [level.log_probs for level in score_visited(reference, TRIE, REQUESTS, found.nodes)]
            own, visited = zip(*[(level.log_probs, level.is_visited) for level in levels], strict=True)
            terms.append((kl_weight, exact_kl(own, others, visited)))
        gradients = torch.autograd.grad(weighted_sum(terms).loss, tables)
        with torch.no_grad():
            for table, gradient in zip(tables, gradients, strict=True):
                table -= 20.0 * gradient
    return before, quality()


@pytest.mark.parametrize("way", WAYS)
def test_the_reward_rises(way: str) -> None:
    before, after = tune(way)
    assert (after > before).all()
    assert after.mean() > before.mean() + 0.3


def test_a_reference_holds_the_policy_back() -> None:
    before, free = tune("group")
    _, held = tune("group", kl_weight=0.3)
    assert before.mean() < held.mean() < free.mean()


COMB = np.array([(first, 0, 0, 0, last) for first in range(4) for last in range(6)], dtype=np.int32)


def hits_behind_long_prefixes(alpha: float, seed: int) -> tuple[float, float]:
    """Probability of the target and mean reward, exactly, after tuning on the beams of a comb; alpha as in the loss."""
    trie = SemanticIdTrie.build(COMB, (4, 1, 1, 1, 6))
    targets = torch.randint(0, len(COMB), (6,), generator=torch.Generator().manual_seed(seed))
    tables = [(table / 2).requires_grad_() for table in random_tables(trie, "normal", seed, num_tables=len(targets))]
    optimizer = torch.optim.Adam(tables, lr=0.3)
    everything, weights = torch.arange(len(COMB)).expand(len(targets), -1), {"prefix_depth": 1.0}
    for _ in range(25):
        policy = TableScorer(trie, tables)
        found = beam_rollouts(policy, trie, REQUESTS, num_candidates=16)
        own = flat(torch.stack([level.chosen() for level in score_visited(policy, trie, REQUESTS, found.nodes)], dim=2))
        rewards, _ = composed_reward(Answers(found.item_index, found.log_probs.sum(dim=2), targets, trie), weights)
        tree = build_candidate_tree(flat(found.codes), REQUESTS.repeat_interleave(16))
        of_codes = code_weights(torch.ones(len(own), dtype=torch.bool), torch.ones(5))
        group, siblings = (way(rewards.flatten(), tree) for way in (group_advantages, sibling_advantages))
        loss = policy_loss(own, own, of_codes, (alpha < 1) * group, siblings=siblings, alpha=alpha).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    of_items, _ = composed_reward(Answers(everything, torch.zeros(everything.shape), targets, trie), weights)
    probs = score_catalogue(TableScorer(trie, tables), trie, REQUESTS).exp().detach()
    return float(probs.gather(1, targets.unsqueeze(1)).mean()), float((probs * of_items).sum(dim=1).mean())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_siblings_behind_long_prefixes_are_told_apart(seed: int) -> None:
    """The candidates behind the target's prefix have nearly the same reward, and all but that of the others.

    So to the group they are all good, and it hardly prefers the target to the next best; to its siblings, the target
    is the best of six.
    """
    hits = {alpha: hits_behind_long_prefixes(alpha, seed) for alpha in (0.0, 0.5, 1.0)}
    assert hits[0.0][0] < 0.35
    assert hits[0.5][0] > hits[0.0][0] + 0.1
    assert hits[1.0][0] > 0.9
    assert hits[0.0][1] < hits[0.5][1] < hits[1.0][1]
