"""The policy `reassign`: who moves, where to, at what cost, and what a limit does."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.collisions import Errors, Reassignment, reassign
from oracles.collision_oracle import best_moves, stayers_and_movers

COARSE = st.sampled_from([0.0, 0.25, 0.5, 1.0, 4.0])  # many ties, all sums exact


def looked_up(table: np.ndarray) -> Errors:
    return lambda items, last_codes: table[items[:, None], last_codes]


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """Codes with many collisions, level sizes, and every item's error at every last code, its own not the least."""
    sizes = (*draw(st.lists(st.integers(1, 2), max_size=2)), draw(st.integers(2, 5)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    codes = np.array(draw(st.lists(row, min_size=1, max_size=7)), dtype=np.int32)
    errors = [draw(st.lists(COARSE, min_size=sizes[-1], max_size=sizes[-1])) for _ in codes]
    return codes, sizes, np.array(errors)


def parents(codes: np.ndarray) -> Counter[tuple[int, ...]]:
    return Counter(tuple(row) for row in codes[:, :-1].tolist())


def moves_by_parent(codes: np.ndarray, moved: Reassignment) -> dict[tuple[int, ...], tuple[int, float]]:
    found: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for item, added in zip(moved.items.tolist(), moved.added.tolist(), strict=True):
        found[tuple(codes[item, :-1].tolist())].append(added)
    return {parent: (len(costs), sum(costs)) for parent, costs in found.items()}


def check_moves(codes: np.ndarray, errors: np.ndarray, moved: Reassignment) -> None:
    """Only last codes of items that do not stay have changed, to codes nobody had, at the costs that are told."""
    stay, movers = stayers_and_movers(codes, errors)
    changed = np.flatnonzero((moved.codes != codes).any(axis=1))
    assert changed.tolist() == moved.items.tolist()
    assert set(moved.items.tolist()) <= set(movers)
    np.testing.assert_array_equal(moved.codes[:, :-1], codes[:, :-1])
    np.testing.assert_array_equal(moved.old_codes, codes[moved.items, -1])
    expected = errors[moved.items, moved.codes[moved.items, -1]] - errors[moved.items, moved.old_codes]
    np.testing.assert_array_equal(moved.added, expected)
    new = {tuple(row) for row in moved.codes[moved.items].tolist()}
    assert len(new) == len(moved.items)
    assert not new & {tuple(row) for row in codes.tolist()}  # a code that somebody had stays taken
    assert stay.isdisjoint(moved.items.tolist())


@settings(deadline=None)
@given(problems())
def test_all_but_one_of_a_bucket_move_at_least_total_cost(problem) -> None:
    codes, sizes, errors = problem
    before = codes.copy()
    if max(parents(codes).values()) > sizes[-1]:
        with pytest.raises(DataError, match=r"item \d+ finds no free code"):
            reassign(codes, sizes, looked_up(errors), mean_error=1.0)
        return
    moved = reassign(codes, sizes, looked_up(errors), mean_error=1.0)
    np.testing.assert_array_equal(codes, before)
    check_moves(codes, errors, moved)
    assert len(np.unique(moved.codes, axis=0)) == len(codes)
    assert len(moved.items) == len(codes) - len(np.unique(codes, axis=0))
    assert moves_by_parent(codes, moved) == best_moves(codes, sizes[-1], errors, None)
    again = reassign(codes, sizes, looked_up(errors), mean_error=1.0)
    np.testing.assert_array_equal(again.codes, moved.codes)


@settings(deadline=None)
@given(problems(), st.sampled_from([0.0, 0.25, 0.5, 1.0, 4.0, 100.0]))
def test_with_a_limit_as_many_move_as_can_at_least_total_cost(problem, limit) -> None:
    """Full parents are no error: what finds no code stays. Costs may be negative here, as for codes not the nearest."""
    codes, sizes, errors = problem
    moved = reassign(codes, sizes, looked_up(errors), mean_error=2.0, max_added_distortion=limit / 2)
    check_moves(codes, errors, moved)
    assert (moved.added <= limit).all()
    expected = best_moves(codes, sizes[-1], errors, limit)
    assert moves_by_parent(codes, moved) == {parent: best for parent, best in expected.items() if best[0]}


def test_a_limit_that_nothing_exceeds_is_none() -> None:
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 9, (60, 2)).astype(np.int32)
    errors = generator.random((60, 9)) + np.where(np.arange(9) == codes[:, -1:], 0, 1)
    if max(parents(codes).values()) > 9:
        codes[:, 0] = np.arange(60) % 9
    free = reassign(codes, (9, 9), looked_up(errors), mean_error=1.0)
    limited = reassign(codes, (9, 9), looked_up(errors), mean_error=1.0, max_added_distortion=3.0)
    assert len(free.items) > 5
    np.testing.assert_array_equal(free.codes, limited.codes)
    stopped = reassign(codes, (9, 9), looked_up(errors), mean_error=0.0, max_added_distortion=3.0)
    assert len(stopped.items) == 0


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0.3]))
def test_the_order_of_items_decides_only_between_equal_vectors(seed, limit) -> None:
    """Whatever the order, the items of one vector have the same codes together; alone in its kind, an item its own."""
    generator = np.random.default_rng(seed)
    centroids = generator.standard_normal((12, 3))
    vectors = generator.standard_normal((8, 3))[generator.integers(0, 8, 12)]  # some vectors several times
    codes = np.square(vectors[:, None] - centroids).sum(axis=2).argmin(axis=1)[:, None].astype(np.int32)

    def by_vector(order: np.ndarray) -> dict[bytes, list[int]]:
        def errors(items: np.ndarray, last_codes: np.ndarray) -> np.ndarray:
            return np.square(vectors[order][items][:, None] - centroids[last_codes]).sum(axis=2)

        moved = reassign(codes[order], (12,), errors, mean_error=1.0, max_added_distortion=limit)
        found = defaultdict(list)
        for item, code in zip(order, moved.codes[:, 0].tolist(), strict=True):
            found[vectors[item].tobytes()].append(code)
        return {vector: sorted(given) for vector, given in found.items()}

    assert by_vector(np.arange(12)) == by_vector(generator.permutation(12))


