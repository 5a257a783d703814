"""Strategies for hypothesis: small tables of codes with everything that can go wrong in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class CodeTable:
    codes: np.ndarray  # int32 [N, L]
    sizes: tuple[int, ...]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        return [tuple(row) for row in self.codes.tolist()]


@st.composite
def code_tables(draw: st.DrawFn, *, unique: bool = False, max_items: int = 14) -> CodeTable:
    """Chains, single items, levels of one code, dense and sparse tables; with collisions unless `unique`."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=max_items, unique=unique))
    return CodeTable(np.array(rows, dtype=np.int32), sizes)
