"""Value-guided search against the same search in dictionaries: equal trees for equal noise; and what always holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.beam_search import beam_search
from genrec.decoding.growth import Growth, entropy, node_noise
from genrec.decoding.scorer import Candidates, TableScorer
from genrec.decoding.search_tree import SearchTrace
from genrec.decoding.tree_scorer import TableTreeScorer
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import RANKINGS, ValueGuidedSettings, initial_cost
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


@settings(max_examples=examples(40))
@given(code_tables(), kinds, st.sampled_from(["normal", "few_values"]), normalisations, st.integers(0, 99), st.data())
def test_the_same_tree_as_in_dictionaries(table, kind, values, normalisation, seed, data) -> None:
    check_equal_trees(table, kind, values, normalisation, seed, data)


@pytest.mark.slow
@settings(max_examples=500)
@given(
    code_tables(max_items=40),
    kinds,
    st.sampled_from(["normal", "few_values"]),
    normalisations,
    st.integers(0, 99),
    st.data(),
)
def test_the_same_tree_as_in_dictionaries_on_many_catalogues(table, kind, values, normalisation, seed, data) -> None:
    check_equal_trees(table, kind, values, normalisation, seed, data)


@settings(max_examples=examples(40))
@given(code_tables(), kinds, st.integers(0, 99), st.data())
def test_in_fixed_sizes_and_with_a_call_a_round_the_same_trees_grow(table, kind, seed, data) -> None:
    trie, scorer = planted(table, kind, seed)
    found, _ = data.draw(budgets(trie))
    denied = st.lists(st.integers(-1, trie.num_items - 1), min_size=2, max_size=2)
    deny = torch.tensor([data.draw(denied) for _ in range(3)])
    where = {"seed": seed, "constraint": Constraint.build(trie, deny=deny)}
    _, expected = value_guided_search(scorer, trie, torch.arange(3), found, num_candidates=1, **where)
    growth = Growth(scorer, trie, torch.arange(3), found, is_static=True, **where)
    num_slots, rounds = growth.tree.end, torch.zeros(3, dtype=torch.int64)
    growth.plant()
    while bool((is_active := growth.is_active()).any()):
        rounds += is_active
        growth = growth.resumed(growth.tensors())
        growth.forward(growth.expand_several(is_active, rounds), growth.levels_below_root)
    assert growth.tree.end == num_slots == growth.tree.slots.nodes.shape[1]
    trace = growth.tree.trace(expected.num_calls)
    for field in fields(SearchTrace):
        own, other = (torch.as_tensor(getattr(one, field.name)) for one in (trace, expected))
        assert torch.equal(own, other), field.name


@settings(max_examples=examples(12))
@given(code_tables(), kinds, st.integers(0, 99), st.data())
def test_trees_are_trees_within_their_budget(table, kind, seed, data) -> None:
    trie, scorer = planted(table, kind, seed)
    found, _ = data.draw(budgets(trie))
    _, trace = value_guided_search(scorer, trie, torch.arange(NUM_TABLES), found, num_candidates=3, seed=seed)
    limit = max(found.node_budget, initial_cost(trie, found.initial_width, forwards_leaves=found.forwards_leaves))
    assert bool((trace.num_forwarded <= limit).all())
    for request in range(NUM_TABLES):
        prefixes = names(trie, trace, request)
        count, parents = len(prefixes), trace.parents[request].tolist()
        assert trace.nodes[request, count:].eq(-1).all()
        assert len(set(prefixes)) == count
        assert (prefixes[0], parents[0]) == ((), -1)
        visits = trace.visits[request, :count].tolist()
        below = [0] * count
        for place in range(1, count):
            assert parents[place] < place
            assert prefixes[parents[place]] == prefixes[place][:-1]
            assert trace.rounds[request, parents[place]] <= trace.rounds[request, place]
            below[parents[place]] += 1
        num_beams = sum(
            len(p) == trie.num_levels for p, r in zip(prefixes, trace.rounds[request], strict=False) if r == 0
        )
        num_added = int((trace.rounds[request, :count] > 0).sum())
        num_passed = visits[0] - num_beams - num_added  # the root is on every path, and is passed over now and then
        assert num_passed >= 0
        is_spent = int(trace.num_forwarded[request]) == found.node_budget
        is_whole = all(
            below[place] == int(trie.child_ranges(len(prefix), trace.nodes[request, place])[1])
            for place, prefix in enumerate(prefixes)
            if len(prefix) < trie.num_levels
        )
        assert is_spent or is_whole or kind == "impossible"


@settings(max_examples=examples(12))
@given(code_tables(max_items=30), kinds, st.integers(0, 99), st.data())
def test_a_request_does_not_know_its_batch(table, kind, seed, data) -> None:
    trie, scorer = planted(table, kind, seed)
    found, _ = data.draw(budgets(trie))
    tables, ids = torch.tensor([2, 0, 1, 2]), torch.tensor([9, 4, 0, 1])
    deny = torch.tensor(
        data.draw(
            st.lists(st.lists(st.integers(-1, trie.num_items - 1), min_size=3, max_size=3), min_size=4, max_size=4)
        )
    )
    whole = value_guided_search(
        scorer,
        trie,
        tables,
        found,
        num_candidates=4,
        seed=seed,
        request_ids=ids,
        constraint=Constraint.build(trie, deny=deny),
    )
    for row in range(4):
        own = slice(row, row + 1)
        constraint = Constraint.build(trie, deny=deny[own])
        alone = value_guided_search(
            scorer, trie, tables[own], found, num_candidates=4, seed=seed, request_ids=ids[own], constraint=constraint
        )
        assert torch.equal(alone[0].item_index[0], whole[0].item_index[row])
        assert torch.equal(alone[0].score[0], whole[0].score[row])
        count = int(alone[1].num_nodes)
        assert count == int(whole[1].num_nodes[row])
        for part in ("nodes", "parents", "depths", "visits", "rounds", "log_probs", "values"):
            assert torch.equal(getattr(alone[1], part)[0], getattr(whole[1], part)[row, :count])


@settings(max_examples=examples(12))
@given(code_tables(max_items=30), kinds, st.integers(0, 99), st.integers(1, 2), st.integers(0, 10))
def test_a_larger_budget_goes_on_where_a_smaller_one_stopped(table, kind, seed, width, more) -> None:
    trie, scorer = planted(table, kind, seed)
    budget = max(1, 2 * initial_cost(trie, width))
    traces = [
        value_guided_search(
            scorer, trie, torch.arange(3), ValueGuidedSettings(size, width), num_candidates=2, seed=seed
        )[1]
        for size in (budget, budget + more)
    ]
    for request in range(3):
        shorter, longer = (names(trie, trace, request) for trace in traces)
        assert longer[: len(shorter)] == shorter


@settings(max_examples=examples(12))
@given(code_tables(max_items=40), kinds, st.integers(0, 99))
def test_the_best_item_is_found_within_the_branchings_on_its_path(table, kind, seed) -> None:
    """V = best reward below, lambda = beta = 0, whatever the policy says, if no code is impossible."""
    trie, scorer = planted(table, "normal" if kind == "impossible" else kind, seed)
    rewards = torch.rand(NUM_TABLES, trie.num_items, generator=torch.Generator().manual_seed(seed))
    best_below = [rewards.new_full((NUM_TABLES, trie.num_nodes(depth)), -1.0) for depth in range(trie.num_levels + 1)]
    for depth, values in enumerate(best_below):
        above = trie.nodes_of_items(torch.arange(trie.num_items), depth).expand(NUM_TABLES, -1)
        values.scatter_reduce_(1, above, rewards, "amax")
    guided = TableTreeScorer(scorer.scorer, best_below)
    for request, target in enumerate(rewards.argmax(dim=1).tolist()):
        path = [0, *trie.path_nodes(torch.tensor(target)).tolist()]
        branchings = [int(trie.child_ranges(level, torch.tensor(path[level]))[1]) for level in range(trie.num_levels)]
        cost = initial_cost(trie, 1, forwards_leaves=True)
        how = ValueGuidedSettings(
            cost + max(cost, sum(branchings)), 1, entropy_weight=0.0, exploration=0.0, rank_by="value"
        )
        found, trace = value_guided_search(
            guided, trie, torch.tensor([request]), how, num_candidates=1, seed=seed, request_ids=torch.tensor([request])
        )
        leaf = (trace.depths == trie.num_levels) & (trace.nodes == path[-1])
        assert int(trace.rounds[leaf]) <= sum(branchings)
        assert found.score.item() == rewards[request, target]


def test_it_finds_what_a_beam_of_the_same_cost_prunes() -> None:
    """The policy all but rules out the first code of the best item, which 12 equal prefixes keep out of 10 beams."""
    codes = np.stack(np.unravel_index(np.arange(13 * 4 * 4), (13, 4, 4)), axis=1)
    trie = SemanticIdTrie.build(codes, (13, 4, 4))
    logits = [torch.zeros(1, trie.num_nodes(level), size) for level, size in enumerate(trie.codebook_sizes)]
    logits[0][0, 0, 12] = -9.0
    target = 12 * 16 + 7
    values = [torch.zeros(1, trie.num_nodes(depth)) for depth in range(4)]
    for depth, node in enumerate([0, *trie.path_nodes(torch.tensor(target)).tolist()]):
        values[depth][0, node] = 1.0
    scorer = TableTreeScorer(TableScorer(trie, logits), values)
    budget, width = 20, 10
    beam = beam_search(scorer.scorer, trie, torch.tensor([0]), beam_width=width, num_candidates=width)
    assert initial_cost(trie, width) == budget
    assert target not in beam.item_index[0]
    for rank_by in ("log_prob", "value"):
        how = ValueGuidedSettings(budget, 1, exploration=0.1, rank_by=rank_by)
        found, trace = value_guided_search(scorer, trie, torch.tensor([0]), how, num_candidates=width)
        assert target in found.item_index[0]
        assert int(trace.num_forwarded) <= budget
    assert found.item_index[0, 0] == target


def test_children_are_drawn_from_the_policy() -> None:
    """A root of three children without a beam search's choice among them: 4000 requests draw the second child."""
    trie = SemanticIdTrie.build(np.array([[0], [1], [2], [3]]), (4,))
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    scorer = TableTreeScorer(
        TableScorer(trie, [probabilities.log().view(1, 1, 4)]), [torch.zeros(1, 1), torch.zeros(1, 4)]
    )
    how = ValueGuidedSettings(2, 1, rank_by="value")
    _, trace = value_guided_search(scorer, trie, torch.zeros(4000, dtype=torch.int64), how, num_candidates=2, seed=3)
    assert trace.nodes[:, 1].eq(0).all()  # by the beam
    shares = torch.bincount(trace.nodes[:, 2], minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.0, 0.5, 1 / 3, 1 / 6], abs=0.03)  # 4 standard deviations


