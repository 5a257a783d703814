"""Whether codebooks still fit: what later items lose by being quantised, against the items they were fitted on.

Pure functions of vectors and of a quantiser's two methods. Must not know tables, files or configuration.
"""
# N fitted vectors, M later ones, E width, L levels

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from genrec.embeddings.rows import row_chunks
from genrec.quantization.neighbours import mean_row

PERCENTILES = (95, 99)
NUM_WORST = 5


def squared_errors(
    vectors: np.ndarray, codes: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]
) -> Float64[np.ndarray, "N L"]:
    """|e - decode(c_1..c_l)|^2 of every vector after every number of levels.

    Args:
        vectors: float32 [N, E]; may be a memory map.
        codes: integers [N, L].
        decode: the quantiser's: codes [n, l] to vectors [n, E] for every l <= L.
    """
    errors = np.empty(codes.shape)
    for rows in row_chunks(vectors):
        for level in range(codes.shape[1]):
            rest = vectors[rows] - decode(codes[rows, : level + 1])
            errors[rows, level] = np.square(rest, dtype=np.float64).sum(axis=1)
    return errors


def squared_distances_from_mean(vectors: np.ndarray, mean: np.ndarray) -> Float64[np.ndarray, " N"]:
    """|e - mean|^2: what an item loses where nothing at all is known of it."""
    squared = np.empty(len(vectors))
    for rows in row_chunks(vectors):
        squared[rows] = np.square(vectors[rows] - mean, dtype=np.float64).sum(axis=1)
    return squared


def drift(
    fitted: np.ndarray,
    later: np.ndarray,
    *,
    encode: Callable[[np.ndarray], np.ndarray],
    decode: Callable[[np.ndarray], np.ndarray],
    names: Sequence[str],
) -> dict[str, Any]:
    """Errors of later items beside those of the fitted ones, plain JSON types.

    How to read it. Codebooks know the items that they were fitted on by heart, the more so the fewer items there are
    for each code, and residual levels more than the first: on Office (2,420 items, 3 x 256 codes) random items that
    were held out of the fit have 2.6 times the error of the fitted ones after three levels, but 1.3 times after the
    first, where held-out categories have 2.2 to 4.9 times. So the ratio of the *first* level is what to judge by. The
    second reading needs no fitted items: `unexplained`, the share of the items' squared distance from the fitted mean
    that is left after the codes, is one or more where these say nothing of them.

    Args:
        fitted: float32 [N, E], what the quantiser was fitted on.
        later: float32 [M, E].
        encode, decode: the quantiser's.
        names: M ids.

    Returns:
        num_fitted, num_items; levels, a list: level (from 1), fitted_mean, mean, ratio (None if the fitted mean is 0),
        unexplained, fitted_unexplained, beyond_95, beyond_99 (share of later items with a larger error than that
        percentile of the fitted ones); total: the entry of the last level; worst: the items with the largest errors:
        name, error, percentile (share of fitted items with a smaller error).
    """
    reference = squared_errors(fitted, encode(fitted), decode)
    errors = squared_errors(later, encode(later), decode)
    mean = mean_row(fitted)
    spread = float(squared_distances_from_mean(later, mean).mean())
    fitted_spread = float(squared_distances_from_mean(fitted, mean).mean())
    levels = [
        {
            "level": level + 1,
            "fitted_mean": float(reference[:, level].mean()),
            "mean": float(errors[:, level].mean()),
            "ratio": _share(errors[:, level].mean(), reference[:, level].mean()),
            "unexplained": _share(errors[:, level].mean(), spread),
            "fitted_unexplained": _share(reference[:, level].mean(), fitted_spread),
            **{
                f"beyond_{percentile}": float(
                    (errors[:, level] > np.percentile(reference[:, level], percentile)).mean()
                )
                for percentile in PERCENTILES
            },
        }
        for level in range(errors.shape[1])
    ]
    total, known = errors[:, -1], np.sort(reference[:, -1])
    worst = sorted(range(len(names)), key=lambda item: (-total[item], names[item]))[:NUM_WORST]
    return {
        "num_fitted": len(fitted),
        "num_items": len(later),
        "levels": levels,
        "total": levels[-1],
        "worst": [
            {
                "item_id": names[item],
                "error": float(total[item]),
                "percentile": float(np.searchsorted(known, total[item]) / len(known)),
            }
            for item in worst
        ],
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
