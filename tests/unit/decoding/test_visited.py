"""Visited nodes: each once, with the scorer's own numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.exhaustive import score_prefixes
from genrec.decoding.sampling import Rollouts, Sampling, sample_with_replacement
from genrec.decoding.scorer import TableScorer
from genrec.decoding.visited import distinct, score_visited
from genrec.losses.policy import exact_kl
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.code_tables import CodeTable, code_tables
from oracles.search_oracle import random_tables, read_log_probs


@settings(max_examples=examples(40))
@given(code_tables(), st.integers(0, 99), st.integers(1, 5))
def test_every_node_on_the_way_is_scored_once(table: CodeTable, seed: int, k: int) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, random_tables(trie, "normal", seed, num_tables=2))
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(-1, trie.num_items, (4, k), generator=generator)
    nodes = trie.path_nodes(items)
    tables = torch.arange(4) % 2
    levels = score_visited(scorer, trie, tables, nodes)
    assert len(levels) == trie.num_levels
    for row in range(4):
        kept = [item for item in items[row].tolist() if item >= 0]
        log_probs = read_log_probs(scorer, table.rows, row % 2)
        for depth, level in enumerate(levels):
            prefixes = [tuple(prefix) for prefix in trie.prefix_codes(depth).tolist()]
            visited = [prefixes[node] for node in level.nodes[row].tolist() if node >= 0]
            expected = {table.rows[item][:depth] for item in kept} or ({()} if depth == 0 else set())
            assert sorted(expected) == visited
            for prefix, scores in zip(visited, level.log_probs[row].tolist(), strict=False):
                own = [float(value) for value in log_probs[prefix].values()]
                assert scores == own + [-torch.inf] * (len(scores) - len(own))
            chosen = level.chosen()[row].tolist()
            for place, item in enumerate(items[row].tolist()):
                if item >= 0:
                    codes = table.rows[item]
                    assert chosen[place] == float(log_probs[codes[:depth]][codes[depth]])


def test_rows_without_nodes() -> None:
    nodes, places = distinct(torch.tensor([[-1, -1], [3, -1]]))
    assert nodes.tolist() == [[-1, -1], [3, -1]]
    assert places[1].tolist() == [0, 1]


def test_the_divergences_of_all_nodes_make_that_of_the_catalogue() -> None:
    """Each weighted by the probability of getting there: the chain rule."""
    codes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 2], [2, 1]]).numpy()
    trie = SemanticIdTrie.build(codes, (3, 3))
    new, old = (TableScorer(trie, random_tables(trie, "normal", seed)) for seed in (0, 1))
    request = torch.tensor([0])
    nodes = trie.path_nodes(torch.arange(5).unsqueeze(0))
    levels = [score_visited(scorer, trie, request, nodes) for scorer in (new, old)]
    log_p, log_q = (torch.stack([level.chosen() for level in found]).sum(dim=0) for found in levels)
    whole = (log_p.exp() * (log_p - log_q)).sum().item()
    reach = [torch.ones(1, 1), *(prefixes.exp() for prefixes in score_prefixes(new, trie, request))]
    total = 0.0
    for depth, (own, other) in enumerate(zip(*levels, strict=True)):
        for node in range(trie.num_nodes(depth)):
            here = own.nodes == node
            total += reach[depth][0, node].item() * exact_kl([own.log_probs], [other.log_probs], [here]).loss.item()
    assert total == pytest.approx(whole, abs=1e-6)


def test_rollouts_are_what_it_reads() -> None:
    codes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 2], [2, 1]]).numpy()
    trie = SemanticIdTrie.build(codes, (3, 3))
    scorer = TableScorer(trie, random_tables(trie, "normal", 0))
    requests = torch.zeros(3, dtype=torch.int64)
    found: Rollouts = sample_with_replacement(scorer, trie, requests, Sampling(0, torch.arange(3)), num_candidates=4)
    log_probs = torch.stack([level.chosen() for level in score_visited(scorer, trie, requests, found.nodes)], dim=2)
    assert torch.equal(log_probs, found.log_probs)