def test_several_selections_a_round_are_held_apart_by_visits() -> None:
    """Two equal prefixes: the second selection of a round goes to the other one; half as many calls."""
    codes = np.stack(np.unravel_index(np.arange(2 * 8), (2, 8)), axis=1)
    trie = SemanticIdTrie.build(codes, (2, 8))
    tables = [torch.zeros(1, trie.num_nodes(level), size) for level, size in enumerate((2, 8))]
    values = [torch.zeros(1, trie.num_nodes(depth)) for depth in range(3)]
    values[1] += 1.0
    scorer = TableTreeScorer(TableScorer(trie, tables), values)
    calls = {}
    for selections in (1, 2):
        how = ValueGuidedSettings(12, 2, rank_by="value", selections_per_round=selections)
        _, trace = value_guided_search(scorer, trie, torch.tensor([0]), how, num_candidates=1)
        assert int(trace.num_forwarded) == 12
        calls[selections] = trace.num_calls
    assert calls == {1: 3 + 8, 2: 3 + 4}
    assert trace.parents[trace.rounds == 0].tolist() == [-1, 0, 0, 1, 1]
    assert trace.parents[trace.rounds == 1].tolist() == [2, 2]  # until it has caught up with the beams of the other
    for number in range(2, 5):
        assert sorted(trace.parents[trace.rounds == number].tolist()) == [1, 2]


