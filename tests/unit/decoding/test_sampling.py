"""Rollouts: their distribution against exact enumeration, and what holds for every one of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import score_paths
from genrec.decoding.sampling import (
    Rollouts,
    Sampling,
    beam_rollouts,
    condition_on_maximum,
    hint_nodes,
    sample_siblings,
    sample_with_replacement,
    stochastic_beam_search,
)
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import Constraint, mask_of_items
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import sampling_oracle as oracle
from oracles.code_tables import CodeTable, code_tables
from oracles.search_oracle import TABLE_KINDS, random_tables, read_log_probs

CODES = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 2], [2, 0, 0], [2, 0, 1], [2, 2, 2]])
ROWS = [tuple(row) for row in CODES.tolist()]
TRIE = SemanticIdTrie.build(CODES, (3, 3, 3))
KINDS = ("replacement", "stochastic beam", "siblings", "beam")
N = 6000


def small(normalisation: str = "trie") -> TableScorer:
    return TableScorer(TRIE, random_tables(TRIE, "normal", 3), normalisation=normalisation)


def admit(items: set[int], trie: SemanticIdTrie = TRIE) -> Constraint:
    return Constraint.build(trie, allow=mask_of_items(torch.tensor([sorted(items)]), trie.num_items)[0])


def roll(kind: str, scorer: TableScorer, requests: torch.Tensor, k: int, **options) -> Rollouts:
    """Requests have the number of their table, and of themselves."""
    tables, names = requests % len(scorer.log_probs[0]), requests
    sampling = Sampling(options.pop("seed", 0), names, options.pop("temperature", 1.0))
    depths = options.pop("depths", torch.zeros_like(names))
    if kind == "beam":
        return beam_rollouts(scorer, scorer.trie, tables, num_candidates=k, **options)
    if kind == "siblings":
        options["depths"] = depths
    search: dict[str, Callable[..., Rollouts]] = {
        "replacement": sample_with_replacement,
        "stochastic beam": stochastic_beam_search,
        "siblings": sample_siblings,
    }
    return search[kind](scorer, scorer.trie, tables, sampling, num_candidates=k, **options)


def counts(rows: torch.Tensor) -> Counter:
    return Counter(tuple(row) for row in rows.tolist())


def of_items(found: dict[int, float]) -> dict[tuple[int, ...], float]:
    return {(item,): probability for item, probability in found.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("normalisation", ["trie", "vocabulary"])
@pytest.mark.parametrize("admissible", [{0, 1, 2, 3, 4, 5, 6}, {0, 2, 5, 6}])
def test_draws_with_replacement_have_the_probabilities_of_the_proposal(
    temperature: float, normalisation: str, admissible: set[int]
) -> None:
    scorer = small(normalisation)
    found = roll("replacement", scorer, torch.arange(N), 2, temperature=temperature, constraint=admit(admissible))
    log_probs = read_log_probs(scorer, ROWS, 0)
    single = oracle.item_probabilities(ROWS, log_probs, temperature=temperature, admissible=admissible)
    assert sum(single.values()) == pytest.approx(1)
    pairs = {(a, b): single[a] * single[b] for a in single for b in single}  # the draws are independent
    assert not oracle.is_unlikely(counts(found.item_index), pairs)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("admissible", [{0, 1, 2, 3, 4, 5, 6}, {0, 2, 5, 6}])
def test_a_stochastic_beam_is_a_sample_without_replacement(temperature: float, admissible: set[int]) -> None:
    """All ordered samples of three, and so the inclusion probabilities, against enumeration."""
    scorer, k = small("vocabulary"), 3
    constraint = admit(admissible)
    found = roll("stochastic beam", scorer, torch.arange(N), k, temperature=temperature, constraint=constraint)
    log_probs = read_log_probs(scorer, ROWS, 0)
    single = oracle.item_probabilities(ROWS, log_probs, temperature=temperature, admissible=admissible)
    samples = oracle.ordered_samples(single, k)
    assert not oracle.is_unlikely(counts(found.item_index), samples)
    for item in single:
        inclusion = sum(probability for sample, probability in samples.items() if item in sample)
        share = (found.item_index == item).any(dim=1).double().mean().item()
        assert abs(share - inclusion) < 5 * math.sqrt(inclusion * (1 - inclusion) / N) + 1e-12


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_siblings_share_a_drawn_prefix_and_differ_in_a_code_drawn_without_replacement(depth: int) -> None:
    scorer, k, everything = small(), 2, set(range(7))
    found = roll("siblings", scorer, torch.arange(N), k, depths=torch.full((N,), depth))
    log_probs = read_log_probs(scorer, ROWS, 0)
    expected: dict[tuple[int, ...], float] = {}
    prefixes = {row[:depth] for row in ROWS}
    for prefix in prefixes:
        probability = 1.0
        for level in range(depth):
            probability *= oracle.proposal(ROWS, log_probs, prefix[:level], 1.0, everything)[prefix[level]]
        codes = oracle.proposal(ROWS, log_probs, prefix, 1.0, everything)
        for sample, share in oracle.ordered_samples(codes, min(k, len(codes))).items():
            ends = [ROWS.index(oracle.greedy(ROWS, log_probs, (*prefix, code), everything)) for code in sample]
            expected[(*ends, *[-1] * (k - len(ends)))] = probability * share
    assert sum(expected.values()) == pytest.approx(1)
    assert not oracle.is_unlikely(counts(found.item_index), expected)


@settings(max_examples=examples(40))
@given(
    code_tables(),
    st.sampled_from(TABLE_KINDS),
    st.sampled_from(KINDS),
    st.integers(0, 99),
    st.integers(1, 6),
    st.data(),
)
def test_whatever_the_catalogue_candidates_are_admissible_with_true_log_probabilities(
    table: CodeTable, kind: str, search: str, seed: int, k: int, data: st.DataObject
) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, random_tables(trie, kind, seed, num_tables=2))
    num_items, num_levels = trie.num_items, trie.num_levels
    requests = torch.arange(4)
    subsets = [data.draw(st.sets(st.integers(0, num_items - 1))) for _ in requests]
    denied = torch.tensor([[i if i not in s else -1 for i in range(num_items)] for s in subsets])
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, num_items, (4,), generator=generator)
    lengths = torch.randint(0, num_levels + 1, (4,), generator=generator)
    depths = torch.randint(0, num_levels, (4,), generator=generator)
    hints = hint_nodes(trie, targets, lengths)
    constraint = Constraint.build(trie, deny=denied)
    options = {"constraint": constraint, "hints": hints, "depths": depths, "seed": seed}
    found = roll(search, scorer, requests, k, **options)
    assert found.item_index.shape == (4, k)
    assert found.log_probs.shape == found.nodes.shape == found.codes.shape == (4, k, num_levels)
    is_valid = found.is_valid
    assert (is_valid.long().diff(dim=1) <= 0).all()  # padding is at the end
    for part, sentinel in ((found.nodes, -1), (found.codes, -1), (found.log_probs, -torch.inf)):
        assert (part[~is_valid] == sentinel).all()
    assert torch.isfinite(found.log_probs[is_valid]).all()
    paths = score_paths(scorer, trie, requests % 2, found.item_index)
    torch.testing.assert_close(found.log_probs.cumsum(dim=2), paths)
    assert torch.equal(found.nodes, trie.path_nodes(found.item_index))
    for row, (items, codes) in enumerate(zip(found.item_index.tolist(), found.codes.tolist(), strict=True)):
        kept = [item for item in items if item >= 0]
        assert set(kept) <= subsets[row]
        assert [tuple(row_codes) for row_codes in codes[: len(kept)]] == [table.rows[item] for item in kept]
        prefixes = {table.rows[item] for item in kept}
        if search != "replacement":
            assert len(prefixes) == len(kept)
        hinted = int(lengths[row]) if targets[row] >= 0 else 0
        assert all(prefix[:hinted] == table.rows[targets[row]][:hinted] for prefix in prefixes)
        if search == "siblings":
            assert len({prefix[: int(depths[row])] for prefix in prefixes}) <= 1
            assert len({prefix[: int(depths[row]) + 1] for prefix in prefixes}) == len(kept)
        log_probs = read_log_probs(scorer, table.rows, row % 2)
        start = table.rows[targets[row]][:hinted] if hinted else ()
        possible = oracle.item_probabilities(
            table.rows, log_probs, temperature=1.0, admissible=subsets[row], start=start
        )
        num_leaves = len({table.rows[item] for item in possible})
        if search == "replacement":
            assert len(kept) == (k if possible else 0)
        elif search in ("stochastic beam", "beam"):
            assert len(kept) == min(k, num_leaves)


@settings(max_examples=examples(25))
@given(code_tables(), st.sampled_from(TABLE_KINDS), st.integers(0, 99), st.integers(1, 5))
def test_a_larger_sample_without_replacement_only_adds(table: CodeTable, kind: str, seed: int, k: int) -> None:
    """The value of a leaf is a function of the noise alone, so a beam as wide as the catalogue is the oracle."""
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, random_tables(trie, kind, seed))
    whole = roll("stochastic beam", scorer, torch.arange(5), trie.num_items, seed=seed)
    some = roll("stochastic beam", scorer, torch.arange(5), min(k, trie.num_items), seed=seed)
    assert torch.equal(some.item_index, whole.item_index[:, : some.item_index.shape[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_requests_do_not_influence_each_other(kind: str) -> None:
    scorer = TableScorer(TRIE, random_tables(TRIE, "normal", 1, num_tables=7))
    requests = torch.tensor([5, 900, 33, 2, 71])
    depths = torch.tensor([0, 1, 2, 0, 1])
    deny = torch.tensor([[0, -1], [2, 4], [-1, -1], [6, 5], [1, -1]])
    options = {"seed": 4}
    whole = roll(kind, scorer, requests, 3, depths=depths, constraint=Constraint.build(TRIE, deny=deny), **options)
    for rows in ([4, 0], [2], [1, 3, 2, 0, 4]):
        constraint = Constraint.build(TRIE, deny=deny[rows])
        some = roll(kind, scorer, requests[rows], 3, depths=depths[rows], constraint=constraint, **options)
        assert torch.equal(some.item_index, whole.item_index[rows])
        assert torch.equal(some.log_probs, whole.log_probs[rows])
    if kind != "beam":
        other = [roll(kind, scorer, torch.arange(300), 3, seed=seed).item_index for seed in (4, 4, 5)]
        assert torch.equal(other[0], other[1])
        assert not torch.equal(other[0], other[2])


@settings(max_examples=examples(40))
@given(code_tables(unique=True), st.sampled_from(TABLE_KINDS), st.integers(0, 99), st.integers(1, 8), st.data())
def test_beam_rollouts_are_beam_search(table: CodeTable, kind: str, seed: int, k: int, data: st.DataObject) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, random_tables(trie, kind, seed, num_tables=2))
    allowed = data.draw(st.sets(st.integers(0, trie.num_items - 1)))
    constraint = admit(allowed, trie) if allowed else None
    requests = torch.arange(2)
    expected = beam_search(scorer, trie, requests, beam_width=k, num_candidates=k, constraint=constraint)
    found = roll("beam", scorer, requests, k, constraint=constraint)
    assert torch.equal(found.item_index, expected.item_index)
    torch.testing.assert_close(found.log_probs.sum(dim=2), expected.log_prob)


def test_a_hinted_beam_is_a_beam_below_the_hint() -> None:
    scorer = TableScorer(TRIE, random_tables(TRIE, "normal", 0, num_tables=7))
    requests, targets = torch.arange(7), torch.tensor([6, 1, -1, 0, 4, 3, 2])
    for length in range(4):
        hints = hint_nodes(TRIE, targets, torch.full((7,), length))
        below = [
            [item if target < 0 or ROWS[item][:length] == ROWS[target][:length] else -1 for item in range(7)]
            for target in targets.tolist()
        ]
        constraint = Constraint.build(TRIE, allow=mask_of_items(torch.tensor(below), 7))
        expected = beam_search(scorer, TRIE, requests, beam_width=7, num_candidates=7, constraint=constraint)
        assert torch.equal(roll("beam", scorer, requests, 7, hints=hints).item_index, expected.item_index)
        sampled = roll("stochastic beam", scorer, requests, 7, hints=hints).item_index
        assert torch.equal(sampled.sort(dim=1).values, expected.item_index.sort(dim=1).values)


def test_a_denied_hint_leaves_nothing() -> None:
    scorer = small()
    hints = hint_nodes(TRIE, torch.tensor([3, 0]), torch.tensor([1, 1]))
    constraint = Constraint.build(TRIE, deny=torch.tensor([[3], [3]]))
    for kind in KINDS:
        found = roll(kind, scorer, torch.arange(2), 2, hints=hints, constraint=constraint)
        assert found.item_index[0].tolist() == [-1, -1]
        assert found.item_index[1, 0].item() in (0, 1, 2)


def test_an_impossible_hint_leaves_nothing() -> None:
    """Nothing could be learnt from it: the model's log-probability is -inf."""
    tables = random_tables(TRIE, "normal", 3)
    tables[0][0, 0, 1] = -torch.inf
    hints = hint_nodes(TRIE, torch.tensor([3]), torch.tensor([1]))
    for kind in KINDS:
        assert not roll(kind, TableScorer(TRIE, tables), torch.arange(1), 2, hints=hints).is_valid.any()


