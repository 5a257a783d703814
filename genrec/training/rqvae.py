"""The RQ-VAE as a quantiser: fit, encode, decode, state, as every other one has them.

Fits by a plain Lightning Trainer; encodes and decodes with NumPy alone. Must not know configuration or files.
"""
# N vectors, E width, L levels, K codes of a level

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32

from genrec.embeddings.rows import row_chunks
from genrec.errors import ConfigError, DataError, TrainingError
from genrec.quantization import checks
from genrec.quantization.assignment import chunks, nearest_codes
from genrec.quantization.last_level import LastLevelErrors, take_off
from genrec.quantization.residual_kmeans import Progress, ResidualKMeans
from genrec.seeding import fold_in, generator

if TYPE_CHECKING:
    import torch

    from genrec.quantization.rqvae import Assign, RqVae

logger = logging.getLogger(__name__)

_WEIGHTS, _SAMPLE, _KMEANS, _ORDER = 0, 1, 2, 3  # what a seed is for
_POINTS = 256  # latents a code on which k-means begins

Layers = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class RqVaeOptions:
    """How an RQ-VAE is built and trained.

    Attributes:
        codebook_sizes: K_l of each level, each at least 2.
        latent_width: D, width of the codebooks.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        epochs: passes over the vectors.
        batch_size: largest batch; those of an epoch are equal up to one vector.
        learning_rate: of Adam, constant.
        beta: weight of the commitment.
        codebook_update: "gradient", or "ema" (moving averages of what a code gets). On the texts of Office and Beauty
            the latter left a tenth less error and a tenth fewer collisions (one seed).
        ema_decay: their share of the old value, in [0, 1).
        sinkhorn: levels that are assigned uniformly in training: "none", "last" or "all" (LC-Rec). Encoding always
            takes the nearest code.
        sinkhorn_epsilon: softness of that assignment, for distances mapped to [-1, 1].
        sinkhorn_iterations: of its scaling.
        reseed_every: epochs between re-seedings of the codes that no item had in the epoch; 0: never.
        accelerator: a Lightning accelerator, such as "cpu" or "auto".
        seed: in [0, 2^64).

    Raises:
        ConfigError: a value out of range.
    """

    codebook_sizes: Sequence[int] = (256, 256, 256)
    latent_width: int = 32
    hidden: Sequence[int] = (512, 256)
    epochs: int = 200
    batch_size: int = 256
    learning_rate: float = 1e-3
    beta: float = 0.25
    codebook_update: str = "ema"
    ema_decay: float = 0.99
    sinkhorn: str = "none"
    sinkhorn_epsilon: float = 0.003
    sinkhorn_iterations: int = 50
    reseed_every: int = 1
    accelerator: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        fold_in(self.seed)
        whole = ("latent_width", "epochs", "batch_size", "sinkhorn_iterations")
        rules: list[tuple[str, bool, str]] = [
            (
                "codebook_sizes",
                min(self.codebook_sizes, default=0) >= 2,
                "at least one level, of at least 2 codes each",
            ),
            ("hidden", min(self.hidden, default=1) >= 1, "widths of at least 1"),
            *((name, getattr(self, name) >= 1, "at least 1") for name in whole),
            ("learning_rate", 0 < self.learning_rate < np.inf, "a positive number"),
            ("beta", 0 <= self.beta < np.inf, "0 or more"),
            ("codebook_update", self.codebook_update in ("gradient", "ema"), "gradient or ema"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 <= decay < 1"),
            ("sinkhorn", self.sinkhorn in ("none", "last", "all"), "none, last or all"),
            ("sinkhorn_epsilon", 0 < self.sinkhorn_epsilon < np.inf, "a positive number"),
            ("reseed_every", self.reseed_every >= 0, "0 or more"),
        ]
        for name, is_right, expected in rules:
            if not is_right:
                raise ConfigError(f"RQ-VAE: wrong {name}", expected=expected, found=getattr(self, name))


class RqVaeQuantizer:
    """RQ-VAE (docs/methods.md section 1; TIGER, arXiv 2305.05065).

    x = (e - mean) / scale; z = f(x); c_l = argmin_k |r_{l-1} - B_l[k]|^2 in the latent space, as in residual k-means;
    e^ = mean + scale g(B_1[c_1] + ..). Where we deviate: the input is centred and divided by one number, the root mean
    square of its coordinates, so that losses are shares of the variance and the rate need not follow the embeddings'
    scale; and the codebooks begin as residual k-means of the latents of the untrained encoder.

    The order of the batches is a function of (seed, epoch), and nothing else in training is random: the same vectors,
    options and seed give the same weights bit by bit on one CPU. There are no checkpoints: an interrupted training
    begins again. Encoding computes in float64 and knows nothing of the other vectors; it is an argmin, also where
    training assigned uniformly.

    Args:
        options: architecture and training.

    Attributes:
        encoder_, decoder_: (weight [out, in], bias [out]) of each layer, ReLU between.
        codebooks_: L arrays, float32 [K_l, D].
        mean_: float32 [E]; `scale_`: a number.
        mean_squared_residuals_: float64 [L], mean of |r_l|^2 after each level on the fitted set, in the latent space:
            squared norms, not divided by D.
        history_: a record an epoch: epoch, loss and its parts (reconstruction: a share of the variance), collision_rate
            and for each level used, dead, perplexity, reseeded. They describe the assignments that training made, while
            the weights moved. Not part of `state`.
    """

    encoder_: Layers
    decoder_: Layers
    codebooks_: list[np.ndarray]
    mean_: np.ndarray
    scale_: float
    mean_squared_residuals_: np.ndarray
    history_: list[dict[str, Any]]

    def __init__(self, options: RqVaeOptions | None = None) -> None:
        self.options = options or RqVaeOptions()
        self.codebook_sizes = tuple(self.options.codebook_sizes)

    def fit(self, vectors: np.ndarray, progress: Progress | None = None) -> RqVaeQuantizer:
        """Trains encoder, codebooks and decoder.

        Args:
            vectors: float32 [N, E], finite; may be a memory map, from which batches are read.
            progress: called with ("rqvae", epochs done, epochs in all).

        Raises:
            DataError: wrong shape or type, a number that is not finite or too large (with its row), vectors that are
                all (nearly) equal, or fewer different ones than a level has codes.
            TrainingError: the loss is not finite.
        """
        checks.check_shape(vectors)
        checks.check_enough(len(vectors), self.codebook_sizes)
        mean = checks.mean_of_checked(vectors)
        centre = mean.astype(np.float32)
        squares = [np.square(vectors[rows] - centre, dtype=np.float64).sum() for rows in row_chunks(vectors)]
        variance = float(sum(squares)) / len(vectors)
        checks.check_spread(variance, mean)
        self._train(vectors, centre, float(np.sqrt(variance / vectors.shape[1])), progress)
        self.mean_squared_residuals_ = self._errors(vectors)
        return self

    def encode(self, vectors: np.ndarray, progress: Progress | None = None) -> Int32[np.ndarray, "N L"]:
        """The codes of each vector, which do not depend on the other vectors.

        Args:
            vectors: float32 [N, E], finite; may be a memory map, and is read in chunks.
            progress: called with ("encode", vectors done, N).

        Raises:
            DataError: another width or type than at `fit`, or a number that is not finite or too large (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        checks.check_shape(vectors, width=len(self.mean_))
        codes = np.empty((len(vectors), len(self.codebooks_)), dtype=np.int32)
        for rows, residuals in self._residuals(vectors):
            for level, codebook in enumerate(self.codebooks_):
                codes[rows, level] = nearest_codes(residuals, codebook)
                residuals -= codebook[codes[rows, level]]
            if progress is not None:
                progress("encode", rows.stop, len(vectors))
        return codes

    def decode(self, codes: np.ndarray) -> Float32[np.ndarray, "N E"]:
        """mean + scale g(B_1[c_1] + .. + B_l[c_l]).

        The first l of the L codes give what the decoder makes of the partial sum. It was trained on whole sums only, so
        unlike in residual k-means the error need not fall from level to level.

        Args:
            codes: integers [N, l], 1 <= l <= L.

        Raises:
            DataError: wrong shape or type, or a code outside its level (with its row).
            ConfigError: not fitted.
        """
        self._check_fitted()
        checks.check_decodable(codes, [len(codebook) for codebook in self.codebooks_])
        vectors = np.empty((len(codes), len(self.mean_)), dtype=np.float32)
        for rows in chunks(len(codes), 4 * max(len(bias) for _, bias in self.decoder_)):
            latents = np.zeros((rows.stop - rows.start, self.codebooks_[0].shape[1]))
            for column, codebook in zip(codes[rows].T, self.codebooks_, strict=False):
                latents += codebook[column]
            vectors[rows] = self.mean_ + self.scale_ * _forward(latents, self.decoder_)
        return vectors

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `encode` and `decode` need, as arrays (for safetensors).

        Keys: `mean` [E], `scale` [1], `mean_squared_residuals` [L], `codebook.0` .., `encoder.0.weight`,
        `encoder.0.bias` .., `decoder.0.weight` ..

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        networks = {"encoder": self.encoder_, "decoder": self.decoder_}
        return {
            "mean": self.mean_,
            "scale": np.array([self.scale_]),
            "mean_squared_residuals": self.mean_squared_residuals_,
            **{f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)},
            **{
                f"{name}.{at}.{part}": array
                for name, layers in networks.items()
                for at, layer in enumerate(layers)
                for part, array in zip(("weight", "bias"), layer, strict=True)
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> RqVaeQuantizer:
        """A fitted quantiser from `state`; the options of training, except those of the shape, have their defaults.

        Raises:
            DataError: a key is missing or unknown, or an array has a wrong shape or type or is not finite.
        """
        num_levels = sum(key.startswith("codebook.") for key in state)
        num_layers = sum(key.startswith("encoder.") for key in state) // 2
        networks = [f"{name}.{at}" for name in ("encoder", "decoder") for at in range(num_layers)]
        books = [f"codebook.{level}" for level in range(num_levels)]
        keys = ["mean", "scale", "mean_squared_residuals", *books]
        keys += [f"{name}.{part}" for name in networks for part in ("weight", "bias")]
        if not num_levels or not num_layers or sorted(keys) != sorted(state):
            raise DataError("not the state of an RQ-VAE", expected=", ".join(keys), found=", ".join(state))
        widths = [state["mean"].size, *(state[f"encoder.{at}.bias"].size for at in range(num_layers))]
        there = list(pairwise(widths))
        back = [(before, after) for after, before in reversed(there)]
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (widths[0],),
            "scale": (1,),
            "mean_squared_residuals": (num_levels,),
        }
        shapes |= {name: (*state[name].shape[:1], widths[-1]) for name in books}
        for name, (before, after) in zip(networks, there + back, strict=True):
            shapes |= {f"{name}.weight": (after, before), f"{name}.bias": (after,)}
        for key, shape in shapes.items():
            is_double = key in ("scale", "mean_squared_residuals")
            checks.check_state("RQ-VAE", key, state[key], shape, np.float64 if is_double else np.float32)
        layers = [(np.array(state[f"{name}.weight"]), np.array(state[f"{name}.bias"])) for name in networks]
        sizes = tuple(len(state[name]) for name in books)
        quantiser = cls(RqVaeOptions(codebook_sizes=sizes, latent_width=widths[-1], hidden=tuple(widths[1:-1])))
        quantiser.encoder_, quantiser.decoder_ = layers[:num_layers], layers[num_layers:]
        quantiser.codebooks_ = [np.array(state[name]) for name in books]
        quantiser.mean_, quantiser.scale_ = np.array(state["mean"]), float(state["scale"][0])
        quantiser.mean_squared_residuals_ = np.array(state["mean_squared_residuals"])
        return quantiser

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_squared_residuals_"):
            raise ConfigError("the RQ-VAE is not fitted", fix="call fit or from_state first")

    def _residuals(self, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Chunks of rows and their latents, checked."""
        widest = max(len(bias) for _, bias in self.encoder_)
        for rows in chunks(len(vectors), 4 * (len(self.mean_) + widest) + max(map(len, self.codebooks_))):
            checks.check_values(vectors[rows], rows.start)
            # float64, so that how a library sums a batch is far below what decides between two codes
            inputs = (vectors[rows].astype(np.float64) - self.mean_) / self.scale_
            latents = _forward(inputs, self.encoder_).astype(np.float32)
            checks.check_values(latents, rows.start)
            yield rows, latents

    def _errors(self, vectors: np.ndarray) -> np.ndarray:
        """Mean of |r_l|^2 after each level."""
        totals = np.zeros(len(self.codebooks_))
        for _, residuals in self._residuals(vectors):
            for level, codebook in enumerate(self.codebooks_):
                residuals -= codebook[nearest_codes(residuals, codebook)]
                totals[level] += float(np.square(residuals, dtype=np.float64).sum())
        return totals / len(vectors)

    def _train(self, vectors: np.ndarray, mean: np.ndarray, scale: float, progress: Progress | None) -> None:
        import lightning.pytorch as pl  # seconds, not for those who only encode
        import torch

        from genrec.quantization.rqvae import RqVae
        from genrec.training.tokenizer_task import TokenizerTask

        options = self.options
        model = RqVae(
            width=len(mean),
            latent_width=options.latent_width,
            hidden=options.hidden,
            codebook_sizes=self.codebook_sizes,
            learn_codebooks=options.codebook_update == "gradient",
            generator=torch.Generator().manual_seed(fold_in(options.seed, _WEIGHTS)),
        )
        stream = _Stream(vectors, mean, scale, options=options)
        self._initialise(model, stream)
        task = TokenizerTask(
            model,
            num_items=len(vectors),
            beta=options.beta,
            learning_rate=options.learning_rate,
            assign=_assignments(options),
            ema_decay=options.ema_decay if options.codebook_update == "ema" else None,
            reseed_every=options.reseed_every,
            on_epoch=lambda done: None if progress is None else progress("rqvae", done, options.epochs),
        )
        stream.epoch = lambda: task.current_epoch
        trainer = pl.Trainer(
            max_epochs=options.epochs,
            accelerator=options.accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(task, stream)
        except SystemExit as error:  # what Lightning makes of an interrupt
            raise KeyboardInterrupt from error
        logger.info("rqvae: %s", task.history[-1])
        self.mean_, self.scale_, self.history_ = mean, scale, task.history
        self.encoder_, self.decoder_ = _layers(model.encoder), _layers(model.decoder)
        self.codebooks_ = [codebook.detach().cpu().numpy().copy() for codebook in model.codebooks]
        if not all(parameter.isfinite().all() for parameter in model.parameters()):  # no loss after the last step
            what = "the weights of the RQ-VAE are not finite after the last step"
            raise TrainingError(what, fix="lower tokenizer.learning_rate, or rescale the embeddings")

    def _initialise(self, model: RqVae, stream: _Stream) -> None:
        """Codebooks: residual k-means on the latents that the untrained encoder gives a sample of the vectors."""
        size = min(len(stream.vectors), _POINTS * max(self.codebook_sizes))
        rows = generator(self.options.seed, _SAMPLE).choice(len(stream.vectors), size, replace=False, shuffle=False)
        encoder = _layers(model.encoder)
        latents = [_forward(stream.gather(part), encoder) for part in np.array_split(np.sort(rows), -(-size // 8192))]
        kmeans = ResidualKMeans(
            codebook_sizes=self.codebook_sizes,
            max_points_per_centroid=_POINTS,
            centre=False,
            seed=fold_in(self.options.seed, _KMEANS),
            device="cpu",
        )
        model.initialise(kmeans.fit(np.concatenate(latents).astype(np.float32)).codebooks_)

    def last_level_errors(self, vectors: np.ndarray, codes: np.ndarray) -> LastLevelErrors:
        """Squared errors of the latents of vectors [N, E] with codes [N, L] at other last codes.

        In the latent space, where codes are chosen; what the decoder makes of a move is not known from it.

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()

        def rest(vectors: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            latents = np.concatenate([latents for _, latents in self._residuals(vectors)])
            return take_off(latents, self.codebooks_[:-1], codes)

        return LastLevelErrors(vectors, codes, rest, self.codebooks_[-1], float(self.mean_squared_residuals_[-1]))


class _Stream:
    """The batches of the present epoch, in an order that is a function of (seed, epoch)."""

    epoch: Callable[[], int]

    def __init__(self, vectors: np.ndarray, mean: np.ndarray, scale: float, *, options: RqVaeOptions) -> None:
        self.vectors, self.mean, self.scale, self.options = vectors, mean, scale, options

    def __len__(self) -> int:
        return -(-len(self.vectors) // self.options.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        import torch

        order = generator(self.options.seed, _ORDER, self.epoch()).permutation(len(self.vectors))
        for rows in np.array_split(order, len(self)):  # equal batches: uniform assignment means little in a tiny one
            yield {"vectors": torch.from_numpy(self.gather(rows)), "rows": torch.from_numpy(rows)}

    def gather(self, rows: np.ndarray) -> Float32[np.ndarray, "B E"]:
        return (self.vectors[rows] - self.mean) / np.float32(self.scale)


def _assignments(options: RqVaeOptions) -> list[Assign]:
    from genrec.quantization.rqvae import balanced, nearest

    uniform = partial(balanced, epsilon=options.sinkhorn_epsilon, iterations=options.sinkhorn_iterations)
    last = len(options.codebook_sizes) - 1
    return [
        uniform if options.sinkhorn == "all" or (options.sinkhorn == "last" and level == last) else nearest
        for level in range(last + 1)
    ]


def _layers(network: torch.nn.Sequential) -> Layers:
    """Weight and bias of the linear layers."""
    arrays = [parameter.detach().cpu().numpy().copy() for parameter in network.parameters()]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _forward(inputs: np.ndarray, layers: Layers) -> np.ndarray:
    """The network in float64."""
    hidden = inputs.astype(np.float64)
    for at, (weight, bias) in enumerate(layers):
        hidden = hidden @ weight.T.astype(np.float64) + bias
        if at < len(layers) - 1:
            np.maximum(hidden, 0.0, out=hidden)
    return hidden
