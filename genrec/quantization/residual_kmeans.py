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
from genrec.errors import ConfigError
from genrec.quantization import checks
from genrec.quantization.assignment import chunks, nearest_codes
from genrec.quantization.balance import balanced_codebook
from genrec.quantization.faiss_training import DEVICES, num_gpus, uses_gpu
from genrec.quantization.last_level import LastLevelErrors, take_off
from genrec.quantization.products import sum_of_codes
from genrec.quantization.whitening import Whitening
from genrec.seeding import fold_in, generator

logger = logging.getLogger(__name__)

INITIALISATIONS = ("plus_plus", "random")
WHAT = "residual k-means"
_SAMPLE, _INITIAL = 0, 1  # what a seed is for
_POOL = 32  # distinct vectors a code among which k-means++ chooses
_WHITENING = ("whitening.directions", "whitening.scales")  # their names in a state
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
    memory or memory-mapped, if k-means runs on the CPU: FAISS sums each centroid in one thread, in the order of the
    vectors. Another processor may round the products behind an assignment otherwise, and a GPU may from run to run. The
    codes for given codebooks depend on nothing of the kind (see `nearest_codes`): not on the machine, the number of
    threads, or the vectors that are encoded beside.

    With `balance` each code has a price p_l[k] >= 0, fitted with the codebooks and then fixed (see `balance.py`), and
    c_l = argmin_k |r_{l-1} - B_l[k]|^2 + p_l[k]: still a function of the vector alone. On the fitted set no code of a
    level is the choice of more than balance * N / K_l of its N different residuals (and 5 %, see `balance.TOLERANCE`);
    equal ones, which no codes can part, are counted once. That costs squared error, and later vectors may crowd.

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
        whiten: share of the variance, in (0, 1], whose principal directions are kept and scaled to variance one before
            anything else, e being replaced by P (e - mean) / s; None: vectors as they are. A direction of little
            variance then counts as much as one of much. Needs `centre`. Errors are those of whitened vectors.
        balance: at least 1: the most fitted residuals a code may hold, as a multiple of N / K_l; None: no bound.
            Training then holds the distances of the sample to all codes of a level in memory.
        device: of k-means: "auto" (a GPU if FAISS sees one), "cpu" or "gpu". All else runs on the CPU.

    Attributes:
        codebooks_: L arrays, float32 [K_l, E], or [K_l, D] with D directions of a whitening.
        prices_: L arrays, float32 [K_l]; empty without `balance`.
        whitening_: None without `whiten`.
        mean_: float32 [E], of all vectors; zeros without `centre`.
        variance_: mean of |e - mean|^2 on the fitted set.
        mean_squared_residuals_: float64 [L], mean of |r_l|^2 after each level on the fitted set: squared norms, not
            divided by E.

    Raises:
        ConfigError: a parameter out of range; from `fit`, device="gpu" where FAISS sees none.

    >>> points = np.array([[0, 0], [0, 1], [8, 0], [8, 1]], dtype=np.float32)
    >>> quantiser = ResidualKMeans(codebook_sizes=(2, 2)).fit(points)
    >>> codes = quantiser.encode(points)
    >>> len(np.unique(codes, axis=0)), np.abs(quantiser.decode(codes) - points).max().item()
    (4, 0.0)
    >>> quantiser.variance_, quantiser.mean_squared_residuals_.tolist()
    (16.25, [0.25, 0.0])
    """

    codebooks_: list[np.ndarray]
    prices_: list[np.ndarray]
    whitening_: Whitening | None
    mean_: np.ndarray
    variance_: float
    mean_squared_residuals_: np.ndarray

    def __init__(  # noqa: PLR0913 - the keys of a tokenizer's section
        self,
        *,
        codebook_sizes: Sequence[int] = (256, 256, 256),
        num_iterations: int = 25,
        num_restarts: int = 1,
        max_points_per_centroid: int = 256,
        centre: bool = True,
        initialisation: str = "plus_plus",
        seed: int = 0,
        whiten: float | None = None,
        balance: float | None = None,
        device: str = "auto",
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
        if whiten is not None and not (0.0 < whiten <= 1.0 and centre):
            raise ConfigError(
                "residual k-means: wrong whiten",
                expected="above 0 and up to 1, with centre",
                found=f"{whiten}, centre={centre}",
            )
        if balance is not None and not 1.0 <= balance < np.inf:
            raise ConfigError("residual k-means: wrong balance", expected="a number of at least 1", found=balance)
        if device not in DEVICES:
            raise ConfigError("residual k-means: wrong device", expected=", ".join(DEVICES), found=device)
        fold_in(seed)
        self.codebook_sizes = tuple(codebook_sizes)
        self.num_iterations = num_iterations
        self.num_restarts = num_restarts
        self.max_points_per_centroid = max_points_per_centroid
        self.centre = centre
        self.initialisation = initialisation
        self.seed = seed
        self.whiten = whiten
        self.balance = balance
        self.device = device

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
        checks.check_shape(vectors)
        checks.check_enough(len(vectors), self.codebook_sizes)
        on_gpu = uses_gpu(self.device, 0 if self.device == "cpu" else num_gpus())
        mean = checks.mean_of_checked(vectors)
        centre = mean.astype(np.float32) if self.centre else np.zeros(len(mean), dtype=np.float32)
        size = max(self.codebook_sizes) * self.max_points_per_centroid
        residuals = checks.sample_rows(vectors, size, self.seed, _SAMPLE)
        residuals -= centre
        variance = _mean_squared(residuals)
        checks.check_spread(variance, mean)
        whitening = None if self.whiten is None else Whitening.fit(residuals, self.whiten)
        if whitening is not None:
            residuals = whitening.apply(residuals)
            variance = _mean_squared(residuals)
        logger.info("k-means on %d vectors, on the %s", len(residuals), "GPU" if on_gpu else "CPU")
        codebooks, prices, errors = [], [], [variance]
        for level in range(len(self.codebook_sizes)):
            if errors[-1] <= checks.NEGLIGIBLE * variance:
                raise checks.too_few(level, self.codebook_sizes, "nothing left to quantise")
            codebook, price, error = self._fit_level(residuals, level, on_gpu, progress)
            codebooks.append(codebook)
            prices += [] if price is None else [price]
            errors.append(error)
        self.codebooks_, self.prices_, self.whitening_ = codebooks, prices, whitening
        self.mean_, self.variance_ = centre, variance
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
        checks.check_shape(vectors, width=len(self.mean_))
        codes = np.empty((len(vectors), len(self.codebooks_)), dtype=np.int32)
        for rows in chunks(len(vectors), len(self.mean_) + max(map(len, self.codebooks_))):
            checks.check_values(vectors[rows], rows.start)
            residuals = vectors[rows] - self.mean_
            if self.whitening_ is not None:
                residuals = self.whitening_.apply(residuals)
            for level, codebook in enumerate(self.codebooks_):
                codes[rows, level] = nearest_codes(residuals, codebook, self.prices_[level] if self.prices_ else None)
                residuals -= codebook[codes[rows, level]]
            if progress is not None:
                progress("encode", rows.stop, len(vectors))
        return codes

    def decode(self, codes: np.ndarray) -> Float32[np.ndarray, "N E"]:
        """mean + B_1[c_1] + .. + B_l[c_l]; the first l of the L codes give the approximation by the first l levels.

        With a whitening, its inverse is applied to the sum; directions that it left out are at their mean.

        Args:
            codes: integers [N, l], 1 <= l <= L.

        Raises:
            DataError: wrong shape or type, or a code outside its level (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        checks.check_decodable(codes, [len(codebook) for codebook in self.codebooks_])
        codebooks = self.codebooks_[: codes.shape[1]]
        if self.whitening_ is not None:
            codebooks = [self.whitening_.undo(codebook) for codebook in codebooks]
        return sum_of_codes(self.mean_, codebooks, codes)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `encode` and `decode` need, and the fitted errors, as arrays (for safetensors).

        Keys: `mean`, `codebook.0` .. `codebook.{L-1}`, `variance` [1], `mean_squared_residuals` [L]; with a whitening
        also `whitening.directions` [D, E] and `whitening.scales` [D], with `balance` also `price.0` .. `price.{L-1}`.
        Tables without them keep their identity.

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        whitening = self.whitening_
        extra = (
            {} if whitening is None else dict(zip(_WHITENING, (whitening.directions, whitening.scales), strict=True))
        )
        return {
            "mean": self.mean_,
            **extra,
            **{f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)},
            **{f"price.{level}": price for level, price in enumerate(self.prices_)},
            "variance": np.array([self.variance_]),
            "mean_squared_residuals": self.mean_squared_residuals_,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> ResidualKMeans:
        """A fitted quantiser from `state`; the parameters of training, except codebook_sizes, have their defaults.

        Raises:
            DataError: a key is missing or unknown, or an array has a wrong shape or type or is not finite.
        """
        extra = _WHITENING if set(_WHITENING) & state.keys() else ()
        is_balanced = any(key.startswith("price.") for key in state)  # all levels have prices, or none
        num_levels = sum(key.startswith("codebook.") for key in state)
        priced = [f"price.{level}" for level in range(num_levels)] if is_balanced else []
        names = checks.check_keys(WHAT, state, "mean", *extra, *priced, "variance", "mean_squared_residuals")
        inner = width = state["mean"].size
        shapes: dict[str, tuple[int, ...]] = {"mean": (width,)}
        if extra:
            inner = state[_WHITENING[1]].size
            shapes |= {_WHITENING[0]: (inner, width), _WHITENING[1]: (inner,)}
        shapes |= {name: (*state[name].shape[:1], inner) for name in names}
        shapes |= {price: state[name].shape[:1] for price, name in zip(priced, names, strict=False)}
        for key, shape in shapes.items():
            checks.check_state(WHAT, key, state[key], shape, np.float32)
        for key, shape in {"variance": (1,), "mean_squared_residuals": (len(names),)}.items():
            checks.check_state(WHAT, key, state[key], shape, np.float64)
        quantiser = cls(codebook_sizes=tuple(len(state[name]) for name in names))
        quantiser.codebooks_ = [np.array(state[name]) for name in names]
        quantiser.prices_ = [np.array(state[price]) for price in priced]
        quantiser.mean_ = np.array(state["mean"])
        quantiser.whitening_ = Whitening(*(np.array(state[key]) for key in extra)) if extra else None
        quantiser.variance_ = float(state["variance"][0])
        quantiser.mean_squared_residuals_ = np.array(state["mean_squared_residuals"])
        return quantiser

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_squared_residuals_"):
            raise ConfigError("the residual k-means is not fitted", fix="call fit or from_state first")

    def _fit_level(
        self, residuals: np.ndarray, level: int, on_gpu: bool, progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray | None, float]:
        """Codebook and prices of a level, the mean squared residual after it; takes the codebook off the residuals."""
        best_error, best = np.inf, None
        for restart in range(self.num_restarts):
            initial = self._initial(residuals, level, restart)
            codebook, prices = _lloyd(residuals, initial, self.num_iterations, on_gpu), None
            if self.balance is not None:
                codebook, prices = balanced_codebook(residuals, codebook, self.balance)
            codes = _assign(residuals, codebook, prices)
            error = _mean_squared(residuals, codebook, codes)
            if best is None or error < best_error:
                best_error, best = error, (codebook, prices, codes)
            if progress is not None:
                done = level * self.num_restarts + restart + 1
                progress("residual k-means", done, len(self.codebook_sizes) * self.num_restarts)
        assert best is not None  # num_restarts >= 1
        codebook, prices, codes = best
        for rows in row_chunks(residuals):
            residuals[rows] -= codebook[codes[rows]]
        num_dead = len(codebook) - len(np.unique(codes))
        logger.info(
            "level %d of %d: mean squared residual %.6g; %d of %d codes unused on %d vectors%s",
            *(level + 1, len(self.codebook_sizes), best_error, num_dead, len(codebook), len(codes)),
            f", which are few: below {_FEW} a code" if len(codes) < _FEW * len(codebook) else "",
        )
        return codebook, prices, best_error

    def _initial(self, residuals: np.ndarray, level: int, restart: int) -> np.ndarray:
        size = self.codebook_sizes[level]
        order = generator(self.seed, _INITIAL, level, restart).permutation(len(residuals))
        rows = checks.distinct_rows(residuals, order, size if self.initialisation == "random" else _POOL * size)
        if len(rows) < size:
            what = "vectors" if level == 0 else "residuals"
            raise checks.too_few(level, self.codebook_sizes, f"{len(rows)} different {what}")
        if self.initialisation == "random":
            return residuals[rows]
        from sklearn.cluster import kmeans_plusplus  # a second, not at the start of every command

        state = fold_in(self.seed, _INITIAL, level, restart, 1) % 2**32
        _, chosen = kmeans_plusplus(residuals[rows].astype(np.float64), size, random_state=state)
        return residuals[np.asarray(rows)[chosen]]

    def last_level_errors(self, vectors: np.ndarray, codes: np.ndarray) -> LastLevelErrors:
        """Squared errors of vectors [N, E] with codes [N, L] at other last codes; of whitened ones with a whitening.

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()

        def rest(vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            residuals = vectors - self.mean_
            if self.whitening_ is not None:
                residuals = self.whitening_.apply(residuals)
            return take_off(residuals, self.codebooks_[:-1], codes)

        return LastLevelErrors(vectors, codes, rest, self.codebooks_[-1], float(self.mean_squared_residuals_[-1]))


def _lloyd(vectors: np.ndarray, initial: np.ndarray, num_iterations: int, on_gpu: bool) -> np.ndarray:
    """FAISS k-means on all the vectors, from given centroids; on all GPUs or on the CPU."""
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
        gpu=on_gpu,  # True is all of them, and so is 1, which equals it
    )
    kmeans.train(vectors, init_centroids=np.ascontiguousarray(initial))
    return np.array(kmeans.centroids, dtype=np.float32)


def _assign(vectors: np.ndarray, codebook: np.ndarray, prices: np.ndarray | None) -> np.ndarray:
    codes = np.empty(len(vectors), dtype=np.int32)
    for rows in chunks(len(vectors), vectors.shape[1] + len(codebook)):
        codes[rows] = nearest_codes(vectors[rows], codebook, prices)
    return codes


def _mean_squared(vectors: np.ndarray, codebook: np.ndarray | None = None, codes: np.ndarray | None = None) -> float:
    """Mean of the squared norms, in float64, after the codebook is taken off."""
    total, squares = 0.0, np.empty(0)
    for rows in row_chunks(vectors):
        chunk = vectors[rows] if codebook is None or codes is None else vectors[rows] - codebook[codes[rows]]
        if squares.shape != chunk.shape:
            squares = np.empty(chunk.shape)  # once, for all chunks but the last: fresh memory is slow
        total += float(np.square(chunk, dtype=np.float64, out=squares).sum())
    return total / len(vectors)
