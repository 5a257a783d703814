from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.quantization.neighbours import (
    mean_row,
    nearest_neighbours,
    neighbour_overlap,
    prefix_indices,
    prefix_purity,
)

tables = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30)


@given(tables)
def test_prefixes_are_numbered_in_their_order(rows) -> None:
    for depth, nodes in enumerate(prefix_indices(np.array(rows, dtype=np.int32)), start=1):
        order = sorted({row[:depth] for row in rows})
        assert nodes.tolist() == [order.index(row[:depth]) for row in rows]


@settings(max_examples=examples(30), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_vectors=st.integers(6, 80),
    width=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e3]),
)
def test_neighbours_are_those_of_brute_force(seed, num_vectors, width, offset) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((num_vectors, width)) + offset).astype(np.float32)
    distances = np.square(vectors[:, None].astype(np.float64) - vectors[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    queries = rng.permutation(num_vectors)[:50]
    found = nearest_neighbours(vectors, queries, 5)
    expected = np.sort(distances[queries], axis=1)[:, :5]
    assert all(query not in row for query, row in zip(queries, found.tolist(), strict=True))
    assert all(len(set(row)) == 5 for row in found.tolist())
    np.testing.assert_allclose(distances[queries[:, None], found], expected, rtol=1e-3)


def test_a_large_common_offset_costs_no_digits() -> None:
    """|x|^2 + |y|^2 - 2<x, y> in float32, as FAISS has it for many queries, would be noise here."""
    vectors = (np.random.default_rng(0).standard_normal((2000, 256)) + 1000).astype(np.float32)
    exact = vectors - vectors.mean(axis=0, dtype=np.float64)
    lengths = np.square(exact).sum(axis=1)
    distances = lengths[:, None] + lengths - 2 * exact @ exact.T
    np.fill_diagonal(distances, np.inf)
    found = nearest_neighbours(vectors, np.arange(2000), 3)
    np.testing.assert_allclose(
        np.take_along_axis(distances, found, axis=1), np.sort(distances, axis=1)[:, :3], rtol=1e-5
    )


def test_an_item_hidden_behind_equal_ones_is_not_its_own_neighbour() -> None:
    vectors = np.zeros((50, 3), dtype=np.float32)
    found = nearest_neighbours(vectors, np.arange(50), 4)
    assert found.shape == (50, 4)
    assert not (found == np.arange(50)[:, None]).any()


def test_neighbours_across_chunks(tmp_path) -> None:
    """The second chunk begins at row 8388; the planted twin of each query lies in the other."""
    vectors = np.random.default_rng(0).standard_normal((8500, 2000), dtype=np.float32)
    queries = np.array([3, 8450])
    twins = np.array([8400, 5])
    vectors[twins] = vectors[queries] * np.float32(1.001)
    np.save(tmp_path / "vectors.npy", vectors)
    found = nearest_neighbours(np.load(tmp_path / "vectors.npy", mmap_mode="r"), queries, 3)
    assert found[:, 0].tolist() == twins.tolist()
    np.testing.assert_allclose(mean_row(vectors), vectors.mean(axis=0, dtype=np.float64), atol=1e-6)


def test_overlap_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((40, 4)).astype(np.float32)
    codes = rng.integers(0, 3, (40, 2))
    found = neighbour_overlap(vectors, prefix_indices(codes), 1000, 0)
    distances = np.square(vectors[:, None].astype(np.float64) - vectors[None]).sum(axis=2)
    for depth, entry in enumerate(found["depths"], start=1):
        prefixes = [tuple(row[:depth]) for row in codes.tolist()]
        shared = 0
        for item in range(40):
            near = sorted((distances[item, other], other) for other in range(40) if other != item)[:10]
            shared += sum(prefixes[other] == prefixes[item] for _, other in near)
        pairs = list(combinations(range(40), 2))
        chance = sum(prefixes[a] == prefixes[b] for a, b in pairs) / len(pairs)
        assert entry == {
            "depth": depth,
            "share": pytest.approx(shared / 400),
            "by_chance": pytest.approx(chance),
            "lift": pytest.approx(shared / 400 / chance),
        }
    assert (found["num_queries"], found["num_neighbours"]) == (40, 10)


def test_overlap_of_a_sample() -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 4)).astype(np.float32)
    prefixes = prefix_indices(np.arange(300)[:, None] % 7)
    found = [neighbour_overlap(vectors, prefixes, 20, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0]["num_queries"] == 20
    assert found[0] != found[2]
    alone = neighbour_overlap(vectors[:2], prefix_indices(np.array([[0], [1]])), 20, 0)
    assert alone["num_neighbours"] == 1
    assert alone["depths"] == [{"depth": 1, "share": 0.0, "by_chance": 0.0, "lift": None}]


def entropy(labels) -> float:
    return -sum(count / len(labels) * math.log(count / len(labels)) for count in Counter(labels).values())


@settings(max_examples=examples(30))
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=2, max_size=30))
def test_purity_is_normalised_mutual_information(pairs) -> None:
    labels = [label for label, _ in pairs]
    nodes = np.array([node for _, node in pairs])
    found = prefix_purity([*labels, None], [np.append(nodes, 5)], 0)
    if len(set(labels)) < 2:
        assert found is None
        return
    both = entropy(labels) + entropy(nodes.tolist())
    expected = 2 * (both - entropy(pairs)) / both
    assert found is not None
    assert found["depths"][0]["nmi"] == pytest.approx(expected, abs=1e-9)
    assert (found["num_items"], found["num_classes"]) == (len(pairs), len(set(labels)))


def test_purity_by_chance() -> None:
    """Many small nodes look pure by chance alone; the shuffle shows it."""
    rng = np.random.default_rng(0)
    labels = [str(label) for label in rng.integers(0, 20, 400)]
    random, perfect = rng.integers(0, 200, 400), np.unique(labels, return_inverse=True)[1]
    found = prefix_purity(labels, [random, perfect], 0)
    assert found is not None
    assert found["depths"][0]["nmi"] == pytest.approx(found["depths"][0]["by_chance"], abs=0.05)
    assert found["depths"][0]["nmi"] > 0.4
    assert found["depths"][1]["nmi"] == pytest.approx(1.0)
    assert found["depths"][1]["by_chance"] < 0.2