def test_parents_do_not_meet() -> None:
    """Each parent by itself has the moves it has in the whole table."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, [3, 4, 30], (80, 3)).astype(np.int32)
    errors = generator.random((80, 30))
    moved = reassign(codes, (3, 4, 30), looked_up(errors), mean_error=1.0)
    assert len(moved.items) > 3
    for parent in np.unique(codes[:, :2], axis=0):
        rows = np.flatnonzero((codes[:, :2] == parent).all(axis=1))
        alone = reassign(codes[rows], (3, 4, 30), looked_up(errors[rows]), mean_error=1.0)
        np.testing.assert_array_equal(alone.codes, moved.codes[rows])


def test_a_full_parent_names_the_first_item_without_a_code() -> None:
    codes = np.array([[1, 0], [0, 0], [1, 0], [1, 2], [1, 2], [0, 0], [1, 2], [0, 1], [0, 1], [0, 2]], dtype=np.int32)
    with pytest.raises(DataError) as caught:
        reassign(codes, (2, 3), looked_up(np.ones((10, 3))), mean_error=1.0)
    line = str(caught.value)
    assert line.startswith("reassigned codes: item 5 finds no free code under the prefix [0], the first of 2 full")
    assert "expected at most 3 items under a prefix, as the last level has codes, found 5" in line
    assert "tokenizer.collisions=reassign_or_suffix" in line
    moved = reassign(codes, (2, 3), looked_up(np.ones((10, 3))), mean_error=1.0, max_added_distortion=0.0)
    assert moved.items.tolist() == [2]  # the one free code, which costs nothing here


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean_error": -1.0}, "wrong mean_error"),
        ({"mean_error": np.nan}, "wrong mean_error"),
        ({"mean_error": 1.0, "max_added_distortion": -0.5}, r"wrong max_added_distortion .*at least 0, found -0.5"),
        ({"mean_error": 1.0, "max_added_distortion": np.inf}, "wrong max_added_distortion"),
    ],
)
def test_wrong_numbers_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        reassign(np.zeros((2, 1), dtype=np.int32), (2,), looked_up(np.ones((2, 2))), **options)


def test_wrong_codes_are_refused() -> None:
    with pytest.raises(DataError, match="item 1 has a code out of range at level 0"):
        reassign(np.array([[0], [2]]), (2,), looked_up(np.ones((2, 2))), mean_error=1.0)


def test_facts_are_the_costliest_first() -> None:
    codes = np.zeros((5, 2), dtype=np.int32)
    errors = np.array([[0, 9, 9, 9, 9], [1, 3, 9, 9, 9], [1, 9, 2, 9, 9], [1, 9, 9, 3, 9], [1, 9, 9, 9, 8.5]])
    facts = reassign(codes, (1, 5), looked_up(errors), mean_error=4.0).facts(3)
    assert (facts["total"], facts["mean_squared_error"], facts["max_added_distortion"]) == (4, 4.0, None)
    assert facts["costliest"] == [
        {"item_index": 4, "old_codes": [0, 0], "new_codes": [0, 4], "cost": 7.5},
        {"item_index": 1, "old_codes": [0, 0], "new_codes": [0, 1], "cost": 2.0},
        {"item_index": 3, "old_codes": [0, 0], "new_codes": [0, 3], "cost": 2.0},
    ]
    none = reassign(codes[:1], (1, 5), looked_up(errors), mean_error=4.0)
    assert (none.facts()["total"], none.facts()["costliest"], none.codes.tolist()) == (0, [], [[0, 0]])
