"""Product quantiser (OPQ): unordered codes, one for each part of the rotated vector.

FAISS trains the rotation and the codebooks, NumPy assigns. Knows arrays; must not know networks, configuration,
artifacts, or what becomes of items that share their codes.
"""
# N vectors, E width, L levels (parts), S width of a part, K codes of a level

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int32

from genrec.embeddings.rows import row_chunks
from genrec.errors import ConfigError, DataError
from genrec.quantization import checks
from genrec.quantization.assignment import chunks, nearest_codes
from genrec.quantization.faiss_training import bits_of, check_positive, one_thread
from genrec.quantization.last_level import LastLevelErrors
from genrec.quantization.products import exact_products, sum_of_codes
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.seeding import fold_in

WHAT = "product quantiser"
_SAMPLE, _LEVEL = 0, 1  # what a seed is for

Progress = Callable[[str, int, int], None]


class ProductQuantizer:
    """Optimised product quantiser (OPQ; docs/methods.md section 1), the codes of RPG.

    z = R (e - mean), cut into L parts of S numbers; c_l = argmin_k |z_l - B_l[k]|^2, ties to the lower code. FAISS's
    OPQ trains the rotation R, in one thread; k-means (see `ResidualKMeans`) then trains B_l on part l. A code says
    nothing of the others, so the order of the levels carries no meaning; it is that of the parts.

    If L does not divide E, R maps to the next multiple of L. R keeps lengths, so nearest in z is nearest in e.

    Args:
        codebook_sizes: K of each part, all equal (OPQ trains its rotation for parts of one size) and a power of two.
        rotate: train R; otherwise the parts are those of e - mean itself.
        num_rotations: alternations of rotation and assignment.
        num_iterations: of k-means.
        max_points_per_centroid: the rotation and codebooks see K * this many random vectors at most.
        seed: in [0, 2^64); FAISS starts every rotation from the same random one.

    Attributes:
        rotation_: float32 [L * S, E].
        codebooks_: L arrays, float32 [K, S], of the parts.
        mean_: float32 [E], of all vectors.
        variance_: mean of |e - mean|^2 on the fitted set.
        mean_squared_residuals_: float64 [L], mean of |e - decode(c_1..c_l)|^2 there.

    Raises:
        ConfigError: a parameter out of range.

    >>> points = np.array([[0, 0], [0, 1], [8, 0], [8, 1]], dtype=np.float32)
    >>> quantiser = ProductQuantizer(codebook_sizes=(2, 2), rotate=False).fit(points)
    >>> codes = quantiser.encode(points)
    >>> len(np.unique(codes, axis=0)), np.abs(quantiser.decode(codes) - points).max().item()
    (4, 0.0)
    >>> quantiser.decode(codes[:, :1])[:, 1].tolist()  # the second part unknown: its mean
    [0.5, 0.5, 0.5, 0.5]
    """

    rotation_: np.ndarray
    codebooks_: list[np.ndarray]
    mean_: np.ndarray
    variance_: float
    mean_squared_residuals_: np.ndarray

    def __init__(
        self,
        *,
        codebook_sizes: Sequence[int] = (256, 256, 256, 256),
        rotate: bool = True,
        num_rotations: int = 50,
        num_iterations: int = 25,
        max_points_per_centroid: int = 256,
        seed: int = 0,
    ) -> None:
        bits_of(WHAT, codebook_sizes)
        if len(set(codebook_sizes)) > 1:
            raise ConfigError(
                f"{WHAT}: wrong codebook_sizes", expected="levels of equal size", found=list(codebook_sizes)
            )
        check_positive(
            WHAT,
            num_rotations=num_rotations,
            num_iterations=num_iterations,
            max_points_per_centroid=max_points_per_centroid,
        )
        fold_in(seed)
        self.codebook_sizes = tuple(codebook_sizes)
        self.rotate = rotate
        self.num_rotations = num_rotations
        self.num_iterations = num_iterations
        self.max_points_per_centroid = max_points_per_centroid
        self.seed = seed

    def fit(self, vectors: np.ndarray, progress: Progress | None = None) -> ProductQuantizer:
        """Trains rotation and codebooks.

        Args:
            vectors: float32 [N, E], finite; may be a memory map. All rows are read once, in chunks; only the sample is
                copied.
            progress: called with ("product quantiser", trainings done, trainings in all).

        Raises:
            DataError: wrong shape or type, a number that is not finite or too large (with its row), vectors that are
                all (nearly) equal, fewer numbers a vector than levels, or fewer different parts than a level has codes.
        """
        checks.check_shape(vectors)
        checks.check_enough(len(vectors), self.codebook_sizes)
        num_levels, width = len(self.codebook_sizes), vectors.shape[1]
        if width < num_levels:
            fix = "use fewer levels in tokenizer.codebook_sizes"
            raise DataError("fewer numbers a vector than levels", expected=num_levels, found=width, fix=fix)
        mean = checks.mean_of_checked(vectors)
        sample = checks.sample_rows(vectors, self.codebook_sizes[0] * self.max_points_per_centroid, self.seed, _SAMPLE)
        if self.rotate:
            checks.check_not_wider(len(sample), width)
        sample -= mean.astype(np.float32)
        variance = _mean_squared(sample)
        checks.check_spread(variance, mean)
        rotation = self._train_rotation(sample) if self.rotate else np.eye(_padded(width, num_levels), width)
        if progress is not None:
            progress(WHAT, 1, num_levels + 1)
        rotation = rotation.astype(np.float32)
        rotated = _rotate(sample, rotation)
        codebooks, explained = [], []
        for level in range(num_levels):
            part = self._fit_level(_part(rotated, level, num_levels), level, variance)
            codebooks.append(part.codebooks_[0])
            explained.append(part.variance_ - part.mean_squared_residuals_[0])
            if progress is not None:
                progress(WHAT, level + 2, num_levels + 1)
        self.rotation_, self.codebooks_, self.mean_ = rotation, codebooks, mean.astype(np.float32)
        self.variance_ = variance
        self.mean_squared_residuals_ = np.maximum(variance - np.cumsum(explained), 0.0)
        return self

    def encode(self, vectors: np.ndarray, progress: Progress | None = None) -> Int32[np.ndarray, "N L"]:
        """The codes of each vector, which depend neither on the other vectors nor on the number of threads.

        Args:
            vectors: float32 [N, E], finite; may be a memory map, and is read in chunks.
            progress: called with ("encode", vectors done, N).

        Returns:
            Code c_l in 0..K - 1 of every vector and part.

        Raises:
            DataError: another width or type than at `fit`, or a number that is not finite or too large (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        checks.check_shape(vectors, width=len(self.mean_))
        num_levels = len(self.codebooks_)
        codes = np.empty((len(vectors), num_levels), dtype=np.int32)
        for rows in chunks(len(vectors), 6 * len(self.rotation_) + len(self.codebooks_[0])):
            checks.check_values(vectors[rows], rows.start)
            rotated = _rotate(vectors[rows] - self.mean_, self.rotation_)
            for level, codebook in enumerate(self.codebooks_):
                codes[rows, level] = nearest_codes(_part(rotated, level, num_levels), codebook)
            if progress is not None:
                progress("encode", rows.stop, len(vectors))
        return codes

    def decode(self, codes: np.ndarray) -> Float32[np.ndarray, "N E"]:
        """mean + R' (B_1[c_1], .., B_l[c_l], 0, ..): the first l codes give their parts, the rest is the mean's.

        Args:
            codes: integers [N, l], 1 <= l <= L.

        Raises:
            DataError: wrong shape or type, or a code outside its level (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        checks.check_decodable(codes, [len(codebook) for codebook in self.codebooks_])
        num_levels = len(self.codebooks_)
        turned = [
            exact_products(codebook, _part(self.rotation_.T, level, num_levels)).astype(np.float32)
            for level, codebook in enumerate(self.codebooks_[: codes.shape[1]])
        ]
        return sum_of_codes(self.mean_, turned, codes)

    def last_level_errors(self, vectors: np.ndarray, codes: np.ndarray) -> LastLevelErrors:
        """Squared errors |z - (B_1[c_1], .., B_L[k])|^2 of vectors [N, E] with codes [N, L] at other codes of part L.

        Where L divides E this is |e - decode(codes)|^2; otherwise it also counts what of the codes R' maps to nothing.

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        num_levels = len(self.codebooks_)

        def rest(vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rotated = _rotate(vectors - self.mean_, self.rotation_)
            missed = np.zeros(len(vectors))
            for level, codebook in enumerate(self.codebooks_[:-1]):
                difference = _part(rotated, level, num_levels) - codebook[codes[:, level]]
                missed += np.square(difference, dtype=np.float64).sum(axis=1)
            return _part(rotated, num_levels - 1, num_levels), missed

        return LastLevelErrors(vectors, codes, rest, self.codebooks_[-1], float(self.mean_squared_residuals_[-1]))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `encode` and `decode` need, and the fitted errors, as arrays (for safetensors).

        Keys: `mean`, `rotation`, `codebook.0` .. `codebook.{L-1}`, `variance` [1], `mean_squared_residuals` [L].

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        return {
            "mean": self.mean_,
            "rotation": self.rotation_,
            **{f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)},
            "variance": np.array([self.variance_]),
            "mean_squared_residuals": self.mean_squared_residuals_,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> ProductQuantizer:
        """A fitted quantiser from `state`; the parameters of training, except codebook_sizes, have their defaults.

        Raises:
            DataError: a key is missing or unknown, or an array has a wrong shape or type or is not finite.
        """
        names = checks.check_keys(WHAT, state, "mean", "rotation", "variance", "mean_squared_residuals")
        width, num_levels = state["mean"].size, len(names)
        turned = _padded(width, num_levels)
        part = (*state[names[0]].shape[:1], turned // num_levels)
        shapes = {"mean": (width,), "rotation": (turned, width), **dict.fromkeys(names, part)}
        for key, shape in shapes.items():
            checks.check_state(WHAT, key, state[key], shape, np.float32)
        for key, shape in {"variance": (1,), "mean_squared_residuals": (num_levels,)}.items():
            checks.check_state(WHAT, key, state[key], shape, np.float64)
        quantiser = cls(codebook_sizes=(part[0],) * num_levels)
        quantiser.codebooks_ = [np.array(state[name]) for name in names]
        quantiser.mean_, quantiser.rotation_ = np.array(state["mean"]), np.array(state["rotation"])
        quantiser.variance_ = float(state["variance"][0])
        quantiser.mean_squared_residuals_ = np.array(state["mean_squared_residuals"])
        return quantiser

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_squared_residuals_"):
            raise ConfigError(f"the {WHAT} is not fitted", fix="call fit or from_state first")

    def _train_rotation(self, sample: np.ndarray) -> np.ndarray:
        import faiss  # a third of a second, not at the start of every command

        num_levels, width = len(self.codebook_sizes), sample.shape[1]
        padded = _padded(width, num_levels)
        with one_thread():
            inner = faiss.ProductQuantizer(padded, num_levels, bits_of(WHAT, self.codebook_sizes)[0])
            inner.cp.min_points_per_centroid = 1  # only a warning on standard error
            opq = faiss.OPQMatrix(width, num_levels, padded)
            opq.pq = inner
            opq.niter = self.num_rotations
            opq.max_train_points = len(sample)
            opq.train(sample)
            return faiss.vector_to_array(opq.A).reshape(padded, width)

    def _fit_level(self, part: np.ndarray, level: int, variance: float) -> ResidualKMeans:
        """K-means of one part; what it cannot tell apart is said of this level."""
        if _mean_squared(part) <= checks.NEGLIGIBLE * variance:
            raise checks.too_few(level, self.codebook_sizes, "parts that are all equal")
        kmeans = ResidualKMeans(
            codebook_sizes=self.codebook_sizes[:1],
            num_iterations=self.num_iterations,
            max_points_per_centroid=self.max_points_per_centroid,
            centre=False,
            seed=fold_in(self.seed, _LEVEL, level),
            device="cpu",
        )
        try:
            return kmeans.fit(part)
        except DataError as error:
            raise checks.too_few(level, self.codebook_sizes, "fewer different parts") from error


def _padded(width: int, num_levels: int) -> int:
    return -(-width // num_levels) * num_levels


def _part(rotated: np.ndarray, level: int, num_levels: int) -> np.ndarray:
    size = rotated.shape[1] // num_levels
    return np.ascontiguousarray(rotated[:, level * size : (level + 1) * size])


def _rotate(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """R x of every row, whatever is beside it. An identity only adds zeros: rounding would part what is equal."""
    if np.array_equal(rotation, np.eye(*rotation.shape, dtype=np.float32)):
        return np.pad(vectors, ((0, 0), (0, len(rotation) - vectors.shape[1])))
    rotated = np.empty((len(vectors), len(rotation)), dtype=np.float32)
    for rows in row_chunks(rotated):
        rotated[rows] = exact_products(vectors[rows], rotation)
    return rotated


def _mean_squared(vectors: np.ndarray) -> float:
    """Mean of the squared norms, in float64."""
    return sum(float(np.square(vectors[rows], dtype=np.float64).sum()) for rows in row_chunks(vectors)) / len(vectors)
