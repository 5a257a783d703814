"""A catalogue that changes: what is published stays, and placing new items against every way there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import DataError
from genrec.semantic_ids.collisions import reassign
from genrec.semantic_ids.table import SemanticIds, build_semantic_ids
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.semantic_ids.versions import Version, append_items, place_items, retire_items
from oracles import trie_oracle
from oracles.versions_oracle import best_moves, next_suffixes

SIZES = (2, 4)
POLICIES = ("suffix", "reassign", "reassign_or_suffix")
LIMIT = 0.4


def errors_of(points: np.ndarray) -> Any:
    """Squared distances of numbers from the last codes 0, 1, 2, .."""
    return lambda items, last: np.square(points[items, None] - last)


def draw_table(policy: str, rng: np.random.Generator, num_items: int = 5) -> SemanticIds:
    codes = rng.integers(0, SIZES, size=(num_items, 2)).astype(np.int32)
    if policy == "suffix":
        return build_semantic_ids(codes, SIZES, reserve=6)[0]
    codes = np.stack(np.unravel_index(rng.choice(8, num_items, replace=False), SIZES), axis=1).astype(np.int32)
    limit = LIMIT if policy == "reassign_or_suffix" else None
    moves = reassign(codes, SIZES, errors_of(codes[:, 1].astype(float)), mean_error=1.0, max_added_distortion=limit)
    return build_semantic_ids(codes, SIZES, collisions=policy, reserve=6, reassignment=moves)[0]


def first_version(table: SemanticIds) -> Version:
    return Version([f"i{row}" for row in range(table.num_items)], table, [], table.codes[:0])


def as_dict(version: Version) -> dict[str, tuple[int, ...]]:
    return dict(zip(version.item_ids, map(tuple, version.table.codes.tolist()), strict=True))


@given(st.sampled_from(POLICIES), st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=examples(80))
def test_placing_equals_the_slow_way(policy: str, seed: int, num_new: int) -> None:
    rng = np.random.default_rng(seed)
    table = draw_table(policy, rng)
    codes = rng.integers(0, SIZES, size=(num_new, 2))
    points = codes[:, 1] + rng.choice([-0.4, -0.1, 0.0, 0.1, 0.3], num_new)
    rows, taken = [tuple(row) for row in codes.tolist()], [tuple(row) for row in table.codes.tolist()]
    errors = errors_of(points)
    words: dict[str, Any] = {"errors": errors, "mean_error": 1.0}
    names = [f"n{item}" for item in range(num_new)]
    table_of_errors = errors(np.arange(num_new), np.tile(np.arange(4), (num_new, 1))).tolist()
    limit = table.max_added_distortion
    if policy != "suffix":
        expected = best_moves(rows, [row[:2] for row in taken], SIZES[1], table_of_errors, limit)
        if expected is None:
            with pytest.raises(DataError, match=r"new item 'n\d' finds no free code under the prefix"):
                place_items(codes, names, table, table.codes, **words)
            return
    placed = place_items(codes, names, table, table.codes, **words)
    kept = [tuple(row) for row in placed.codes[:, :2].tolist()]
    if policy == "suffix":
        assert kept == rows
    else:
        moved = [kept[item] != rows[item] for item in range(num_new)]
        assert placed.is_moved.tolist() == moved
        assert expected is not None
        assert sum(moved) == expected[0]
        assert placed.added.sum() == pytest.approx(expected[1])
        assert not placed.added[~placed.is_moved].any()
        assert all(new[0] == old[0] for new, old in zip(kept, rows, strict=True))
        assert not {row for row, is_moved in zip(kept, moved, strict=True) if is_moved} & {row[:2] for row in taken}
    if policy != "reassign":
        assert placed.codes[:, 2].tolist() == next_suffixes(kept, taken)
    final = [*taken, *map(tuple, placed.codes.tolist())]
    assert len(set(final)) == len(final)


Step = tuple[str, list[int]]
STEPS = st.lists(st.tuples(st.sampled_from(["append", "retire"]), st.lists(st.integers(0, 11), max_size=4)), max_size=6)


@given(st.sampled_from(POLICIES), st.integers(0, 1000), STEPS)
@settings(max_examples=examples(80))
def test_an_id_once_given_is_never_another_items(policy: str, seed: int, steps: list[Step]) -> None:
    """Over any days: rows that stay are bit-equal and in their order, IDs unique, those that went keep theirs."""
    rng = np.random.default_rng(seed)
    version = first_version(draw_table(policy, rng))
    given_codes = as_dict(version)
    for kind, numbers in steps:
        names = [f"i{number}" for number in dict.fromkeys(numbers)]
        here, gone = set(version.item_ids), set(version.retired_ids)
        if kind == "retire":
            chosen = [name for name in names if name in here]
            if len(chosen) == len(here):
                continue
            after = retire_items(version, chosen)
            assert list(after.item_ids) == [name for name in version.item_ids if name not in chosen]
        else:
            fresh = [name for name in names if name not in here | gone]
            back = [name for name in names if name in gone]
            codes = rng.integers(0, SIZES, size=(len(fresh), 2))
            words = {"errors": errors_of(codes[:, 1] + 0.1), "mean_error": 1.0, "returning": back}
            try:
                after, placed = append_items(version, fresh, codes, **words)
            except DataError:
                continue
            assert list(after.item_ids) == [*version.item_ids, *sorted([*fresh, *back])]
            assert np.array_equal(after.table.codes[: len(here)], version.table.codes)
            by_name = as_dict(after)
            assert [by_name[name] for name in fresh] == list(map(tuple, placed.codes.tolist()))
            turned = append_items(
                version, fresh[::-1], codes[::-1], **(words | {"errors": errors_of(codes[::-1, 1] + 0.1)})
            )[0]
            assert as_dict(turned) == by_name
        version = after
        for name, row in as_dict(version).items():
            assert given_codes.setdefault(name, row) == row
        assert dict(zip(version.retired_ids, map(tuple, version.retired_codes.tolist()), strict=True)) == {
            name: row for name, row in given_codes.items() if name not in version.item_ids
        }
        assert len(set(given_codes.values())) == len(given_codes)
        assert version.table.identity == first_version(version.table).table.identity


def test_the_trie_of_a_later_version_holds_its_catalogue() -> None:
    table = draw_table("suffix", np.random.default_rng(1), num_items=9)
    version, _ = append_items(
        retire_items(first_version(table), ["i2", "i5"]), ["x", "b"], np.array([[0, 1], [1, 3]]), returning=["i2"]
    )
    trie = SemanticIdTrie.build(version.table.codes, version.table.codebook_sizes)
    rows = [tuple(row) for row in version.table.codes.tolist()]
    root = trie_oracle.build(rows)
    for depth in range(4):
        assert [tuple(row) for row in trie.prefix_codes(depth).tolist()] == trie_oracle.prefixes(root, depth)
    assert sorted(trie.item_order.tolist()) == list(range(len(rows)))


def test_a_full_suffix_level_names_the_item_and_counts_the_retired() -> None:
    table, _ = build_semantic_ids(np.zeros((3, 1), dtype=np.int32), (2,), reserve=1)
    version = retire_items(first_version(table), ["i0"])
    version, placed = append_items(version, ["a"], np.array([[0]]))
    assert placed.codes.tolist() == [[0, 3]]
    with pytest.raises(DataError, match=r"2 new items find no free suffix, the first is 'b'.*at most 4.*reserve"):
        append_items(version, ["c", "b"], np.array([[0], [0]]))
    assert append_items(version, ["c"], np.array([[1]]))[1].codes.tolist() == [[1, 0]]


def test_the_closest_of_several_new_items_has_the_free_code() -> None:
    table = replace(
        build_semantic_ids(np.array([[0, 0]], dtype=np.int32), SIZES, collisions="none")[0], collisions="reassign"
    )
    codes, points = np.array([[0, 2], [0, 2], [0, 2]]), np.array([2.3, 2.1, 1.6])
    placed = place_items(codes, ["a", "b", "c"], table, table.codes, errors=errors_of(points))
    assert placed.codes.tolist() == [[0, 3], [0, 2], [0, 1]]
    assert placed.is_moved.tolist() == [True, False, True]
    np.testing.assert_allclose(placed.added, [0.7**2 - 0.3**2, 0, 0.6**2 - 0.4**2])


def test_not_all_items_can_go() -> None:
    version = first_version(draw_table("suffix", np.random.default_rng(0)))
    with pytest.raises(DataError, match="no item would be left"):
        retire_items(version, version.item_ids)