def test_impossible_settings_are_refused() -> None:
    for wrong, message in (
        ({"rank_by": "votes"}, "unknown ranking"),
        ({"node_budget": 0}, r"node_budget must be positive \(expected 1 or more, found 0\)"),
        ({"exploration": -1.0}, "exploration out of range"),
        ({"entropy_weight": float("nan")}, "entropy_weight out of range"),
        ({"mixture": 1.5}, "mixture out of range"),
    ):
        with pytest.raises(ConfigError, match=message):
            ValueGuidedSettings(**wrong)
    table = CodeTable(np.array([[0, 0], [1, 0], [2, 0]], dtype=np.int32), (3, 1))
    trie, scorer = planted(table, "normal", 0)
    with pytest.raises(
        ConfigError, match=r"width 3 may cost more than half the budget \(expected at most 2 nodes, found 3"
    ):
        value_guided_search(scorer, trie, torch.tensor([0]), ValueGuidedSettings(5, 3), num_candidates=1)
    with pytest.raises(ConfigError, match="wrong number of candidates"):
        value_guided_search(scorer, trie, torch.tensor([0]), ValueGuidedSettings(6, 3), num_candidates=0)
    with pytest.raises(ConfigError, match="values of the wrong shape"):
        TableTreeScorer(scorer.scorer, scorer.values[:-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_is_reported(value: float) -> None:
    table = CodeTable(np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32), (2, 2))
    how = ValueGuidedSettings(6, 2)
    trie, scorer = planted(table, "normal", 0)
    scorer.values[1][1, 0] = value
    with pytest.raises(DataError, match="request 1 of the batch, prefix of 1 codes: the value head gave something"):
        value_guided_search(scorer, trie, torch.tensor([0, 1]), how, num_candidates=1)
    trie, scorer = planted(table, "normal", 0)
    scorer.scorer.log_probs[1][1, 0, 1] = value
    with pytest.raises(DataError, match="request 1 of the batch, level 1: the model gave something"):
        value_guided_search(scorer, trie, torch.tensor([0, 1]), how, num_candidates=1)


@given(st.lists(st.floats(-30, 0), max_size=6), st.integers(0, 3))
def test_entropy_is_that_of_what_is_left(log_probs: list[float], num_impossible: int) -> None:
    padded = torch.tensor([*log_probs, *[-torch.inf] * (num_impossible + 1)], dtype=torch.float64)
    assert float(entropy(padded)) == pytest.approx(value_guided_oracle.entropy(padded.tolist()), abs=1e-9)


def test_a_tree_that_must_stay_as_it_is() -> None:
    """Noise, selection and gate of one small search, written down: a change here changes every experiment."""
    table = CodeTable(np.stack(np.unravel_index(np.arange(0, 36, 2), (3, 3, 4)), axis=1).astype(np.int32), (3, 3, 4))
    trie, scorer = planted(table, "normal", 1)
    how = ValueGuidedSettings(9, 1)
    found, trace = value_guided_search(scorer, trie, torch.tensor([0]), how, num_candidates=4, seed=11)
    tree = ["".join(map(str, prefix)) for prefix in names(trie, trace, 0)]
    assert " ".join(tree) == " 0 00 002 1 01 012 010 000 2 02 020 022 20 202 21 210 212 200 22"
    assert trace.visits[0].tolist() == [17, 8, 2, 1, 3, 3, 1, 1, 1, 8, 3, 1, 1, 3, 1, 3, 1, 1, 1, 1]
    assert found.item_index.tolist() == [[1, 13, 3, 0]]
