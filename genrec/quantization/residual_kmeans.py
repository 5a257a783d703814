"""Residual k-means: each level clusters what the levels before have left over.

FAISS trains the codebooks, NumPy assigns. Knows arrays; must not know networks, configuration, artifacts, or what
becomes of items that share their codes.
"""
# N vectors, E width, L levels, K codes of a level

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int32

from genrec.embeddings.rows import row_chunks
from genrec.errors import ConfigError, DataError
from genrec.quantization.assignment import LARGEST, chunks, nearest_codes
from genrec.seeding import fold_in, generator

logger = logging.getLogger(__name__)

INITIALISATIONS = ("plus_plus", "random")
NEGLIGIBLE = 1e-12  # a share of the squared norm this small is rounding
SMALLEST = 1e-20  # mean squared distance from the mean whose float32 squares are still good
_SAMPLE, _INITIAL = 0, 1  # what a seed is for
_POOL = 32  # distinct vectors a code among which k-means++ chooses
_FEW = 39  # vectors a code below which FAISS's authors warn

Progress = Callable[[str, int, int], None]


class ResidualKMeans:
    """Residual k-means quantiser (RQ-KMeans; docs/methods.md section 1).

    r_0 = e - mean; c_l = argmin_k |r_{l-1} - B_l[k]|^2, ties to the lower code; r_l = r_{l-1} - B_l[c_l]. The codebook
    B_l is trained by k-means on the residuals r_{l-1} of one fitted set for all levels: all vectors, or a random sample
    of max(K_l) * max_points_per_centroid of them. So the mean squared residual falls from level to level on that set;
    that of a single item need not.

    The first centroids are K_l different vectors, so a catalogue with many equal ones (rows of zeros, say) is no
    trouble. FAISS moves a centroid that has lost all its vectors next to one that has many.

    The same vectors, parameters and seed give the same codebooks bit by bit on one machine with the same libraries, in
    memory or memory-mapped: FAISS sums each centroid in one thread, in the order of the vectors. Another processor may
    round the products behind an assignment otherwise. The codes for given codebooks depend on nothing of the kind (see
    `nearest_codes`): not on the machine, the number of threads, or the vectors that are encoded beside.

    Args:
        codebook_sizes: K_l of each level, each at least 2.
        num_iterations: of k-means.
        num_restarts: trainings of each level, of which the one with the smallest mean squared residual is kept.
        max_points_per_centroid: bounds the sample, and with it the time and memory of `fit`.
        centre: take the mean off first.
        initialisation: "plus_plus": greedy k-means++ among 32 * K_l vectors (scikit-learn), in time K_l^2; or "random",
            for codebooks of many thousands. On item texts k-means++ leaves a tenth to a quarter less squared residual
            and fewer collisions; the first level is used more evenly, the deeper ones less.
        seed: in [0, 2^64).

    Attributes:
        codebooks_: L arrays, float32 [K_l, E].
        mean_: float32 [E], of all vectors; zeros without `centre`.
        variance_: mean of |e - mean|^2 on the fitted set.
        mean_squared_residuals_: float64 [L], mean of |r_l|^2 after each level on the fitted set: squared norms, not
            divided by E.

    Raises:
        ConfigError: a parameter out of range.

    >>> points = np.array([[0, 0], [0, 1], [8, 0], [8, 1]], dtype=np.float32)
    >>> quantiser = ResidualKMeans(codebook_sizes=(2, 2)).fit(points)
    >>> codes = quantiser.encode(points)
    >>> len(np.unique(codes, axis=0)), np.abs(quantiser.decode(codes) - points).max().item()
    (4, 0.0)
    >>> quantiser.variance_, quantiser.mean_squared_residuals_.tolist()
    (16.25, [0.25, 0.0])
    """

    codebooks_: list[np.ndarray]
    mean_: np.ndarray
    variance_: float
    mean_squared_residuals_: np.ndarray

    def __init__(
        self,
        *,
        codebook_sizes: Sequence[int] = (256, 256, 256),
        num_iterations: int = 25,
        num_restarts: int = 1,
        max_points_per_centroid: int = 256,
        centre: bool = True,
        initialisation: str = "plus_plus",
        seed: int = 0,
    ) -> None:
        if not codebook_sizes or min(codebook_sizes) < 2:
            raise ConfigError(
                "residual k-means: wrong codebook_sizes",
                expected="at least one level, of at least 2 codes each",
                found=list(codebook_sizes),
            )
        for name, value in (
            ("num_iterations", num_iterations),
            ("num_restarts", num_restarts),
            ("max_points_per_centroid", max_points_per_centroid),
        ):
            if value < 1:
                raise ConfigError(f"residual k-means: wrong {name}", expected="at least 1", found=value)
        if initialisation not in INITIALISATIONS:
            raise ConfigError(
                "residual k-means: wrong initialisation", expected=" or ".join(INITIALISATIONS), found=initialisation
            )
        fold_in(seed)
        self.codebook_sizes = tuple(codebook_sizes)
        self.num_iterations = num_iterations
        self.num_restarts = num_restarts
        self.max_points_per_centroid = max_points_per_centroid
        self.centre = centre
        self.initialisation = initialisation
        self.seed = seed

    def fit(self, vectors: np.ndarray, progress: Progress | None = None) -> ResidualKMeans:
        """Trains the codebooks.

        Args:
            vectors: float32 [N, E], finite; may be a memory map. All rows are read once, in chunks; only the sample is
                copied.
            progress: called with ("residual k-means", trainings done, trainings in all).

        Raises:
            DataError: wrong shape or type, a number that is not finite or too large (with its row), vectors that are
                all (nearly) equal, or fewer different vectors or residuals than a level has codes.
        """
        _check_shape(vectors)
        num_vectors, largest = len(vectors), max(self.codebook_sizes)
        if num_vectors < largest:
            raise _too_few(self.codebook_sizes.index(largest), self.codebook_sizes, f"{num_vectors} vectors")
        mean = _mean_of_checked(vectors)
        centre = mean.astype(np.float32) if self.centre else np.zeros(len(mean), dtype=np.float32)
        residuals = self._sample(vectors)
        residuals -= centre
        variance = _mean_squared(residuals)
        if variance <= max(SMALLEST, NEGLIGIBLE * float(mean @ mean)):
            raise DataError(
                "the vectors to quantise are all equal, or nearly so",
                expected="different items to have different vectors, rescaled if they are tiny",
                found=f"a mean squared distance of {variance:.3g} from the mean",
                fix="look at the embeddings",
            )
        codebooks, errors = [], [variance]
        for level in range(len(self.codebook_sizes)):
            if errors[-1] <= NEGLIGIBLE * variance:
                raise _too_few(level, self.codebook_sizes, "nothing left to quantise")
            codebook, error = self._fit_level(residuals, level, progress)
            codebooks.append(codebook)
            errors.append(error)
        self.codebooks_, self.mean_, self.variance_ = codebooks, centre, variance
        self.mean_squared_residuals_ = np.array(errors[1:])
        return self

    def encode(self, vectors: np.ndarray, progress: Progress | None = None) -> Int32[np.ndarray, "N L"]:
        """The codes of each vector, which do not depend on the other vectors.

        Args:
            vectors: float32 [N, E], finite; may be a memory map, and is read in chunks.
            progress: called with ("encode", vectors done, N).

        Returns:
            Code c_l in 0..K_l - 1 of every vector and level.

        Raises:
            DataError: another width or type than at `fit`, or a number that is not finite or too large (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        _check_shape(vectors, width=len(self.mean_))
        codes = np.empty((len(vectors), len(self.codebooks_)), dtype=np.int32)
        for rows in chunks(len(vectors), len(self.mean_) + max(map(len, self.codebooks_))):
            _check_values(vectors[rows], rows.start)
            residuals = vectors[rows] - self.mean_
            for level, codebook in enumerate(self.codebooks_):
                codes[rows, level] = nearest_codes(residuals, codebook)
                residuals -= codebook[codes[rows, level]]
            if progress is not None:
                progress("encode", rows.stop, len(vectors))
        return codes

    def decode(self, codes: np.ndarray) -> Float32[np.ndarray, "N E"]:
        """mean + B_1[c_1] + .. + B_l[c_l]; the first l of the L codes give the approximation by the first l levels.

        Args:
            codes: integers [N, l], 1 <= l <= L.

        Raises:
            DataError: wrong shape or type, or a code outside its level (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        sizes = [len(codebook) for codebook in self.codebooks_]
        if codes.ndim != 2 or codes.dtype.kind not in "iu" or not 1 <= codes.shape[1] <= len(sizes):
            raise DataError(
                "codes have the wrong shape or type",
                expected=f"integers [N, 1 to {len(sizes)}]",
                found=f"{codes.dtype} {list(codes.shape)}",
            )
        vectors = np.repeat(self.mean_[None], len(codes), axis=0)
        for level, (column, codebook) in enumerate(zip(codes.T, self.codebooks_, strict=False)):
            wrong = np.flatnonzero((column < 0) | (column >= len(codebook)))
            if len(wrong):
                raise DataError(
                    f"code outside level {level + 1} in row {wrong[0]}",
                    expected=f"0 to {len(codebook) - 1}",
                    found=column[wrong[0]],
                )
            for rows in row_chunks(vectors):
                vectors[rows] += codebook[column[rows]]
        return vectors

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `encode` and `decode` need, and the fitted errors, as arrays (for safetensors).

        Keys: `mean`, `codebook.0` .. `codebook.{L-1}`, `variance` [1], `mean_squared_residuals` [L].

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        return {
            "mean": self.mean_,
            **{f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)},
            "variance": np.array([self.variance_]),
            "mean_squared_residuals": self.mean_squared_residuals_,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> ResidualKMeans:
        """A fitted quantiser from `state`; the parameters of training, except codebook_sizes, have their defaults.

        Raises:
            DataError: a key is missing or unknown, or an array has a wrong shape or type or is not finite.
        """
        num_levels = sum(key.startswith("codebook.") for key in state)
        names = [f"codebook.{level}" for level in range(num_levels)]
        keys = ["mean", *names, "variance", "mean_squared_residuals"]
        if not names or sorted(keys) != sorted(state):
            raise DataError("not the state of a residual k-means", expected=", ".join(keys), found=", ".join(state))
        width = (state["mean"].size,)
        for key, expected in {"mean": width, "variance": (1,), "mean_squared_residuals": (num_levels,)}.items():
            _check_state(key, state[key], expected, np.float32 if key == "mean" else np.float64)
        for name in names:
            _check_state(name, state[name], (*state[name].shape[:1], *width), np.float32)
        quantiser = cls(codebook_sizes=tuple(len(state[name]) for name in names))
        quantiser.codebooks_ = [np.array(state[name]) for name in names]
        quantiser.mean_ = np.array(state["mean"])
        quantiser.variance_ = float(state["variance"][0])
        quantiser.mean_squared_residuals_ = np.array(state["mean_squared_residuals"])
        return quantiser

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_squared_residuals_"):
            raise ConfigError("the residual k-means is not fitted", fix="call fit or from_state first")

    def _sample(self, vectors: np.ndarray) -> np.ndarray:
        """A copy of the vectors to train on, in their order."""
        size = max(self.codebook_sizes) * self.max_points_per_centroid
        if size >= len(vectors):
            return np.array(vectors, order="C")
        chosen = generator(self.seed, _SAMPLE).choice(len(vectors), size, replace=False, shuffle=False)
        return np.ascontiguousarray(vectors[np.sort(chosen)])

    def _fit_level(self, residuals: np.ndarray, level: int, progress: Progress | None) -> tuple[np.ndarray, float]:
        """The codebook of a level, and the mean squared residual after it; takes the codebook off the residuals."""
        best_error, best = np.inf, None
        for restart in range(self.num_restarts):
            initial = self._initial(residuals, level, restart)
            codebook = _lloyd(residuals, initial, self.num_iterations)
            codes = _assign(residuals, codebook)
            error = _mean_squared(residuals, codebook, codes)
            if best is None or error < best_error:
                best_error, best = error, (codebook, codes)
            if progress is not None:
                done = level * self.num_restarts + restart + 1
                progress("residual k-means", done, len(self.codebook_sizes) * self.num_restarts)
        assert best is not None  # num_restarts >= 1
        codebook, codes = best
        for rows in row_chunks(residuals):
            residuals[rows] -= codebook[codes[rows]]
        num_dead = len(codebook) - len(np.unique(codes))
        logger.info(
            "level %d of %d: mean squared residual %.6g; %d of %d codes unused on %d vectors%s",
            *(level + 1, len(self.codebook_sizes), best_error, num_dead, len(codebook), len(codes)),
            f", which are few: below {_FEW} a code" if len(codes) < _FEW * len(codebook) else "",
        )
        return codebook, best_error

    def _initial(self, residuals: np.ndarray, level: int, restart: int) -> np.ndarray:
        size = self.codebook_sizes[level]
        order = generator(self.seed, _INITIAL, level, restart).permutation(len(residuals))
        rows = _distinct_rows(residuals, order, size if self.initialisation == "random" else _POOL * size)
        if len(rows) < size:
            what = "vectors" if level == 0 else "residuals"
            raise _too_few(level, self.codebook_sizes, f"{len(rows)} different {what}")
        if self.initialisation == "random":
            return residuals[rows]
        from sklearn.cluster import kmeans_plusplus  # a second, not at the start of every command

        state = fold_in(self.seed, _INITIAL, level, restart, 1) % 2**32
        _, chosen = kmeans_plusplus(residuals[rows].astype(np.float64), size, random_state=state)
        return residuals[np.asarray(rows)[chosen]]


def _lloyd(vectors: np.ndarray, initial: np.ndarray, num_iterations: int) -> np.ndarray:
    """FAISS k-means on all the vectors, from given centroids."""
    import faiss  # a third of a second, not at the start of every command

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        len(initial),
        niter=num_iterations,
        nredo=1,
        seed=0,  # of FAISS's own sample and first centroids, neither of which is left to it
        max_points_per_centroid=len(vectors),
        min_points_per_centroid=1,
        verbose=False,
        gpu=False,
    )
    kmeans.train(vectors, init_centroids=np.ascontiguousarray(initial))
    return np.array(kmeans.centroids, dtype=np.float32)


