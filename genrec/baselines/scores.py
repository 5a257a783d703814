"""The forms that scores come in: the one vocabulary of those who score and those who rank.

Pure NumPy and scipy.sparse, so that metrics may know it; must not know histories, models or anything else of genrec.
"""

# B histories, N items of the catalogue, E stored entries

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp


class BackoffScores(NamedTuple):
    """Scores of a few items a row over a base that all rows share.

    Attributes:
        entries: [B, N] CSR; an item that is stored in a row has that score there.
        base: [N] score of every item that is not.
    """

    entries: sp.csr_matrix
    base: np.ndarray

    def to_dense(self) -> np.ndarray:
        """[B, N] float64; for tests and small catalogues."""
        num_rows, _ = shape_of(self)
        dense = np.tile(np.asarray(self.base, dtype=np.float64), (num_rows, 1))
        dense[stored_rows(self.entries), self.entries.indices] = self.entries.data
        return dense


# Dense [B, N]; CSR [B, N], where an absent item is never recommended; or a sparse part over a shared base. A CSR matrix
# must not hold an item twice in a row (a product of two CSR matrices never does).
Scores: TypeAlias = "np.ndarray | sp.csr_matrix | BackoffScores"


def shape_of(scores: Any) -> tuple[int, int]:
    """(B, N) of scores in any form."""
    matrix: Any = scores.entries if isinstance(scores, BackoffScores) else scores
    return matrix.shape


def stored_rows(entries: sp.csr_matrix) -> np.ndarray:
    """[E] row of each stored entry."""
    return np.repeat(np.arange(len(entries.indptr) - 1), np.diff(entries.indptr))


def empty_scores(num_rows: int, num_items: int) -> sp.csr_matrix:
    """[num_rows, num_items] without an entry."""
    return sp.csr_matrix((num_rows, num_items), dtype=np.float64)
