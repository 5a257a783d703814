"""Choosing with ties, against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.decoding.selection import rank_items, select_best

few = st.sampled_from([0.0, -0.0, -1.0, -1.5, -float("inf"), 2.0**-100, -(2.0**-100), 3.0])
numbers = few | st.floats(-100, 100, width=16)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@given(st.lists(numbers, min_size=1, max_size=30), st.data(), st.sampled_from(DTYPES))
def test_ties_go_to_the_lowest_index(row: list[float], data: st.DataObject, dtype: torch.dtype) -> None:
    scores = torch.tensor([row, row[::-1]], dtype=dtype)
    k = data.draw(st.integers(1, len(row)))
    best, index = select_best(scores, k)
    assert best.dtype == dtype
    for at, values in enumerate(scores.tolist()):
        expected = sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])
        assert index[at].tolist() == expected
        assert best[at].tolist() == [values[i] for i in expected]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_row_of_equal_scores(dtype: torch.dtype) -> None:
    _, index = select_best(torch.zeros(3, 10_000, dtype=dtype), 50)
    assert index.tolist() == [list(range(50))] * 3


@given(
    st.lists(st.tuples(st.integers(0, 30), numbers), min_size=1, max_size=20, unique_by=lambda pair: pair[0]),
    st.integers(1, 25),
)
def test_lists_are_sorted_by_score_and_then_by_item(pairs: list[tuple[int, float]], k: int) -> None:
    items, scores = (torch.tensor([part]) for part in zip(*pairs, strict=True))
    found, best = rank_items(items, scores, k)
    expected = sorted((p for p in pairs if p[1] > -np.inf), key=lambda pair: (-pair[1], pair[0]))[:k]
    padding = k - len(expected)
    assert found.tolist() == [[item for item, _ in expected] + [-1] * padding]
    assert best.tolist() == [[score for _, score in expected] + [-np.inf] * padding]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_stop_the_selection(value: float) -> None:
    """Searches report it at their end; until then the index has to stay in range."""
    for sign in (1, -1):
        _, index = select_best(sign * torch.tensor([[0.0, value, -1.0, value]]), 2)
        assert bool(((index >= 0) & (index < 4)).all())
