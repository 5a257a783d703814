"""The diagnosis of a beam search against a beam search of dicts, and exact places against sorting everything."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.decoding.beam_search import beam_search
from genrec.decoding.diagnosis import SearchDiagnosis, diagnose_search, exact_places, judge
from genrec.decoding.exhaustive import exhaustive_search, score_catalogue
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle, trie_oracle
from oracles.code_tables import CodeTable, code_tables
from oracles.trie_oracle import Prefix

kinds = st.sampled_from(search_oracle.TABLE_KINDS)
normalisations = st.sampled_from(["trie", "vocabulary"])
seeds = st.integers(0, 99)
NUM_TABLES = 2


def planted(table: CodeTable, kind: str, seed: int, normalisation: str = "trie") -> tuple[SemanticIdTrie, TableScorer]:
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    logits = search_oracle.random_tables(trie, kind, seed, num_tables=NUM_TABLES)
    return trie, TableScorer(trie, logits, normalisation=normalisation)


def draw_requests(
    data: st.DataObject, trie: SemanticIdTrie
) -> tuple[torch.Tensor, torch.Tensor, list[Set[int]], Constraint | None]:
    """Three requests: their tables, their targets, and what each may get."""
    items = st.integers(0, trie.num_items - 1)
    targets = torch.tensor([data.draw(items) for _ in range(3)])
    everything = set(range(trie.num_items))
    if data.draw(st.booleans()):
        return torch.tensor([0, 1, 0]), targets, [everything] * 3, None
    denied = [data.draw(st.lists(items, max_size=4)) for _ in range(3)]
    deny = torch.tensor([row + [-1] * (4 - len(row)) for row in denied])
    return (
        torch.tensor([0, 1, 0]),
        targets,
        [everything - set(row) for row in denied],
        Constraint.build(trie, deny=deny),
    )


def prefix_scores(log_probs: search_oracle.LogProbs, row: Prefix) -> list[float]:
    total, scores = np.float32(0), []
    for depth, code in enumerate(row):
        total = total + log_probs[row[:depth]][code]
        scores.append(float(total))
    return scores


def is_open(root: dict, prefix: Prefix, score: float, admissible: Set[int]) -> bool:
    return score > -np.inf and bool(admissible & set(trie_oracle.items(root, prefix)))


@settings(max_examples=examples(80))
@given(code_tables(), kinds, normalisations, seeds, st.integers(1, 6), st.data())
def test_beams_and_the_way_of_the_target_are_those_of_a_search_with_dicts(
    table: CodeTable, kind: str, normalisation: str, seed: int, width: int, data: st.DataObject
) -> None:
    trie, scorer = planted(table, kind, seed, normalisation)
    requests, targets, admissible, constraint = draw_requests(data, trie)
    found = diagnose_search(
        scorer, trie, requests, targets, beam_width=width, num_candidates=width, constraint=constraint
    )
    root = trie_oracle.build(table.rows)
    for request, (row, target) in enumerate(zip(requests.tolist(), targets.tolist(), strict=True)):
        log_probs = search_oracle.read_log_probs(scorer, table.rows, row)
        expected = search_oracle.beam_levels(table.rows, log_probs, width, admissible[request])
        path = table.rows[target]
        scores = prefix_scores(log_probs, path)
        lost_at, rival = -1, -1
        for depth, (level, beams) in enumerate(zip(found.levels, expected, strict=True), 1):
            nodes = trie_oracle.prefixes(root, depth)
            kept = [prefix for prefix, _ in beams]
            padding = level.nodes.shape[1] - len(kept)
            assert level.nodes[request].tolist() == [nodes.index(prefix) for prefix in kept] + [-1] * padding
            assert level.log_prob[request].tolist() == [float(score) for _, score in beams] + [-np.inf] * padding
            assert int(level.num_live[request]) == len(kept)
            own = path[:depth]
            assert int(level.target_node[request]) == nodes.index(own)
            assert float(level.target_log_prob[request]) == scores[depth - 1]
            assert int(level.target_place[request]) == (kept.index(own) if own in kept else -1)
            if lost_at < 0 and own not in kept:
                lost_at = depth - 1
                rival = nodes.index(kept[-1]) if is_open(root, own, scores[depth - 1], admissible[request]) else -1
                # what displaces a prefix fills the beam and is better, or as good with lower codes
                assert rival < 0 or len(kept) == width
                assert rival < 0 or (-beams[-1][1], kept[-1]) < (-scores[depth - 1], own)
        assert int(found.lost_at[request]) == lost_at
        assert int(found.rivals[request]) == rival
        assert bool(found.is_admissible[request]) == (target in admissible[request])
    last = score_catalogue(scorer, trie, requests).gather(1, targets.unsqueeze(1)).squeeze(1)
    assert torch.equal(found.target_log_prob, last)


@settings(max_examples=examples(50))
@given(code_tables(), kinds, seeds, st.integers(1, 6), st.data())
def test_the_list_is_that_of_the_search(
    table: CodeTable, kind: str, seed: int, width: int, data: st.DataObject
) -> None:
    trie, scorer = planted(table, kind, seed)
    requests, targets, _, constraint = draw_requests(data, trie)
    k = data.draw(st.integers(1, width * trie.max_bucket))
    how = {"beam_width": width, "num_candidates": k, "constraint": constraint}
    found = diagnose_search(scorer, trie, requests, targets, **how)
    expected = beam_search(scorer, trie, requests, **how)
    assert torch.equal(found.candidates.item_index, expected.item_index)
    assert torch.equal(found.candidates.score, expected.score)
    lists = [row.index(target) if target in row else -1 for row, target in zip(*listed(found), strict=True)]
    assert found.target_place.tolist() == lists


def listed(found: SearchDiagnosis) -> tuple[list[list[int]], list[int]]:
    return found.candidates.item_index.tolist(), found.targets.tolist()


@settings(max_examples=examples(50))
@given(code_tables(), kinds, normalisations, seeds, st.data())
def test_exact_places_are_those_of_sorting_everything(
    table: CodeTable, kind: str, normalisation: str, seed: int, data: st.DataObject
) -> None:
    trie, scorer = planted(table, kind, seed, normalisation)
    requests, targets, admissible, constraint = draw_requests(data, trie)
    exact = exact_places(scorer, trie, requests, targets, constraint=constraint)
    everything = exhaustive_search(scorer, trie, requests, constraint=constraint).item_index.tolist()
    root = trie_oracle.build(table.rows)
    for request, (row, target) in enumerate(zip(requests.tolist(), targets.tolist(), strict=True)):
        listed = everything[request]
        assert int(exact.items[request]) == (listed.index(target) if target in listed else -1)
        log_probs = search_oracle.read_log_probs(scorer, table.rows, row)
        for depth in range(1, trie.num_levels + 1):
            scores = {each: prefix_scores(log_probs, each)[-1] for each in trie_oracle.prefixes(root, depth)}
            opened = [each for each, score in scores.items() if is_open(root, each, score, admissible[request])]
            opened.sort(key=lambda each: (-scores[each], each))
            own = table.rows[target][:depth]
            assert int(exact.prefixes[request, depth - 1]) == (opened.index(own) if own in opened else -1)


@settings(max_examples=examples(50))
@given(code_tables(), kinds, seeds, st.data())
def test_the_sufficient_width_keeps_the_target_at_every_level(
    table: CodeTable, kind: str, seed: int, data: st.DataObject
) -> None:
    trie, scorer = planted(table, kind, seed)
    requests, targets, _, constraint = draw_requests(data, trie)
    exact = exact_places(scorer, trie, requests, targets, constraint=constraint)
    widths = exact.sufficient_width.tolist()
    for request, width in enumerate(widths):
        assert (width == 0) == bool((exact.prefixes[request] < 0).any())
        how = {"beam_width": max(width, 1), "num_candidates": 1, "constraint": constraint}
        found = diagnose_search(scorer, trie, requests, targets, **how)
        assert width == 0 or int(found.lost_at[request]) == -1


@settings(max_examples=examples(60))
@given(code_tables(), kinds, seeds, st.integers(1, 6), st.data())
def test_verdicts_say_what_exhaustive_search_would_have_done(
    table: CodeTable, kind: str, seed: int, width: int, data: st.DataObject
) -> None:
    trie, scorer = planted(table, kind, seed)
    requests, targets, admissible, constraint = draw_requests(data, trie)
    k = data.draw(st.integers(1, width * trie.max_bucket))
    how = {"num_candidates": k, "constraint": constraint}
    found = diagnose_search(scorer, trie, requests, targets, beam_width=width, **how)
    best = exhaustive_search(scorer, trie, requests, **how).item_index.tolist()
    verdicts = judge(found, exact_places(scorer, trie, requests, targets, constraint=constraint))
    guesses = judge(found)
    for request, (row, target) in enumerate(zip(*listed(found), strict=True)):
        expected = "lost_by_search" if target in best[request] else "ranked_low_by_model"
        if float(found.target_log_prob[request]) == -np.inf:
            expected = "impossible"
        if target not in admissible[request]:
            expected = "excluded"
        if target in row:
            expected = "found"
        assert verdicts[request] == expected
        # without exact places only what the search lost can be taken for more than it is
        others = {expected, "lost_by_search"} if expected == "ranked_low_by_model" else {expected}
        assert guesses[request] in others


def greedy_trap() -> tuple[SemanticIdTrie, TableScorer]:
    """Code 0 is likelier than code 1, but its two items share what it has: item 2, under code 1, is the best."""
    trie = SemanticIdTrie.build(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    tables = [torch.tensor([[[0.6, 0.4]]]).log(), torch.tensor([[[0.55, 0.45], [1.0, 0.0]]]).log()]
    return trie, TableScorer(trie, tables)


def test_an_item_behind_an_unlikely_code_is_lost_by_a_narrow_beam() -> None:
    trie, scorer = greedy_trap()
    requests, targets = torch.tensor([0, 0, 0]), torch.tensor([2, 0, 1])
    found = diagnose_search(scorer, trie, requests, targets, beam_width=1, num_candidates=1)
    exact = exact_places(scorer, trie, requests, targets)
    assert found.lost_at.tolist() == [0, -1, 1]
    assert found.rivals.tolist() == [0, -1, 0]
    assert exact.items.tolist() == [0, 1, 2]
    assert exact.prefixes.tolist() == [[1, 0], [0, 1], [0, 2]]
    assert exact.sufficient_width.tolist() == [2, 2, 3]
    assert judge(found, exact) == ["lost_by_search", "found", "ranked_low_by_model"]
    assert judge(found) == ["lost_by_search", "found", "ranked_low_by_model"]
    wide = diagnose_search(scorer, trie, requests, targets, beam_width=2, num_candidates=1)
    assert judge(wide, exact) == ["found", "ranked_low_by_model", "ranked_low_by_model"]


def test_a_tie_is_lost_to_the_lower_code_though_the_lower_item_would_be_returned() -> None:
    trie = SemanticIdTrie.build(np.array([[1], [0]]), (2,))
    scorer = TableScorer(trie, search_oracle.random_tables(trie, "equal", 0))
    requests, targets = torch.tensor([0, 0]), torch.tensor([0, 1])
    found = diagnose_search(scorer, trie, requests, targets, beam_width=1, num_candidates=1)
    exact = exact_places(scorer, trie, requests, targets)
    assert found.candidates.item_index.tolist() == [[1], [1]]
    assert exact.items.tolist() == [0, 1]
    assert exact.prefixes.tolist() == [[1], [0]]
    assert judge(found, exact) == judge(found) == ["lost_by_search", "found"]


def test_an_item_that_may_not_come_has_no_rival() -> None:
    trie, scorer = greedy_trap()
    requests, targets = torch.tensor([0, 0]), torch.tensor([2, 1])
    constraint = Constraint.build(trie, deny=torch.tensor([[2], [1]]))
    found = diagnose_search(scorer, trie, requests, targets, beam_width=2, num_candidates=2, constraint=constraint)
    exact = exact_places(scorer, trie, requests, targets, constraint=constraint)
    assert found.is_admissible.tolist() == [False, False]
    assert found.lost_at.tolist() == [0, 1]
    assert found.rivals.tolist() == [-1, -1]
    assert exact.prefixes.tolist() == [[-1, -1], [0, -1]]
    assert exact.sufficient_width.tolist() == [0, 0]
    assert judge(found, exact) == ["excluded", "excluded"]


def test_bad_widths_and_broken_models_are_reported() -> None:
    trie, scorer = greedy_trap()
    requests = torch.tensor([0])
    with pytest.raises(ConfigError, match="cannot return that many candidates"):
        diagnose_search(scorer, trie, requests, requests, beam_width=1, num_candidates=2)
    scorer.log_probs[1][0, 0, 1] = float("nan")
    with pytest.raises(DataError, match="no log-probability"):
        diagnose_search(scorer, trie, requests, requests, beam_width=2, num_candidates=1)
    with pytest.raises(DataError, match="no log-probability"):
        exact_places(scorer, trie, requests, requests)
