"""What every quantiser asks of its vectors, its codes and its saved arrays. Knows arrays and errors only."""
# N vectors, E width, K codes of a level

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from genrec.embeddings.rows import row_chunks
from genrec.errors import DataError
from genrec.quantization.assignment import LARGEST
from genrec.seeding import generator

NEGLIGIBLE = 1e-12  # a share of the squared norm this small is rounding
SMALLEST = 1e-20  # mean squared distance from the mean whose float32 squares are still good


def check_shape(vectors: np.ndarray, width: int | None = None) -> None:
    """Raises DataError unless the vectors are float32 [N, E], E > 0 and, if given, the width of the fit."""
    expected = "E" if width is None else width
    is_matrix = vectors.ndim == 2 and vectors.shape[1] > 0 and width in (None, vectors.shape[1])
    if not is_matrix or vectors.dtype != np.float32:
        raise DataError(
            "vectors to quantise have the wrong shape or type",
            expected=f"float32 [N, {expected}]" + ("" if width is None else ", the width it was fitted with"),
            found=f"{vectors.dtype} {list(vectors.shape)}",
        )


def check_values(chunk: np.ndarray, start: int) -> None:
    """Raises DataError that names the first row with a number that is not finite or too large; `start` is row 0's."""
    if np.all(np.einsum("ij,ij->i", chunk, chunk) <= LARGEST**2):  # so is every number; the rule, and quickly seen
        return
    largest = np.abs(chunk).max(axis=1, initial=0.0)  # NaN stays NaN
    wrong = np.flatnonzero(~(largest <= LARGEST))
    if len(wrong):
        value = largest[wrong[0]]
        is_finite = np.isfinite(value)
        raise DataError(
            f"a vector to quantise is {'too large' if is_finite else 'not finite'} in row {start + wrong[0]}",
            expected=f"numbers up to {LARGEST:g}" if is_finite else "finite numbers",
            found=value,
            fix="rescale the vectors" if is_finite else "mend the embeddings",
        )


def check_enough(num_vectors: int, sizes: Sequence[int]) -> None:
    """Raises DataError if there are fewer vectors than the largest level has codes."""
    largest = max(sizes)
    if num_vectors < largest:
        raise too_few(sizes.index(largest), sizes, f"{num_vectors} vectors")


def check_not_wider(num_vectors: int, width: int) -> None:
    """Raises DataError if there are fewer vectors than numbers in each.

    FAISS trains rotations and principal components of that many; with fewer vectors it writes outside of its memory.
    """
    if num_vectors < width:
        raise DataError(
            "too few vectors for their width, which this quantiser rotates or projects",
            expected=f"at least {width}, one for each number of a vector",
            found=num_vectors,
            fix="use tokenizer=residual_kmeans, or embeddings with fewer dimensions",
        )


def too_few(level: int, sizes: Sequence[int], found: str) -> DataError:
    """The error for a level (from 0) that has more codes than there is to tell apart."""
    return DataError(
        f"too few vectors for level {level + 1} of {len(sizes)} of the codes",
        expected=f"at least {sizes[level]} different ones for its {sizes[level]} codes",
        found=found,
        fix="lower tokenizer.codebook_sizes" if level == 0 else "lower tokenizer.codebook_sizes, or use fewer levels",
    )


def check_spread(variance: float, mean: np.ndarray) -> None:
    """Raises DataError if the mean squared distance from the mean is no more than rounding."""
    if variance <= max(SMALLEST, NEGLIGIBLE * float(mean @ mean)):
        raise DataError(
            "the vectors to quantise are all equal, or nearly so",
            expected="different items to have different vectors, rescaled if they are tiny",
            found=f"a mean squared distance of {variance:.3g} from the mean",
            fix="look at the embeddings",
        )


def mean_of_checked(vectors: np.ndarray) -> np.ndarray:
    """The mean row in float64, after a look at every number."""
    total = np.zeros(vectors.shape[1])
    for rows in row_chunks(vectors):
        check_values(vectors[rows], rows.start)
        total += vectors[rows].sum(axis=0, dtype=np.float64)
    return total / len(vectors)


def sample_rows(vectors: np.ndarray, size: int, *seeds: int) -> np.ndarray:
    """A copy of at most `size` random vectors, in their order."""
    if size >= len(vectors):
        return np.array(vectors, order="C")
    chosen = generator(*seeds).choice(len(vectors), size, replace=False, shuffle=False)
    return np.ascontiguousarray(vectors[np.sort(chosen)])


def distinct_rows(vectors: np.ndarray, order: np.ndarray, wanted: int) -> list[int]:
    """The first `wanted` rows in this order that differ from all before; fewer if there are not that many."""
    seen: set[bytes] = set()
    rows: list[int] = []
    for row in order.tolist():
        number = (vectors[row] + np.float32(0)).tobytes()  # -0.0 becomes 0.0
        key = hashlib.blake2b(number, digest_size=16).digest()  # the rows themselves would be a copy of them all
        if key not in seen:
            seen.add(key)
            rows.append(row)
            if len(rows) == wanted:
                break
    return rows


def check_state(what: str, key: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    """Raises DataError unless a saved array has this shape and type and is finite."""
    if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
        raise DataError(
            f"array {key!r} of the {what} is damaged",
            expected=f"finite {np.dtype(dtype)} {list(shape)}",
            found=f"{array.dtype} {list(array.shape)}",
        )


def check_keys(what: str, state: Mapping[str, np.ndarray], *keys: str) -> list[str]:
    """Names of the codebooks of a saved state, which must have these keys and `codebook.0` .. `codebook.{L-1}`."""
    names = [f"codebook.{level}" for level in range(sum(key.startswith("codebook.") for key in state))]
    expected = [*keys, *(names or ["codebook.0"])]
    if not names or sorted(expected) != sorted(state):
        raise DataError(f"not the state of a {what}", expected=", ".join(expected), found=", ".join(state))
    return names


def check_decodable(codes: np.ndarray, sizes: Sequence[int]) -> None:
    """Raises DataError unless the codes are integers [N, 1 to L], each inside its level."""
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or not 1 <= codes.shape[1] <= len(sizes):
        raise DataError(
            "codes have the wrong shape or type",
            expected=f"integers [N, 1 to {len(sizes)}]",
            found=f"{codes.dtype} {list(codes.shape)}",
        )
    for level, (column, size) in enumerate(zip(codes.T, sizes, strict=False)):
        wrong = np.flatnonzero((column < 0) | (column >= size))
        if len(wrong):
            raise DataError(
                f"code outside level {level + 1} in row {wrong[0]}",
                expected=f"0 to {size - 1}",
                found=column[wrong[0]],
            )
