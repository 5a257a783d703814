"""Sorting and checking rows of codes: what the table and the trie both need.

Knows NumPy alone; must not know collision policies, tensors or files.
"""
# N items, L levels, K codes of a level

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from genrec.errors import DataError

_KEY_BITS = 64


def check_codes(codes: np.ndarray, codebook_sizes: Sequence[int], *, where: object = "codes") -> None:
    """Checks the shape, the type and the range of every code.

    Args:
        codes: integers [N, L], row i for item_index i; N and L at least 1.
        codebook_sizes: number of codes of each level.
        where: what to call the table in messages.

    Raises:
        DataError: the table is empty, or not [N, L] integers, or a code is outside [0, K_l); the item is named.

    >>> check_codes(np.array([[0, 1], [2, 1]]), (2, 2), where="ids.json")
    Traceback (most recent call last):
    genrec.errors.DataError: ids.json: item 1 has a code out of range at level 0 (expected 0 to 1, found 2)
    """
    levels = len(codebook_sizes)
    is_table = codes.ndim == 2 and np.issubdtype(codes.dtype, np.integer) and codes.shape[1] == levels
    if not is_table or levels == 0 or len(codes) == 0:
        expected = f"integers [N, {levels or 'L'}], N and L at least 1"
        found = f"{codes.dtype} {list(codes.shape)}"
        raise DataError("codes have the wrong shape or type", where=where, expected=expected, found=found)
    for level, size in enumerate(codebook_sizes):
        column = codes[:, level]
        if column.min() < 0 or column.max() >= size:
            item = int(np.flatnonzero((column < 0) | (column >= size))[0])
            raise DataError(
                f"item {item} has a code out of range at level {level}",
                where=where,
                expected=f"0 to {size - 1}",
                found=int(column[item]),
            )


def sort_rows(
    codes: Integer[np.ndarray, "N L"], codebook_sizes: Sequence[int]
) -> tuple[Int64[np.ndarray, " N"], UInt8[np.ndarray, " N-1"]]:
    """Sorts the rows; equal rows keep the order of their item_index.

    Where the bits of a row and of its item_index fit in 64 together, they are one integer and NumPy sorts plain
    integers, which is several times faster than a lexicographic sort of columns.

    Args:
        codes: each in [0, K_l).
        codebook_sizes: K_l of each level; at most 254 levels.

    Returns:
        order: item_index of each row of the sorted table.
        first_change: first level at which sorted rows i and i + 1 differ, L where they are equal.

    >>> order, first_change = sort_rows(np.array([[1, 0], [0, 2], [1, 0], [0, 0]]), (2, 3))
    >>> order.tolist(), first_change.tolist()
    ([3, 1, 0, 2], [1, 0, 2])
    """
    num_items, num_levels = codes.shape
    bits = [(size - 1).bit_length() for size in codebook_sizes]
    item_bits = (num_items - 1).bit_length()
    first_change = np.zeros(num_items - 1, dtype=np.uint8)
    if sum(bits) + item_bits > _KEY_BITS:
        order = np.lexsort(codes.T[::-1])
        is_equal = np.ones(num_items - 1, dtype=bool)
        for level in range(num_levels):
            column = codes[order, level]
            is_equal &= column[1:] == column[:-1]
            first_change += is_equal
        return order, first_change
    key = np.zeros(num_items, dtype=np.uint64)
    for level, width in enumerate(bits):
        key <<= np.uint64(width)
        key |= codes[:, level].astype(np.uint64)
    key <<= np.uint64(item_bits)
    key |= np.arange(num_items, dtype=np.uint64)
    key.sort()
    order = (key & np.uint64((1 << item_bits) - 1)).astype(np.int64)
    difference = key[1:] ^ key[:-1]
    below = sum(bits) + item_bits  # bits to the right of the levels compared so far
    for width in bits:
        below -= width
        first_change += difference < np.uint64(1 << below) if below < _KEY_BITS else np.uint8(1)
    return order, first_change
