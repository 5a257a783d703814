"""Sorting rows of codes, by packed integers and by columns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import DataError
from genrec.semantic_ids.rows import check_codes, sort_rows
from oracles.code_tables import CodeTable, code_tables


def expected(rows: list[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    order = sorted(range(len(rows)), key=lambda item: (rows[item], item))
    pairs = itertools.pairwise(order)
    changes = [
        next((at for at, (a, b) in enumerate(zip(rows[i], rows[j], strict=True)) if a != b), len(rows[0]))
        for i, j in pairs
    ]
    return order, changes


@given(code_tables())
def test_packed_rows_are_sorted_like_tuples(table: CodeTable) -> None:
    order, first_change = sort_rows(table.codes, table.sizes)
    assert (order.tolist(), first_change.tolist()) == expected(table.rows)
    assert (order.dtype, first_change.dtype) == (np.int64, np.uint8)


@given(code_tables(), st.sampled_from([2**16, 2**20, 2**31]))
def test_rows_too_wide_for_one_integer_are_sorted_the_same(table: CodeTable, size: int) -> None:
    """Sizes only say how many bits a code may need, so large ones force the other way of sorting."""
    codes = np.concatenate([table.codes, table.codes], axis=1)  # up to 8 levels
    order, first_change = sort_rows(codes, [size] * codes.shape[1])
    assert (order.tolist(), first_change.tolist()) == expected([tuple(row) for row in codes.tolist()])


@pytest.mark.parametrize("sizes", [(2**16, 2**16, 2**16, 2**14), (2**16, 2**16, 2**16, 2**14 + 1), (2**31, 2**31)])
def test_the_largest_codes_on_both_sides_of_64_bits(sizes: tuple[int, ...]) -> None:
    largest = np.array(sizes) - 1
    codes = np.stack([largest, np.zeros_like(largest), largest, largest // 2]).astype(np.int32)
    order, first_change = sort_rows(codes, sizes)
    assert order.tolist() == [1, 3, 0, 2]
    assert first_change.tolist() == [0, 0, len(sizes)]


def test_levels_of_one_code_need_no_bits() -> None:
    order, first_change = sort_rows(np.zeros((3, 2), dtype=np.int32), (1, 1))
    assert (order.tolist(), first_change.tolist()) == ([0, 1, 2], [2, 2])
    codes = np.array([[0, 5, 1, 0, 0], [0, 5, 0, 0, 9], [0, 5, 1, 0, 0]])
    order, first_change = sort_rows(codes, (1, 2**16, 2**16, 2**16, 2**14))  # 64 bits right of the first level
    assert (order.tolist(), first_change.tolist()) == ([1, 0, 2], [2, 5])
    order, first_change = sort_rows(np.zeros((1, 2), dtype=np.int32), (1, 1))
    assert (order.tolist(), first_change.tolist()) == ([0], [])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([[0, 1], [1, 2]]), r"t: item 1 has a code out of range at level 1 \(expected 0 to 1, found 2\)"),
        (np.array([[0, 1], [-1, 0]]), r"t: item 1 has a code out of range at level 0 \(expected 0 to 2, found -1\)"),
        (np.array([0, 1]), r"t: codes have the wrong shape or type \(expected integers \[N, 2\], .* found int64 \[2\]"),
        (np.zeros((2, 3), dtype=np.int32), r"found int32 \[2, 3\]"),
        (np.zeros((0, 2), dtype=np.int32), r"found int32 \[0, 2\]"),
        (np.zeros((2, 2)), r"found float64 \[2, 2\]"),
    ],
)
def test_wrong_codes_are_refused_in_one_line(codes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_codes(codes, (3, 2), where="t")
    assert "\n" not in str(caught.value)