def test_items_that_share_their_codes_are_drawn_alike() -> None:
    codes = np.array([[0, 1], [1, 0], [0, 1], [0, 0], [0, 1]])
    trie = SemanticIdTrie.build(codes, (2, 2))
    scorer = TableScorer(trie, random_tables(trie, "normal", 2))
    constraint = admit({0, 1, 3, 4}, trie)
    rows = [tuple(row) for row in codes.tolist()]
    expected = oracle.item_probabilities(
        rows, read_log_probs(scorer, rows, 0), temperature=1.0, admissible={0, 1, 3, 4}
    )
    for kind in ("replacement", "stochastic beam"):
        found = roll(kind, scorer, torch.arange(N), 1, constraint=constraint)
        assert not oracle.is_unlikely(counts(found.item_index), of_items(expected))
    assert set(roll("beam", scorer, torch.arange(1), 5, constraint=constraint).item_index[0].tolist()) == {0, 1, 3, -1}


def test_conditional_noise_is_the_formula_and_keeps_the_maximum() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = 2 * torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    noisy[0, 0, 2:] = -torch.inf
    noisy[1, 2] = -torch.inf
    maximum = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found = condition_on_maximum(noisy, maximum)
    plain = -(torch.exp(-maximum.unsqueeze(2)) - torch.exp(-noisy.amax(2, keepdim=True)) + torch.exp(-noisy)).log()
    plain[1, 2] = -torch.inf
    torch.testing.assert_close(found, plain)
    is_possible = torch.ones(3, 4, dtype=torch.bool)
    is_possible[1, 2] = False
    assert torch.equal(found.amax(dim=2)[is_possible], maximum[is_possible])
    far = condition_on_maximum(torch.tensor([[[-800.0, -900.0, 700.0]]], dtype=torch.float64), torch.tensor([[-750.0]]))
    assert torch.isfinite(far).all()
    assert far[0, 0].argsort().tolist() == [1, 0, 2]


def test_no_gradient_and_no_trace_is_left() -> None:
    tables = [table.requires_grad_() for table in random_tables(TRIE, "normal", 0)]
    for kind in KINDS:
        assert not roll(kind, TableScorer(TRIE, tables), torch.arange(2), 2).log_probs.requires_grad


def test_impossible_numbers_are_refused() -> None:
    scorer = small()
    for kind in KINDS:
        with pytest.raises(ConfigError, match="wrong number of candidates"):
            roll(kind, scorer, torch.arange(2), 0)
    with pytest.raises(ConfigError, match="wrong temperature"):
        roll("replacement", scorer, torch.arange(2), 1, temperature=0.0)
    with pytest.raises(ConfigError, match=r"length of the shared prefix .*expected 0 to 2, found \[0, 3\]"):
        roll("siblings", scorer, torch.arange(2), 1, depths=torch.tensor([0, 3]))
    scorer.log_probs[1][0, 0, 0] = torch.nan
    for kind in KINDS:
        with pytest.raises(DataError, match="level 1"):
            roll(kind, scorer, torch.arange(50), 6, depths=torch.zeros(50, dtype=torch.int64))
