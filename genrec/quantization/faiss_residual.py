"""FAISS's residual quantiser: residual codes found by a beam search instead of greedily.

FAISS trains the codebooks, NumPy searches. Knows arrays; must not know networks, configuration, artifacts, or what
becomes of items that share their codes.
"""
# N vectors, E width, L levels, K codes of a level, W beams

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int32

from genrec.embeddings.rows import row_chunks
from genrec.errors import ConfigError
from genrec.quantization import checks
from genrec.quantization.assignment import chunks
from genrec.quantization.faiss_training import bits_of, check_positive, one_thread
from genrec.quantization.last_level import LastLevelErrors, take_off
from genrec.quantization.products import exact_products, sum_of_codes
from genrec.seeding import fold_in, generator

WHAT = "FAISS residual quantiser"
_SAMPLE, _TRAINING, _ORDER = 0, 1, 2  # what a seed is for

Progress = Callable[[str, int, int], None]


class FaissResidualQuantizer:
    """Residual quantiser with a beam search over the codes (docs/methods.md section 1).

    e is about mean + B_1[c_1] + .. + B_L[c_L]. As FAISS's ResidualQuantizer does it: at every level the W partial codes
    with the smallest |e - mean - sum_{j <= l} B_j[c_j]|^2 are kept, and the best of the last ones is the item's. A wide
    beam leaves less residual than greedy residual k-means; in exchange, c_1 need not be the nearest code of its level,
    so prefixes mean a little less. FAISS trains B_l on the residuals of each vector's best partial code
    (Train_top_beam). On those of all W, its default, a wide beam left more residual than a greedy search wherever items
    form clusters, and far more after the first levels.

    The search is written out here with products that no order of summation can change, so codes for given codebooks
    depend neither on the machine nor on the vectors encoded beside (FAISS's own do). Distances are good to about
    2^-20 |e - mean|^2; ties go to the better beam, then to the lower code.

    Args:
        codebook_sizes: K_l of each level, powers of two; they may differ.
        beam_width: W, FAISS's max_beam_size, at training and encoding; 1 is greedy. Time and memory grow with it.
        num_iterations: of k-means.
        max_points_per_centroid: bounds the sample: max(K_l) * this many random vectors at most.
        seed: in [0, 2^64).

    Attributes:
        codebooks_: L arrays, float32 [K_l, E].
        mean_: float32 [E], of all vectors.
        variance_: mean of |e - mean|^2 on the fitted set.
        mean_squared_residuals_: float64 [L], mean of |e - decode(c_1..c_l)|^2 there.

    Raises:
        ConfigError: a parameter out of range.

    >>> points = np.array([[0, 0], [0, 1], [8, 0], [8, 1]], dtype=np.float32)
    >>> quantiser = FaissResidualQuantizer(codebook_sizes=(2, 2), beam_width=1).fit(points)
    >>> codes = quantiser.encode(points)
    >>> len(np.unique(codes, axis=0)), np.abs(quantiser.decode(codes) - points).max().item() < 1e-5
    (4, True)
    """

    codebooks_: list[np.ndarray]
    mean_: np.ndarray
    variance_: float
    mean_squared_residuals_: np.ndarray

    def __init__(
        self,
        *,
        codebook_sizes: Sequence[int] = (256, 256, 256),
        beam_width: int = 5,
        num_iterations: int = 25,
        max_points_per_centroid: int = 256,
        seed: int = 0,
    ) -> None:
        bits_of(WHAT, codebook_sizes)
        check_positive(
            WHAT,
            beam_width=beam_width,
            num_iterations=num_iterations,
            max_points_per_centroid=max_points_per_centroid,
        )
        fold_in(seed)
        self.codebook_sizes = tuple(codebook_sizes)
        self.beam_width = beam_width
        self.num_iterations = num_iterations
        self.max_points_per_centroid = max_points_per_centroid
        self.seed = seed

    def fit(self, vectors: np.ndarray, progress: Progress | None = None) -> FaissResidualQuantizer:
        """Trains the codebooks, in one thread, and encodes the sample for its errors.

        Args:
            vectors: float32 [N, E], finite; may be a memory map. All rows are read once, in chunks; only the sample is
                copied.
            progress: called with ("FAISS residual quantiser", steps done, 2).

        Raises:
            DataError: wrong shape or type, a number that is not finite or too large (with its row), vectors that are
                all (nearly) equal, or fewer different vectors than a level has codes.
        """
        checks.check_shape(vectors)
        checks.check_enough(len(vectors), self.codebook_sizes)
        mean = checks.mean_of_checked(vectors)
        largest = max(self.codebook_sizes)
        sample = checks.sample_rows(vectors, largest * self.max_points_per_centroid, self.seed, _SAMPLE)
        checks.check_not_wider(len(sample), vectors.shape[1])
        sample -= mean.astype(np.float32)
        variance = sum(float(np.square(sample[rows], dtype=np.float64).sum()) for rows in row_chunks(sample))
        checks.check_spread(variance / len(sample), mean)
        order = generator(self.seed, _ORDER).permutation(len(sample))
        num_different = len(checks.distinct_rows(sample, order, largest))
        if num_different < largest:
            level = self.codebook_sizes.index(largest)
            raise checks.too_few(level, self.codebook_sizes, f"{num_different} different vectors")
        codebooks = self._train(sample)
        if progress is not None:
            progress(WHAT, 1, 2)
        self.codebooks_, self.mean_, self.variance_ = codebooks, mean.astype(np.float32), variance / len(sample)
        self.mean_squared_residuals_ = self._errors(sample)
        if progress is not None:
            progress(WHAT, 2, 2)
        return self

    def encode(self, vectors: np.ndarray, progress: Progress | None = None) -> Int32[np.ndarray, "N L"]:
        """The codes of each vector, which depend neither on the other vectors nor on the number of threads.

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
        checks.check_shape(vectors, width=len(self.mean_))
        codes = np.empty((len(vectors), len(self.codebooks_)), dtype=np.int32)
        gram = _gram(self.codebooks_)
        for rows in self._chunks(len(vectors)):
            checks.check_values(vectors[rows], rows.start)
            codes[rows] = _search(vectors[rows] - self.mean_, self.codebooks_, gram, self.beam_width)
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
        checks.check_decodable(codes, [len(codebook) for codebook in self.codebooks_])
        return sum_of_codes(self.mean_, self.codebooks_, codes)

    def last_level_errors(self, vectors: np.ndarray, codes: np.ndarray) -> LastLevelErrors:
        """Squared errors of vectors [N, E] with codes [N, L] at other last codes.

        The search looks at all last codes of the prefix that it ends with, so no other is better there, up to the
        rounding of its distances; under a prefix that it has left there may be a better one.

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()

        def rest(vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return take_off(vectors - self.mean_, self.codebooks_[:-1], codes)

        return LastLevelErrors(vectors, codes, rest, self.codebooks_[-1], float(self.mean_squared_residuals_[-1]))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `encode` and `decode` need, and the fitted errors, as arrays (for safetensors).

        Keys: `mean`, `codebook.0` .. `codebook.{L-1}`, `beam_width` [1], `variance` [1], `mean_squared_residuals` [L].

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        return {
            "mean": self.mean_,
            **{f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)},
            "beam_width": np.array([self.beam_width], dtype=np.int64),
            "variance": np.array([self.variance_]),
            "mean_squared_residuals": self.mean_squared_residuals_,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> FaissResidualQuantizer:
        """A fitted quantiser from `state`; the other parameters of training have their defaults.

        Raises:
            DataError: a key is missing or unknown, or an array has a wrong shape or type or is not finite.
        """
        names = checks.check_keys(WHAT, state, "mean", "beam_width", "variance", "mean_squared_residuals")
        width = (state["mean"].size,)
        checks.check_state(WHAT, "mean", state["mean"], width, np.float32)
        for name in names:
            checks.check_state(WHAT, name, state[name], (*state[name].shape[:1], *width), np.float32)
        for key, shape in {"variance": (1,), "mean_squared_residuals": (len(names),)}.items():
            checks.check_state(WHAT, key, state[key], shape, np.float64)
        checks.check_state(WHAT, "beam_width", state["beam_width"], (1,), np.int64)
        quantiser = cls(
            codebook_sizes=tuple(len(state[name]) for name in names), beam_width=int(state["beam_width"][0])
        )
        quantiser.codebooks_ = [np.array(state[name]) for name in names]
        quantiser.mean_ = np.array(state["mean"])
        quantiser.variance_ = float(state["variance"][0])
        quantiser.mean_squared_residuals_ = np.array(state["mean_squared_residuals"])
        return quantiser

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_squared_residuals_"):
            raise ConfigError(f"the {WHAT} is not fitted", fix="call fit or from_state first")

    def _chunks(self, num_vectors: int) -> Iterator[slice]:
        largest = max(len(codebook) for codebook in self.codebooks_)
        return chunks(num_vectors, 4 * (len(self.mean_) + self.beam_width * largest))

    def _train(self, sample: np.ndarray) -> list[np.ndarray]:
        import faiss  # a third of a second, not at the start of every command

        with one_thread():
            bits = faiss.UInt64Vector()
            for level_bits in bits_of(WHAT, self.codebook_sizes):
                bits.push_back(level_bits)
            quantiser = faiss.ResidualQuantizer(sample.shape[1], bits)  # pyright: ignore[reportArgumentType]
            quantiser.max_beam_size = self.beam_width
            quantiser.train_type |= faiss.ResidualQuantizer.Train_top_beam
            quantiser.cp.seed = fold_in(self.seed, _TRAINING) % 2**31
            quantiser.cp.niter = self.num_iterations
            quantiser.cp.max_points_per_centroid = self.max_points_per_centroid
            quantiser.cp.min_points_per_centroid = 1  # only a warning on standard error
            quantiser.train(sample)
            codebooks = faiss.vector_to_array(quantiser.codebooks).reshape(-1, sample.shape[1])
        return [np.array(book) for book in np.split(codebooks, np.cumsum(self.codebook_sizes)[:-1])]

    def _errors(self, sample: np.ndarray) -> np.ndarray:
        """Mean squared residual of the centred sample after each level."""
        totals, gram = np.zeros(len(self.codebooks_)), _gram(self.codebooks_)
        for rows in self._chunks(len(sample)):
            codes = _search(sample[rows], self.codebooks_, gram, self.beam_width)
            rest = np.array(sample[rows])
            for level, codebook in enumerate(self.codebooks_):
                rest -= codebook[codes[:, level]]
                totals[level] += np.square(rest, dtype=np.float64).sum()
        return totals / len(sample)


def _gram(codebooks: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """<B_l[i], B_j[k]> for every level l and every j <= l: [l][j] is float64 [K_j, K_l]."""
    return [[exact_products(earlier, book) for earlier in codebooks[: at + 1]] for at, book in enumerate(codebooks)]


def _search(
    vectors: np.ndarray, codebooks: Sequence[np.ndarray], gram: list[list[np.ndarray]], beam_width: int
) -> np.ndarray:
    """The codes [n, L] of the best beam; |x - sum B|^2 - |x|^2 is put together from tables of products."""
    num_rows = len(vectors)
    scores = np.zeros((num_rows, 1))
    paths = np.empty((num_rows, 1, 0), dtype=np.int32)
    every = np.arange(num_rows)[:, None]
    for level, codebook in enumerate(codebooks):
        alone = np.diagonal(gram[level][level]) - 2.0 * exact_products(vectors, codebook)
        found = scores[:, :, None] + alone[:, None, :]
        for earlier in range(level):
            found += 2.0 * gram[level][earlier][paths[:, :, earlier]]
        found = found.reshape(num_rows, -1)
        scores, chosen = _smallest(found, min(beam_width, found.shape[1]))
        beams, codes = np.divmod(chosen, len(codebook))
        paths = np.concatenate([paths[every, beams], codes[:, :, None].astype(np.int32)], axis=2)
    return paths[:, 0]


def _smallest(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest numbers of each row, ascending, and where they are; ties to the lower place. Overwrites them."""
    places = np.empty((len(scores), count), dtype=np.int64)
    values = np.empty((len(scores), count))
    every = np.arange(len(scores))
    for rank in range(count):
        places[:, rank] = scores.argmin(axis=1)
        values[:, rank] = scores[every, places[:, rank]]
        scores[every, places[:, rank]] = np.inf
    return values, places
