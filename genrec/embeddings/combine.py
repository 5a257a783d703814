"""Several embeddings side by side. Knows arrays only, not where they come from."""
# N items, E width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from genrec.embeddings.rows import check_finite, normalise_rows
from genrec.errors import ConfigError, DataError


def combine(blocks: Sequence[tuple[str, np.ndarray, float]]) -> Float32[np.ndarray, "N E"]:
    """Concatenates the rows of all blocks, each made of length one and multiplied by the block's weight.

    The inner product of two rows is then the sum of weight^2 times the cosine in each block. Rows of zeros stay zero;
    the whole row is not normalised again, so an item that lacks one signal is shorter, not distorted.

    Args:
        blocks: (name, vectors [N, E_b], weight >= 0); a weight of 0 keeps the block's columns, as zeros.

    Returns:
        [N, sum of E_b], blocks in the order given.

    Raises:
        ConfigError: no block, a name twice, or a weight that is negative or not finite, or all weights 0.
        DataError: blocks of different N, or that are no matrices, or not finite.

    >>> combine([("text", np.array([[3.0, 4.0]]), 1.0), ("clicks", np.array([[-5.0]]), 0.5)]).round(2).tolist()
    [[0.6000000238418579, 0.800000011920929, -0.5]]
    """
    names = [name for name, _, _ in blocks]
    if not blocks or len(set(names)) < len(names):
        raise ConfigError("embeddings to combine need different names", expected="at least one", found=names)
    for name, _, weight in blocks:
        if not 0 <= weight < np.inf:
            raise ConfigError(f"weight of embedding {name!r} is out of range", expected="at least 0", found=weight)
    if not any(weight for _, _, weight in blocks):
        raise ConfigError("all weights of the combined embeddings are 0", expected="at least one above 0")
    num_items = len(blocks[0][1])
    for name, vectors, _ in blocks:
        if vectors.ndim != 2 or len(vectors) != num_items:
            raise DataError(
                f"embedding {name!r} has the wrong shape",
                expected=f"[{num_items}, E] like {names[0]!r}",
                found=list(vectors.shape),
            )
        check_finite(vectors, where=f"embedding {name!r}")
    width = sum(vectors.shape[1] for _, vectors, _ in blocks)
    combined = np.empty((num_items, width), dtype=np.float32)
    start = 0
    for _, vectors, weight in blocks:
        end = start + vectors.shape[1]
        combined[:, start:end] = normalise_rows(vectors) * np.float32(weight)
        start = end
    return combined
