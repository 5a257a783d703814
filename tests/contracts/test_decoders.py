"""What every decoder keeps, however it searches.

A decoder joins by a function (scorer, trie, context, num_candidates, constraint) in `DECODERS`, with a budget that
covers every level of the small catalogues here; `EXACT` holds those that then have to find what
exhaustive search finds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import exhaustive_search, score_items
from genrec.decoding.scorer import Candidates, TableScorer
from genrec.decoding.tree_scorer import TableTreeScorer
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.seeding import generator
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle
from oracles.code_tables import CodeTable, code_tables

Decoder = Callable[..., Candidates]
COVERING = 16  # more than the items, so also than the nodes of any depth
NUM_TABLES = 3


def exhaustive(scorer, trie, context, *, num_candidates: int, constraint=None) -> Candidates:
    return exhaustive_search(scorer, trie, context, num_candidates=num_candidates, constraint=constraint)


def beam(width: int) -> Decoder:
    def decode(scorer, trie, context, *, num_candidates: int, constraint=None) -> Candidates:
        return beam_search(
            scorer, trie, context, beam_width=width, num_candidates=num_candidates, constraint=constraint
        )

    return decode


def value_guided(how: ValueGuidedSettings) -> Decoder:
    """Guided by random values; narrow searches are in tests/unit/decoding/test_value_guided.py."""

    def decode(scorer, trie, context, *, num_candidates: int, constraint=None) -> Candidates:
        num_tables = len(scorer.log_probs[0])
        values = [
            torch.randn(num_tables, trie.num_nodes(depth), generator=torch.Generator().manual_seed(depth))
            for depth in range(trie.num_levels + 1)
        ]
        where = {"num_candidates": num_candidates, "constraint": constraint}
        return value_guided_search(TableTreeScorer(scorer, values), trie, context, how, **where)[0]

    return decode


EXACT: dict[str, Decoder] = {
    "exhaustive": exhaustive,
    "covering_beam": beam(COVERING),
    "covering_value_guided": value_guided(ValueGuidedSettings(4 * COVERING, COVERING // 2)),
}
DECODERS: dict[str, Decoder] = {**EXACT, "narrow_beam": beam(4)}

tables = code_tables(max_items=COVERING - 2)
kinds = st.sampled_from(search_oracle.TABLE_KINDS)
normalisations = st.sampled_from(["trie", "vocabulary"])
seeds = st.integers(0, 99)


def planted(table: CodeTable, kind: str, seed: int, normalisation: str = "trie") -> tuple[SemanticIdTrie, TableScorer]:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    logits = search_oracle.random_tables(trie, kind, seed, num_tables=NUM_TABLES)
    return trie, TableScorer(trie, logits, normalisation=normalisation)


def draw_constraint(data: st.DataObject, trie: SemanticIdTrie, batch: int) -> tuple[Constraint, torch.Tensor]:
    """A constraint and the admissible items [B, N]."""
    items = st.lists(st.integers(-1, trie.num_items - 1), min_size=4, max_size=4)
    deny = torch.tensor([data.draw(items) for _ in range(batch)])
    allow = torch.tensor(data.draw(st.lists(st.booleans(), min_size=trie.num_items, max_size=trie.num_items)))
    use_allow = data.draw(st.booleans())
    mask = allow.expand(batch, -1).clone() if use_allow else torch.ones(batch, trie.num_items, dtype=torch.bool)
    for request, row in enumerate(deny.tolist()):
        mask[request, [item for item in row if item >= 0]] = False
    return Constraint.build(trie, deny=deny, allow=allow if use_allow else None), mask


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
class TestDecoder:
    @settings(max_examples=examples(30))
    @given(tables, kinds, normalisations, seeds, st.data())
    def test_lists_hold_admissible_items_once_with_true_log_probs(self, decode, table, kind, normalisation, seed, data):
        trie, scorer = planted(table, kind, seed, normalisation)
        context = torch.arange(NUM_TABLES)
        constraint, admissible = draw_constraint(data, trie, NUM_TABLES)
        found = decode(scorer, trie, context, num_candidates=4, constraint=constraint)
        assert found.item_index.shape == found.log_prob.shape == found.score.shape == (NUM_TABLES, 4)
        assert found.item_index.dtype == torch.int64
        for request, row in enumerate(found.item_index.tolist()):
            items = [item for item in row if item >= 0]
            assert len(set(items)) == len(items)
            assert all(0 <= item < trie.num_items and admissible[request, item] for item in items)
            assert row == items + [-1] * (4 - len(items))
            scores = found.score[request].tolist()
            assert all(np.isfinite(scores[: len(items)]))
            assert scores[len(items) :] == [-np.inf] * (4 - len(items))
            pairs = list(zip(scores, items, strict=False))
            assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        assert torch.equal(found.log_prob, score_items(scorer, trie, context, found.item_index))

    @settings(max_examples=examples(25))
    @given(tables, kinds, seeds, st.data())
    def test_requests_do_not_influence_each_other(self, decode, table, kind, seed, data):
        trie, scorer = planted(table, kind, seed)
        context = torch.tensor([2, 0, 1, 2])
        constraint, admissible = draw_constraint(data, trie, len(context))
        whole = decode(scorer, trie, context, num_candidates=3, constraint=constraint)
        for request in range(len(context)):
            alone = Constraint.build(trie, allow=admissible[request])
            part = decode(scorer, trie, context[request : request + 1], num_candidates=3, constraint=alone)
            assert torch.equal(part.item_index[0], whole.item_index[request])
            assert torch.equal(part.log_prob[0], whole.log_prob[request])

    @settings(max_examples=examples(12))
    @given(tables, kinds, seeds)
    def test_twice_the_same_under_inference_mode_and_without(self, decode, table, kind, seed):
        trie, scorer = planted(table, kind, seed)
        first = decode(scorer, trie, torch.tensor([0, 1]), num_candidates=3)
        with torch.inference_mode():
            histories = torch.tensor([[0], [1]])
            constraint = Constraint.build(trie, deny=torch.full((2, 1), -1), allow=torch.ones(trie.num_items).bool())
            context = scorer.encode(histories, torch.ones(2, dtype=torch.int64))
            second = decode(scorer, trie, context, num_candidates=3, constraint=constraint)
        assert torch.equal(first.item_index, second.item_index)
        assert torch.equal(first.log_prob, second.log_prob)

    @settings(max_examples=examples(12))
    @given(tables, seeds)
    def test_nothing_admissible_gives_nothing(self, decode, table, seed):
        trie, scorer = planted(table, "normal", seed)
        everything = torch.arange(trie.num_items).expand(2, -1)
        nothing = torch.zeros(trie.num_items, dtype=torch.bool)
        for constraint in (Constraint.build(trie, deny=everything), Constraint.build(trie, allow=nothing)):
            found = decode(scorer, trie, torch.tensor([0, 1]), num_candidates=2, constraint=constraint)
            assert found.item_index.tolist() == [[-1, -1]] * 2
            assert found.log_prob.tolist() == [[-np.inf] * 2] * 2

    @settings(max_examples=examples(12))
    @given(tables, seeds)
    def test_the_only_admissible_item_is_found(self, decode, table, seed):
        """No beam is spent on a dead subtree, so it is found however unlikely it is."""
        trie, scorer = planted(table, "normal", seed)
        for item in range(trie.num_items):
            others = torch.tensor([[other for other in range(trie.num_items) if other != item]], dtype=torch.int64)
            constraint = Constraint.build(trie, deny=others.view(1, -1))
            found = decode(scorer, trie, torch.tensor([1]), num_candidates=2, constraint=constraint)
            assert found.item_index.tolist() == [[item, -1]]

    def test_a_catalogue_of_one_item(self, decode):
        trie = SemanticIdTrie.build(np.array([[3, 0, 1]]), (4, 1, 2))
        scorer = TableScorer(trie, search_oracle.random_tables(trie, "normal", 0))
        found = decode(scorer, trie, torch.tensor([0, 0]), num_candidates=2)
        assert found.item_index.tolist() == [[0, -1]] * 2
        assert found.log_prob[:, 0].tolist() == [0.0, 0.0]

    def test_float64_scores_stay_float64(self, decode):
        codes = generator(2).integers(0, 3, (10, 2))
        trie = SemanticIdTrie.build(codes, (3, 3))
        scorer = TableScorer(trie, [t.double() for t in search_oracle.random_tables(trie, "few_values", 3)])
        found = decode(scorer, trie, torch.tensor([0]), num_candidates=4)
        assert found.log_prob.dtype == torch.float64
        assert torch.equal(found.log_prob, score_items(scorer, trie, torch.tensor([0]), found.item_index))


@pytest.mark.parametrize("decode", EXACT.values(), ids=EXACT)
class TestExactDecoder:
    @settings(max_examples=examples(30))
    @given(tables, kinds, normalisations, seeds, st.integers(1, COVERING), st.data())
    def test_it_finds_what_brute_force_finds(self, decode, table, kind, normalisation, seed, k, data):
        trie, scorer = planted(table, kind, seed, normalisation)
        constraint, admissible = draw_constraint(data, trie, NUM_TABLES)
        found = decode(scorer, trie, torch.arange(NUM_TABLES), num_candidates=k, constraint=constraint)
        for request in range(NUM_TABLES):
            log_probs = search_oracle.read_log_probs(scorer, table.rows, request)
            allowed = set(admissible[request].nonzero().flatten().tolist())
            expected = search_oracle.exhaustive(table.rows, log_probs, k, allowed)
            padding = k - len(expected)
            assert found.item_index[request].tolist() == [item for item, _ in expected] + [-1] * padding
            assert found.log_prob[request].tolist() == [float(score) for _, score in expected] + [-np.inf] * padding
            if kind != "impossible":
                assert len(expected) == min(k, len(allowed))
