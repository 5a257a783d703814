"""Beam search against a beam search of dicts: the same prefixes, bit by bit the same scores, the same ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.beam_search import beam_search, search_levels
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError, DataError
from genrec.seeding import generator
from genrec.semantic_ids.constraints import Constraint, mask_of_items
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle
from oracles.code_tables import CodeTable, code_tables

kinds = st.sampled_from(search_oracle.TABLE_KINDS)
normalisations = st.sampled_from(["trie", "vocabulary"])


def lists(found) -> list[list[tuple[int, float]]]:
    rows = zip(found.item_index.tolist(), found.log_prob.tolist(), strict=True)
    return [[pair for pair in zip(*row, strict=True) if pair[0] >= 0] for row in rows]


@settings(max_examples=examples(80))
@given(code_tables(), kinds, normalisations, st.integers(0, 99), st.integers(1, 8), st.data())
def test_the_same_search_with_dicts(
    table: CodeTable, kind: str, normalisation: str, seed: int, width: int, data: st.DataObject
) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, search_oracle.random_tables(trie, kind, seed, num_tables=2), normalisation=normalisation)
    subsets = st.sets(st.integers(0, trie.num_items - 1))
    admissible = [data.draw(subsets), data.draw(subsets)]
    denied = torch.tensor([[i if i not in s else -1 for i in range(trie.num_items)] for s in admissible])
    k = data.draw(st.integers(1, width * trie.max_bucket))
    mask = mask_of_items(
        torch.tensor([[i if i in s else -1 for i in range(trie.num_items)] for s in admissible]), trie.num_items
    )
    requests = torch.tensor([0, 1])
    for constraint in (Constraint.build(trie, deny=denied), Constraint.build(trie, allow=mask), None):
        found = beam_search(scorer, trie, requests, beam_width=width, num_candidates=k, constraint=constraint)
        for row, result in enumerate(lists(found)):
            log_probs = search_oracle.read_log_probs(scorer, table.rows, row)
            items = admissible[row] if constraint is not None else set(range(trie.num_items))
            expected = search_oracle.beam_search(table.rows, log_probs, width, k, items)
            assert result == [(item, float(score)) for item, score in expected]
        assert torch.equal(found.score, found.log_prob)
        assert bool((found.item_index[found.log_prob == -torch.inf] == -1).all())


def test_ties_at_a_cut_keep_the_lower_node() -> None:
    """Eight equal leaves, two beams: items 5 and 4 hold the lowest codes, whatever their numbers."""
    codes = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]])
    trie = SemanticIdTrie.build(codes, (2, 2, 2))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "equal", 0))
    found = beam_search(scorer, trie, torch.tensor([0]), beam_width=2, num_candidates=2)
    assert found.item_index.tolist() == [[4, 5]]
    assert found.log_prob[0].tolist() == pytest.approx([3 * np.log(0.5)] * 2)


def test_a_leaf_of_several_items_gives_them_all_but_the_denied() -> None:
    codes = np.array([[0], [1], [0], [0], [1]])
    trie = SemanticIdTrie.build(codes, (2,))
    scorer = TableScorer(trie, [torch.log(torch.tensor([[[0.75, 0.25]]]))])
    requests = torch.tensor([0, 0])
    constraint = Constraint.build(trie, deny=torch.tensor([[2, -1], [1, 4]]))
    found = beam_search(scorer, trie, requests, beam_width=2, num_candidates=6, constraint=constraint)
    assert found.item_index.tolist() == [[0, 3, 1, 4, -1, -1], [0, 2, 3, -1, -1, -1]]
    assert found.log_prob[0].exp().tolist() == pytest.approx([0.75, 0.75, 0.25, 0.25, 0, 0])
    one = beam_search(scorer, trie, requests, beam_width=1, num_candidates=3)
    assert one.item_index.tolist() == [[0, 2, 3]] * 2


def test_impossible_numbers_are_refused() -> None:
    trie = SemanticIdTrie.build(np.array([[0], [1], [0], [2]]), (3,))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "equal", 0))
    for k in (0, 5):
        with pytest.raises(ConfigError, match=rf"a search of 2 beams cannot .* \(expected 1 to 4, found {k}\); widen"):
            beam_search(scorer, trie, torch.tensor([0]), beam_width=2, num_candidates=k)
    with pytest.raises(ConfigError, match=r"wrong beam width \(expected 1 or more, found 0\)"):
        beam_search(scorer, trie, torch.tensor([0]), beam_width=0, num_candidates=1)


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
def test_a_broken_model_is_reported(value: float) -> None:
    trie = SemanticIdTrie.build(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "normal", 0, num_tables=2))
    scorer.log_probs[1][1, 0, 1] = value
    assert beam_search(scorer, trie, torch.tensor([0]), beam_width=3, num_candidates=3).item_index.shape == (1, 3)
    with pytest.raises(DataError, match=r"request 1 of the batch, level 1: .* \(expected numbers up to 0, or -inf"):
        beam_search(scorer, trie, torch.tensor([0, 1]), beam_width=3, num_candidates=3)


def test_what_stands_in_the_padding_is_ignored() -> None:
    """Validity belongs to the trie: numbers, or NaN, for children that are not there change nothing."""
    codes = generator(5).integers(0, 4, (20, 3))
    trie = SemanticIdTrie.build(codes, (4, 4, 4))
    tidy = TableScorer(trie, search_oracle.random_tables(trie, "normal", 1))
    deny = Constraint.build(trie, deny=torch.tensor([[0, 3, 7, 11]]))

    class Untidy:
        encode, start = tidy.encode, tidy.start

        def step(self, level, state, parents, codes, nodes):
            log_probs, state = tidy.step(level, state, parents, codes, nodes)
            fill = 5.0 if level == 1 else float("nan")
            return torch.where(trie.children(level, nodes).is_valid, log_probs, fill), state

    for width in (1, 3, 12):
        found, expected = (
            beam_search(scorer, trie, torch.tensor([0]), beam_width=width, num_candidates=width, constraint=deny)
            for scorer in (Untidy(), tidy)
        )
        assert torch.equal(found.item_index, expected.item_index)
        assert torch.equal(found.log_prob, expected.log_prob)


@given(code_tables(), kinds, st.integers(0, 9), st.integers(1, 20))
def test_levels_are_live_prefixes_in_the_order_of_their_nodes(
    table: CodeTable, kind: str, seed: int, width: int
) -> None:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    scorer = TableScorer(trie, search_oracle.random_tables(trie, kind, seed))
    levels = search_levels(scorer, trie, torch.tensor([0, 0]), beam_width=width)
    assert len(levels) == trie.num_levels
    most = 1
    for level, beams in enumerate(levels):
        most = min(width, most * trie.max_branching[level])
        assert beams.nodes.shape == (2, most)
        live = beams.nodes[0][beams.nodes[0] >= 0]
        assert live.tolist() == sorted(set(live.tolist()))
        assert torch.equal(beams.nodes >= 0, beams.log_prob > -torch.inf)
        assert torch.equal(beams.codes[0][beams.nodes[0] >= 0].int(), trie.child_codes[level][live])
        if level:
            above = levels[level - 1].nodes.gather(1, beams.parents)[0][beams.nodes[0] >= 0]
            assert torch.equal(above, trie.parents[level][live])
