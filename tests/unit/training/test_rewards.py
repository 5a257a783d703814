"""Rewards against loops, their range, and what composes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.rewards import REWARDS, Answers, composed_reward, rank_discounted
from oracles import reward_oracle as oracle
from oracles.code_tables import CodeTable, code_tables


@settings(max_examples=examples(60))
@given(code_tables(), st.integers(0, 999), st.integers(1, 6))
def test_rewards_are_those_of_loops(table: CodeTable, seed: int, width: int) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(-1, trie.num_items, (4, width), generator=generator)
    targets = torch.randint(0, trie.num_items, (4,), generator=generator)
    log_probs = -torch.randint(0, 4, (4, width), generator=generator).float()  # with ties
    log_probs[items < 0] = torch.nan
    embeddings = torch.randn(trie.num_items, 3, generator=generator)
    answers = Answers(items, log_probs, targets, trie, embeddings)
    weights = {"exact_hit": 2.0, "rank_discounted": 0.5, "prefix_depth": 1.0, "embedding_similarity": -0.5}
    total, means = composed_reward(answers, weights)
    for row, target in enumerate(targets.tolist()):
        candidates = [None if item < 0 else item for item in items[row].tolist()]
        expected = {
            "exact_hit": oracle.exact_hit(candidates, target),
            "rank_discounted": oracle.rank_discounted(candidates, log_probs[row].tolist(), target),
            "prefix_depth": oracle.prefix_depth(candidates, target, table.rows),
            "embedding_similarity": oracle.embedding_similarity(candidates, target, embeddings.tolist()),
        }
        for name, values in expected.items():
            assert REWARDS[name](answers)[row].tolist() == pytest.approx(values, abs=1e-6)
        mixed = [sum(weights[name] * expected[name][place] for name in weights) / 4 for place in range(width)]
        assert total[row].tolist() == pytest.approx(mixed, abs=1e-6)
    assert (total.abs() <= 1).all()
    assert (total[items < 0] == 0).all()
    hits = sum(item == target for row, target in zip(items.tolist(), targets.tolist(), strict=True) for item in row)
    assert means["reward_exact_hit"].item() == pytest.approx(hits / max(1, int((items >= 0).sum())))


def catalogue() -> SemanticIdTrie:
    return SemanticIdTrie.build(torch.tensor([[0, 0], [0, 1], [1, 0]]).numpy(), (2, 2))


def test_wrong_candidates_are_penalised_by_rank_and_all_together_at_most_once() -> None:
    answers = Answers(
        torch.tensor([[0, 1, 2], [0, 1, -1]]),
        torch.tensor([[-3.0, -1.0, -2.0], [-1.0, -2.0, 0.0]]),
        torch.tensor([2, 2]),
        catalogue(),
    )
    found = rank_discounted(answers)
    assert found[0, 1] < found[0, 0] < found[0, 2] == 0
    assert -1 <= found[0].sum() < 0
    assert found[1].tolist() == [0.0, 0.0, 0.0]


def test_an_unknown_target_is_never_reached() -> None:
    answers = Answers(torch.tensor([[0, -1]]), torch.zeros(1, 2), torch.tensor([-1]), catalogue(), torch.eye(3))
    for reward in REWARDS.values():
        assert reward(answers).tolist() == [[0.0, 0.0]]


def test_impossible_rewards_are_refused() -> None:
    answers = Answers(torch.tensor([[0]]), torch.zeros(1, 1), torch.tensor([0]), catalogue())
    with pytest.raises(ConfigError, match=r"unknown rewards \(expected exact_hit, .*found hit"):
        composed_reward(answers, {"hit": 1.0})
    for weights in ({}, {"exact_hit": 0.0}):
        with pytest.raises(ConfigError, match="no reward has a weight"):
            composed_reward(answers, weights)
    with pytest.raises(ConfigError, match="needs item embeddings"):
        composed_reward(answers, {"embedding_similarity": 1.0})
