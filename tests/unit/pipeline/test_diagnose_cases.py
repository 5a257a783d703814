"""Looking at many cases, against one beam search of dicts a case; and neighbours against sorting cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.sequences import Cases, Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.scorer import TableScorer
from genrec.pipeline.diagnose_cases import Columns, Look, look_at_cases, nearest_items
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import search_oracle, trie_oracle
from oracles.code_tables import CodeTable, code_tables

NUM_CASES = 7


def make(table: CodeTable, seed: int, width: int, *, exclude_seen: bool, batch_size: int = 3) -> tuple[Look, Cases]:
    """A search by tables, and cases whose last item chooses the table."""
    trie = SemanticIdTrie.build(table.codes, table.sizes)
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, trie.num_items)
    generator = CandidateGenerator(
        TableScorer(trie, search_oracle.random_tables(trie, "few_values", seed, num_tables=2)),
        trie,
        item_ids=[str(item) for item in range(trie.num_items)],
        train_counts=counts,
        beam_width=width,
        batch_size=batch_size,
    )
    rows = [rng.integers(0, trie.num_items, rng.integers(1, 4)).tolist() for _ in range(NUM_CASES)]
    targets = rng.integers(0, trie.num_items, NUM_CASES).astype(np.int32)
    cases = Cases(np.arange(NUM_CASES, dtype=np.int32), targets, Ragged.from_lists(rows))
    k = int(rng.integers(1, width + 1))
    return Look(generator, counts, k, exclude_seen=exclude_seen, exact=True), cases


def look_at(look: Look, cases: Cases) -> Columns:
    done: list[int] = []
    columns = look_at_cases(look, cases, progress=lambda task, at, total: done.append(at))
    assert done[-1] == NUM_CASES
    return columns


@settings(max_examples=20)
@given(code_tables(), st.integers(0, 99), st.integers(1, 5), st.booleans())
def test_each_case_is_what_a_search_of_dicts_says(table: CodeTable, seed: int, width: int, exclude_seen: bool) -> None:
    look, cases = make(table, seed, width, exclude_seen=exclude_seen)
    columns = look_at(look, cases)
    root, scorer = trie_oracle.build(table.rows), look.generator.scorer
    assert isinstance(scorer, TableScorer)

    def interactions(prefix: tuple[int, ...]) -> int:
        return sum(int(look.counts[item]) for item in trie_oracle.items(root, prefix))

    for case, (history, target) in enumerate(zip(cases.histories.to_lists(), cases.target.tolist(), strict=True)):
        log_probs = search_oracle.read_log_probs(scorer, table.rows, history[-1] % 2)
        admissible = set(range(len(table.rows))) - (set(history) if exclude_seen else set())
        levels = search_oracle.beam_levels(table.rows, log_probs, width, admissible)
        length = width * look.trie.max_bucket
        listed = [item for item, _ in search_oracle.beam_search(table.rows, log_probs, width, length, admissible)]
        everything = search_oracle.exhaustive(table.rows, log_probs, len(table.rows), admissible)
        order = [item for item, _ in everything]
        assert columns["place"][case] == (listed.index(target) if target in listed else -1)
        assert columns["exact_place"][case] == (order.index(target) if target in order else -1)
        assert [item for item in columns["lists"][case].tolist() if item >= 0] == listed[: look.k]
        mass = sum(np.exp(score) for item, score in everything if item in listed[: look.k])
        assert columns["list_prob"][case] == pytest.approx(mass, abs=1e-5)
        best = sum(np.exp(score) for _, score in everything[: look.k])
        assert columns["regret_mass"][case] == pytest.approx(best - mass, abs=1e-5)
        own = table.rows[target]
        for depth, beams in enumerate(levels, start=1):
            names = [prefix for prefix, _ in beams]
            assert (columns["level_place"][case, depth - 1] >= 0) == (own[:depth] in names)
            assert columns["own_count"][case, depth - 1] == interactions(own[:depth])
            assert columns["trained"][case, depth - 1] == (interactions(own[:depth]) > 0)
            if not np.isnan(columns["gap"][case, depth - 1]):
                rival, score = beams[-1]
                assert columns["lost_at"][case] == depth - 1
                assert columns["gap"][case, depth - 1] == score - columns["level_log_prob"][case, depth - 1]
                assert columns["rival_count"][case, depth - 1] == interactions(rival)
                common = [a == b for a, b in zip(rival, own, strict=False)]
                assert columns["shared"][case, depth - 1] == ([*common, False]).index(False)


@settings(max_examples=12)
@given(code_tables(), st.integers(0, 99), st.integers(1, 5), st.booleans())
def test_invariants(table: CodeTable, seed: int, width: int, exclude_seen: bool) -> None:
    look, cases = make(table, seed, width, exclude_seen=exclude_seen)
    columns = look_at(look, cases)
    is_kept = columns["level_place"] >= 0
    assert bool((is_kept[:, 1:] <= is_kept[:, :-1]).all()), "what is lost stays lost"
    seen = np.array([target in row for target, row in zip(cases.target.tolist(), cases.histories, strict=True)])
    is_free = ~seen if exclude_seen else np.ones_like(seen)
    assert (columns["place"] >= 0).tolist() == (is_kept[:, -1] & is_free).tolist()
    assert min(columns[f"regret_{name}"].min() for name in ("mass", "log_prob", "top", "num_missing")) >= 0
    assert not columns["invalid"].any()
    assert not columns["duplicate"].any()
    assert ((columns["gap"] >= 0) | np.isnan(columns["gap"])).all()
    assert ((columns["lost_at"] < 0) == is_kept[:, -1]).all()
    is_sure = (columns["sufficient_width"] > 0) & (columns["sufficient_width"] <= width)
    assert bool((is_kept[:, -1] | ~is_sure).all())
    enough = Look(look.generator.of_width(look.trie.num_items), look.counts, look.k, exclude_seen, exact=True)
    wide = look_at(enough, cases)
    assert not wide["regret_mass"].any()
    assert wide["regret_is_same"].all()
    assert (wide["place"] == wide["exact_place"]).all()
    assert "lost_by_search" not in wide["verdict"]
    alone, _ = make(table, seed, width, exclude_seen=exclude_seen, batch_size=1)
    one_by_one = look_at(alone, cases)
    for name, column in columns.items():
        assert np.array_equal(column, one_by_one[name], equal_nan=column.dtype.kind == "f"), name


def test_nothing_exact_where_it_is_not_asked_for() -> None:
    look, cases = make(CodeTable(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2)), 0, 1, exclude_seen=False)
    columns = look_at(Look(look.generator, look.counts, look.k, exclude_seen=False, exact=False), cases)
    assert not [name for name in columns if "exact" in name or "regret" in name]
    assert columns["place"].tolist() == look_at(look, cases)["place"].tolist()


def test_nearest_items_have_the_largest_cosines() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.integers(-2, 3, (23, 3)).astype(np.float32)  # some equal, and some of zeros
    found = nearest_items(vectors, 5, chunk=10)
    unit = torch.from_numpy(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))
    for item, near in enumerate(found):
        cosines = (unit * unit[item]).sum(dim=1).tolist()
        others = sorted((other for other in range(23) if other != item), key=lambda other: (-cosines[other], other))
        assert near.tolist() == others[:5]
    assert nearest_items(vectors[:3], 4).tolist()[0][2:] == [-1, -1]
