"""The index of item vectors: lists are those of sorting all scores, whatever is denied and however many are equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.errors import ConfigError
from genrec.evaluation.dense_index import KINDS, DenseIndex, recall_of


def sorted_lists(
    vectors: torch.Tensor, queries: torch.Tensor, k: int, deny: torch.Tensor, allow: torch.Tensor | None
) -> list[list[int]]:
    lists = []
    for query, denied in zip(queries, deny.tolist(), strict=True):
        scores = {item: float((vectors[item] * query).sum()) for item in range(len(vectors))}
        allowed = [item for item in scores if item not in denied and (allow is None or allow[item])]
        best = sorted(allowed, key=lambda item: (-scores[item], item))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


@settings(max_examples=examples(60))
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 45), st.booleans())
def test_a_flat_index_sorts_all_admissible_items(seed: int, num_items: int, k: int, restricted: bool) -> None:
    """Vectors of few small integers: scores are exact, and a great many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-1, 2, (num_items, 3), generator=generator).float()
    queries = torch.randint(-1, 2, (4, 3), generator=generator).float()
    deny = torch.randint(-1, num_items, (4, 5), generator=generator)
    allow = torch.rand(num_items, generator=generator) < 0.6 if restricted else None
    found = DenseIndex(vectors).search(queries, k, deny=deny, allow=allow)
    expected = sorted_lists(vectors, queries, k, deny, allow)
    assert found.item_index.tolist() == expected
    is_item = found.item_index >= 0
    exact = (vectors[found.item_index.clamp(min=0)] * queries.unsqueeze(1)).sum(dim=2)
    assert torch.equal(found.score, torch.where(is_item, exact, -torch.inf))
    assert bool((found.log_prob == -torch.inf).all())


@pytest.mark.parametrize("copies", [1, 300])
def test_equal_vectors_come_in_the_order_of_their_index(copies: int) -> None:
    """More equal ones than a search fetches at first, of real numbers that BLAS may round differently by column."""
    vectors = torch.randn(5, 37, generator=torch.Generator().manual_seed(0)).repeat(copies, 1)
    query = vectors[3:4] * 1.7
    found = DenseIndex(vectors).search(query, 4, deny=torch.tensor([[3]]))
    expected = sorted_lists(vectors, query, 4, torch.tensor([[3]]), None)
    assert found.item_index.tolist() == expected
    if copies > 1:
        assert expected == [[8, 13, 18, 23]]


def test_a_request_does_not_depend_on_its_batch() -> None:
    vectors = torch.randn(500, 32, generator=torch.Generator().manual_seed(0))
    queries = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    index = DenseIndex(vectors)
    many = index.search(queries, 20)
    for row in (0, 17, 49):
        alone = index.search(queries[row : row + 1], 20)
        assert torch.equal(alone.item_index[0], many.item_index[row])
        assert torch.equal(alone.score[0], many.score[row])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_masks_and_fills_lists(kind: str) -> None:
    vectors = torch.randn(600, 16, generator=torch.Generator().manual_seed(2))
    queries = torch.randn(9, 16, generator=torch.Generator().manual_seed(3))
    index, exact = DenseIndex(vectors, kind, num_probes=24), DenseIndex(vectors)
    deny = exact.search(queries, 40).item_index
    allow = torch.arange(600) % 3 > 0
    found = index.search(queries, 10, deny=deny, allow=allow)
    for items, denied in zip(found.item_index.tolist(), deny.tolist(), strict=True):
        assert len(set(items)) == 10
        assert min(items) >= 0
        assert not set(items) & set(denied)
        assert all(allow[item] for item in items)
    best = exact.search(queries, 10, deny=deny, allow=allow).item_index
    shared = np.mean([len(set(a) & set(b)) for a, b in zip(found.item_index.tolist(), best.tolist(), strict=True)])
    assert shared >= 8
    assert 0.8 <= recall_of(index, exact, queries, 10) <= 1


def test_recall_counts_what_is_missing() -> None:
    vectors = torch.randn(400, 8, generator=torch.Generator().manual_seed(4))
    exact, poor = DenseIndex(vectors), DenseIndex(vectors, "ivf", num_lists=40, num_probes=1)
    queries = torch.randn(30, 8, generator=torch.Generator().manual_seed(5))
    assert recall_of(exact, exact, queries, 10) == 1
    found, best = poor.search(queries, 10).item_index.tolist(), exact.search(queries, 10).item_index.tolist()
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)])
    assert recall_of(poor, exact, queries, 10) == pytest.approx(expected)
    assert expected < 0.9


def test_what_cannot_be_is_refused() -> None:
    vectors = torch.eye(3)
    with pytest.raises(ConfigError, match="unknown index"):
        DenseIndex(vectors, "lsh")
    with pytest.raises(ConfigError, match="wrong number of candidates"):
        DenseIndex(vectors).search(vectors, 0)
