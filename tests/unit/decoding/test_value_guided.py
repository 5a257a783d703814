"""Value-guided search against the same search in dictionaries: equal trees for equal noise; and what must hold of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding.beam_search import beam_search
from genrec.decoding.scorer import Candidates, TableScorer
from genrec.decoding.search_tree import SearchTrace
from genrec.decoding.tree_scorer import TableTreeScorer
from genrec.decoding.value_guided import (
    RANKINGS,
    ValueGuidedSettings,
    node_noise,
    entropy,
    initial_cost,
    value_guided_search,
)
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle, trie_oracle, value_guided_oracle
from oracles.code_tables import CodeTable, code_tables
from oracles.value_guided_oracle import Budget, Prefix, Reading

NUM_TABLES = 3
kinds = st.sampled_from(search_oracle.TABLE_KINDS)
normalisations = st.sampled_from(["trie", "vocabulary"])


def random_values(trie: SemanticIdTrie, kind: str, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(NUM_TABLES, trie.num_nodes(depth)) for depth in range(trie.num_levels + 1)]
    if kind == "few_values":
        return [torch.randint(0, 3, shape, generator=generator) / 2 for shape in shapes]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def planted(
    table: CodeTable, kind: str, seed: int, *, values: str = "normal", normalisation: str = "trie"
) -> tuple[SemanticIdTrie, TableTreeScorer]:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    logits = search_oracle.random_tables(trie, kind, seed, num_tables=NUM_TABLES)
    scorer = TableScorer(trie, logits, normalisation=normalisation)
    return trie, TableTreeScorer(scorer, random_values(trie, values, seed))


def prefixes_of(trie: SemanticIdTrie) -> list[list[Prefix]]:
    return [[tuple(row) for row in trie.prefix_codes(depth).tolist()] for depth in range(trie.num_levels + 1)]


def places_of(prefixes: Sequence[Sequence[Prefix]]) -> dict[Prefix, int]:
    return {prefix: node for of_depth in prefixes for node, prefix in enumerate(of_depth)}


def names(trie: SemanticIdTrie, trace: SearchTrace, request: int) -> list[Prefix]:
    """The prefixes of a tree, in its order."""
    prefixes, count = prefixes_of(trie), int(trace.num_nodes[request])
    pairs = zip(trace.depths[request, :count].tolist(), trace.nodes[request, :count].tolist(), strict=True)
    return [prefixes[depth][node] for depth, node in pairs]


def slow_tree(
    table: CodeTable, scorer: TableTreeScorer, trace: SearchTrace, request: int, how: dict[str, Any]
) -> dict[Prefix, value_guided_oracle.Node]:
    """By the oracle, which is given the entropies of the trace so that rounding does not decide between equal ones."""
    trie, root = scorer.trie, trie_oracle.build(table.rows)
    places = places_of(prefixes_of(trie))
    log_probs = search_oracle.read_log_probs(scorer.scorer, table.rows, how["table"])
    entropies = dict(zip(names(trie, trace, request), trace.entropies[request].tolist(), strict=False))

    def read(prefix: Prefix) -> Reading:
        children = log_probs.get(prefix, {})
        plain = value_guided_oracle.entropy([float(value) for value in children.values()])
        assert entropies.get(prefix, plain) == pytest.approx(plain, abs=1e-6)
        value = float(scorer.values[len(prefix)][how["table"], places[prefix]])
        return Reading(value, entropies.get(prefix, plain), children)

    noise: dict[Prefix, float] = {}
    for depth, prefixes in enumerate(prefixes_of(trie)):
        nodes = torch.arange(len(prefixes)).view(1, 1, -1)
        drawn = node_noise(how["seed"], torch.tensor([how["request_id"]]), torch.tensor([[depth]]), nodes)
        noise |= dict(zip(prefixes, drawn.flatten().tolist(), strict=True))

    def is_alive(prefix: Prefix) -> bool:
        return bool(how["admissible"] & set(trie_oracle.items(root, prefix)))

    return value_guided_oracle.search(read, noise.__getitem__, is_alive, trie.num_levels, how["budget"])


@st.composite
def budgets(draw: st.DrawFn, trie: SemanticIdTrie) -> tuple[ValueGuidedSettings, Budget]:
    rank_by, width = draw(st.sampled_from(RANKINGS)), draw(st.integers(1, 3))
    least = 2 * initial_cost(trie, width, forwards_leaves=rank_by != "log_prob")
    found = ValueGuidedSettings(
        node_budget=max(1, least + draw(st.integers(0, 20))),
        initial_width=width,
        entropy_weight=draw(st.sampled_from([0.0, 0.1, 1.0])),
        exploration=draw(st.sampled_from([0.0, 0.3, 1.0])),
        rank_by=rank_by,
        selections_per_round=draw(st.sampled_from([1, 1, 1, 2, 3])),
    )
    return found, Budget(
        found.node_budget,
        width,
        found.entropy_weight,
        found.exploration,
        found.forwards_leaves,
        found.selections_per_round,
    )


def check_equal_trees(table: CodeTable, kind: str, values: str, normalisation: str, seed: int, data: Any) -> None:
    trie, scorer = planted(table, kind, seed, values=values, normalisation=normalisation)
    found, budget = data.draw(budgets(trie))
    subsets = st.sets(st.integers(0, trie.num_items - 1))
    everything = set(range(trie.num_items))
    admissible = [data.draw(subsets), everything, data.draw(subsets)]
    deny = torch.tensor([[item if item not in own else -1 for item in range(trie.num_items)] for own in admissible])
    tables, ids = torch.tensor([2, 0, 2]), torch.tensor([5, 0, 7])
    where = {"num_candidates": 5, "seed": seed, "request_ids": ids, "constraint": Constraint.build(trie, deny=deny)}
    candidates, trace = value_guided_search(scorer, trie, tables, found, **where)
    for request in range(3):
        how = {"table": int(tables[request]), "request_id": int(ids[request]), "admissible": admissible[request]}
        tree = slow_tree(table, scorer, trace, request, {**how, "seed": seed, "budget": budget})
        count = len(tree)
        assert names(trie, trace, request) == list(tree)
        assert trace.visits[request, :count].tolist() == [node.visits for node in tree.values()]
        assert trace.rounds[request, :count].tolist() == [node.round for node in tree.values()]
        assert trace.log_probs[request, :count].tolist() == [float(node.log_prob) for node in tree.values()]
        assert trace.is_forwarded[request, :count].tolist() == [node.reading is not None for node in tree.values()]
        leaves = {prefix: node for prefix, node in tree.items() if len(prefix) == trie.num_levels}
        check_ranking(table, candidates, request, leaves, admissible[request], found)


def check_ranking(
    table: CodeTable,
    candidates: Candidates,
    request: int,
    leaves: dict[Prefix, value_guided_oracle.Node],
    admissible: set[int],
    how: ValueGuidedSettings,
) -> None:
    scores = {}
    for item in admissible:
        node = leaves.get(table.rows[item])
        if node is not None:
            value = np.float32(node.reading.value if node.reading is not None else 0.0)
            share = {"log_prob": 0.0, "value": 1.0, "mixture": how.mixture}[how.rank_by]
            scores[item] = np.float32(1 - share) * node.log_prob + np.float32(share) * value
    expected = search_oracle.ranked(scores, 5)
    assert candidates.item_index[request].tolist() == [item for item, _ in expected] + [-1] * (5 - len(expected))
    kept = len(expected)
    assert candidates.score[request, :kept].tolist() == pytest.approx([float(score) for _, score in expected])
    own = [float(leaves[table.rows[item]].log_prob) for item, _ in expected]
    assert candidates.log_prob[request].tolist() == own + [-np.inf] * (5 - kept)


@settings(max_examples=60)
@given(code_tables(), kinds, st.sampled_from(["normal", "few_values"]), normalisations, st.integers(0, 99), st.data())
def test_the_same_tree_as_in_dictionaries(table, kind, values, normalisation, seed, data) -> None:
    check_equal_trees(table, kind, values, normalisation, seed, data)


@pytest.mark.slow
@settings(max_examples=1000)
@given(
    code_tables(max_items=40), kinds, st.sampled_from(["normal", "few_values"]), normalisations, st.integers(0, 99), st.data()
)
def test_the_same_tree_as_in_dictionaries_on_many_catalogues(table, kind, values, normalisation, seed, data) -> None:
    check_equal_trees(table, kind, values, normalisation, seed, data)
