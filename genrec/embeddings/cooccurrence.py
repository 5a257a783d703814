"""Items that occur close together in training histories -> vectors, by truncated SVD of their PPMI matrix.

Sees the training rows it is given and nothing else: no text, no dataset, no split.
"""
# N items, E width

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float32

from genrec.data.sequences import Ragged
from genrec.embeddings.rows import is_zero_row, normalise_rows
from genrec.embeddings.svd import truncated_svd
from genrec.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def count_cooccurrences(train: Ragged, num_items: int, *, window: int = 5) -> sparse.csr_array:
    """How often two different items are at most `window` events apart in the same row: symmetric, [N, N], float64.

    Args:
        train: histories of item_index, oldest first, training events only; rows must not overlap.
        num_items: N.
        window: largest distance, >= 1.

    Raises:
        ConfigError: window < 1.
        DataError: an item_index is outside 0..N-1.

    >>> count_cooccurrences(Ragged.from_lists([[0, 1, 2], [1, 0]]), 3, window=1).toarray().astype(int).tolist()
    [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    """
    if window < 1:
        raise ConfigError("embedding.window is out of range", expected="at least 1", found=window)
    row, item, _ = train.flat()
    if len(item) and not (item.min() >= 0 and item.max() < num_items):
        raise DataError(
            "item_index is out of range", expected=f"0 to {num_items - 1}", found=f"{item.min()} to {item.max()}"
        )
    counts = sparse.csr_array((num_items, num_items), dtype=np.float64)
    for distance in range(1, min(window, len(item) - 1) + 1):
        earlier, later = item[:-distance], item[distance:]
        is_pair = (row[:-distance] == row[distance:]) & (earlier != later)
        pairs = (np.ones(int(is_pair.sum())), (earlier[is_pair], later[is_pair]))
        counts = counts + sparse.coo_array(pairs, shape=counts.shape).tocsr()
    return sparse.csr_array(counts + counts.T)


def positive_pmi(counts: sparse.csr_array) -> sparse.csr_array:
    """max(0, ln(c_ij c / (c_i c_j))), c_i and c the sums of row i and of all (Levy and Goldberg 2014, no shift)."""
    if not counts.nnz:
        return counts
    totals = np.asarray(counts.sum(axis=1)).ravel()
    pmi = sparse.coo_array(counts)
    row, column = pmi.coords
    pmi.data = np.maximum(0.0, np.log(pmi.data) + np.log(totals.sum()) - np.log(totals[row]) - np.log(totals[column]))
    result = pmi.tocsr()
    result.eliminate_zeros()
    return result


def embed_cooccurrence(
    train: Ragged,
    num_items: int,
    *,
    dimensions: int = 64,
    window: int = 5,
    weighting: str = "ppmi",
    normalise: bool = True,
    seed: int = 0,
) -> Float32[np.ndarray, "N E"]:
    """U sqrt(S) of the truncated SVD of the co-occurrence matrix (Levy, Goldberg and Dagan 2015: eigenvalues to 1/2).

    Items without a neighbour in training get a row of zeros; `rows.is_zero_row` finds them and the log counts them.

    Args:
        train: histories of item_index, oldest first, training events only; rows must not overlap.
        num_items: N.
        dimensions: E; an error, never fewer, if the matrix has a lower rank.
        window: largest distance of two events that count.
        weighting: of the counts: `ppmi`, which takes out popularity, or `count`, as they are.
        normalise: rows of length one.
        seed: of the SVD; the same seed gives the same vectors.

    Raises:
        ConfigError: window, dimensions or weighting is wrong.
        DataError: an item_index is out of range, or the matrix cannot fill the dimensions.
    """
    if weighting not in ("ppmi", "count"):
        raise ConfigError("unknown embedding.weighting", expected="ppmi or count", found=repr(weighting))
    counts = count_cooccurrences(train, num_items, window=window)
    matrix = positive_pmi(counts) if weighting == "ppmi" else counts
    left, values = truncated_svd(matrix, dimensions, seed=seed, where="co-occurrence of training items")
    vectors = left * np.sqrt(values)
    vectors = normalise_rows(vectors) if normalise else vectors.astype(np.float32)
    num_zero = int(is_zero_row(vectors).sum())
    if num_zero:
        logger.warning("%d of %d items have no neighbour in training: their vectors are 0", num_zero, num_items)
    return vectors
