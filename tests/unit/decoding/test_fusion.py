"""Fusion of lists and of probabilities: against loops and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.exhaustive import score_catalogue
from genrec.decoding.fusion import MixedScorer, fuse_ranks, mix, prefix_values, unite
from genrec.decoding.scorer import TableScorer
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.search_oracle import random_tables

ranked_lists = st.lists(st.integers(0, 9), unique=True, max_size=6).map(lambda row: row + [-1] * (6 - len(row)))


@settings(max_examples=examples(60))
@given(ranked_lists, ranked_lists, st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.sampled_from([0.0, 60.0]))
def test_fusion_of_ranks_is_a_loop(first: list[int], second: list[int], weight: float, constant: float) -> None:
    scores: dict[int, float] = {}
    for row, share in ((first, 1.0), (second, weight)):
        for rank, item in enumerate(row, start=1):
            if item >= 0 and share:
                scores[item] = scores.get(item, 0.0) + share / (constant + rank)
    items, found = fuse_ranks(torch.tensor([first]), torch.tensor([second]), 8, weight=weight, constant=constant)
    expected = sorted(scores, key=lambda item: (-scores[item], item))[:8]
    padding = 8 - len(expected)
    assert found[0].tolist() == pytest.approx([scores[item] for item in expected] + [-math.inf] * padding)
    if len({round(score, 12) for score in scores.values()}) == len(scores):  # else rounding decides
        assert items[0].tolist() == expected + [-1] * padding


def test_equal_fused_scores_come_in_the_order_of_the_index() -> None:
    items, _ = fuse_ranks(torch.tensor([[7, 3]]), torch.tensor([[2, 9]]), 4)
    assert items.tolist() == [[2, 7, 3, 9]]


@settings(max_examples=examples(40))
@given(ranked_lists, ranked_lists)
def test_a_union_has_every_item_once(first: list[int], second: list[int]) -> None:
    found = unite(torch.tensor([first]), torch.tensor([second]))[0].tolist()
    kept = [item for item in found if item >= 0]
    assert len(kept) == len(set(kept))
    assert set(kept) == {item for item in first + second if item >= 0}


def test_at_weight_zero_what_does_not_count_may_be_impossible() -> None:
    impossible = torch.tensor([-torch.inf, -1.0])
    assert mix(torch.tensor([-1.0, -2.0]), impossible, 0.0).tolist() == [-1.0, -2.0]
    assert mix(torch.tensor([-1.0, -2.0]), impossible, 2.0).tolist() == [-torch.inf, -4.0]


def catalogue(seed: int, num_items: int = 18) -> SemanticIdTrie:
    """Some items share their codes."""
    return SemanticIdTrie.build(np.random.default_rng(seed).integers(0, 3, (num_items, 3)), (3, 3, 3))


@settings(max_examples=examples(30))
@given(st.integers(0, 99), st.sampled_from(["sum", "max"]))
def test_the_value_of_a_prefix_is_that_of_the_items_below_it(seed: int, kind: str) -> None:
    trie = catalogue(seed)
    generator = torch.Generator().manual_seed(seed)
    log_q = 5 * torch.randn(2, 18, generator=generator)
    log_q[torch.rand(2, 18, generator=generator) < 0.3] = -torch.inf
    values = prefix_values(trie, log_q, kind)  # type: ignore[arg-type]
    assert [value.shape[1] for value in values] == [trie.num_nodes(depth) for depth in range(4)]
    for depth, value in enumerate(values):
        above = trie.nodes_of_items(torch.arange(18), depth)
        for node in range(trie.num_nodes(depth)):
            below = log_q[:, above == node]
            expected = below.amax(dim=1) if kind == "max" else below.double().exp().sum(dim=1).log().float()
            torch.testing.assert_close(value[:, node], expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=examples(30))
@given(st.integers(0, 99), st.sampled_from(["trie", "vocabulary"]), st.sampled_from(["sum", "max"]))
def test_the_score_of_a_whole_id_is_the_mixture(seed: int, normalisation: str, kind: str) -> None:
    trie = catalogue(seed)
    scorer = TableScorer(trie, random_tables(trie, "normal", seed, num_tables=3), normalisation=normalisation)
    context = torch.arange(3)
    log_q = torch.randn(3, 18, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=1)
    values = prefix_values(trie, log_q, kind)  # type: ignore[arg-type]
    mixed = score_catalogue(MixedScorer(scorer, trie, values, 0.7), trie, context)
    gain = (values[-1] - values[0])[:, trie.item_leaves]
    torch.testing.assert_close(mixed, score_catalogue(scorer, trie, context) + 0.7 * gain, atol=1e-5, rtol=1e-5)
    if kind == "sum":
        torch.testing.assert_close(values[0], torch.zeros(3, 1), atol=1e-5, rtol=0)


def test_nothing_below_a_prefix_makes_it_impossible_and_no_nan() -> None:
    trie = catalogue(0)
    scorer = TableScorer(trie, random_tables(trie, "normal", 0))
    log_q = torch.zeros(1, 18)
    first = trie.nodes_of_items(torch.arange(18), 1) == 0
    log_q[:, first] = -torch.inf
    mixed = score_catalogue(MixedScorer(scorer, trie, prefix_values(trie, log_q), 0.5), trie, torch.tensor([0]))
    assert bool((mixed[:, first] == -torch.inf).all())
    assert bool(mixed[:, ~first].isfinite().all())