def _assign(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    codes = np.empty(len(vectors), dtype=np.int32)
    for rows in chunks(len(vectors), vectors.shape[1] + len(codebook)):
        codes[rows] = nearest_codes(vectors[rows], codebook)
    return codes


def _mean_squared(vectors: np.ndarray, codebook: np.ndarray | None = None, codes: np.ndarray | None = None) -> float:
    """Mean of the squared norms, in float64, after the codebook is taken off."""
    total = 0.0
    for rows in row_chunks(vectors):
        chunk = vectors[rows] if codebook is None or codes is None else vectors[rows] - codebook[codes[rows]]
        total += float(np.square(chunk, dtype=np.float64).sum())
    return total / len(vectors)


def _mean_of_checked(vectors: np.ndarray) -> np.ndarray:
    """The mean row in float64, after a look at every number."""
    total = np.zeros(vectors.shape[1])
    for rows in row_chunks(vectors):
        _check_values(vectors[rows], rows.start)
        total += vectors[rows].sum(axis=0, dtype=np.float64)
    return total / len(vectors)


def _distinct_rows(vectors: np.ndarray, order: np.ndarray, wanted: int) -> list[int]:
    """The first `wanted` rows in this order that differ from all before; fewer if there are not that many."""
    seen: set[bytes] = set()
    rows: list[int] = []
    for row in order.tolist():
        key = (vectors[row] + np.float32(0)).tobytes()  # -0.0 becomes 0.0
        if key not in seen:
            seen.add(key)
            rows.append(row)
            if len(rows) == wanted:
                break
    return rows


def _check_shape(vectors: np.ndarray, width: int | None = None) -> None:
    expected = "E" if width is None else width
    is_matrix = vectors.ndim == 2 and vectors.shape[1] > 0 and width in (None, vectors.shape[1])
    if not is_matrix or vectors.dtype != np.float32:
        raise DataError(
            "vectors to quantise have the wrong shape or type",
            expected=f"float32 [N, {expected}]" + ("" if width is None else ", the width it was fitted with"),
            found=f"{vectors.dtype} {list(vectors.shape)}",
        )


def _check_values(chunk: np.ndarray, start: int) -> None:
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


def _check_state(key: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
        raise DataError(
            f"array {key!r} of the residual k-means is damaged",
            expected=f"finite {np.dtype(dtype)} {list(shape)}",
            found=f"{array.dtype} {list(array.shape)}",
        )


def _too_few(level: int, sizes: Sequence[int], found: str) -> DataError:
    return DataError(
        f"too few vectors for level {level + 1} of {len(sizes)} of the codes",
        expected=f"at least {sizes[level]} different ones for its {sizes[level]} codes",
        found=found,
        fix="lower tokenizer.codebook_sizes" if level == 0 else "lower tokenizer.codebook_sizes, or use fewer levels",
    )
