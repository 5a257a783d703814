"""The RQ-VAE as a quantiser: fit, encode, decode, state, as every other one has them.

Fits by a plain Lightning Trainer; encodes and decodes with NumPy alone. Must not know configuration or files.
"""
# N vectors, E width, L levels, K codes of a level

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32

from genrec.embeddings.rows import row_chunks
from genrec.errors import ConfigError, DataError, TrainingError
from genrec.quantization import checks
from genrec.quantization.assignment import chunks, nearest_codes
from genrec.quantization.directional import codes_by_direction, first_codebooks
from genrec.quantization.last_level import LastLevelErrors, take_off
from genrec.quantization.residual_kmeans import Progress, ResidualKMeans
from genrec.seeding import fold_in, generator
from genrec.training.rqvae_options import DISTANCES, RqVaeOptions

if TYPE_CHECKING:
    import torch

    from genrec.quantization.letter import Letter
    from genrec.quantization.rqvae import Assign, RqVae

logger = logging.getLogger(__name__)

_WEIGHTS, _SAMPLE, _KMEANS, _ORDER, _ALIGNMENT, _DIVERSITY = range(6)  # what a seed is for
_POINTS = 256  # latents a code on which k-means begins
_TYPES = {"distance": np.int64, "scale": np.float64, "mean_squared_residuals": np.float64}  # of a state; else float32

Layers = list[tuple[np.ndarray, np.ndarray]]


class RqVaeQuantizer:
    """RQ-VAE (docs/methods.md section 1; TIGER, arXiv 2305.05065).

    x = (e - mean) / scale; z = f(x); c_l = argmin_k |r_{l-1} - B_l[k]|^2 in the latent space, as in residual k-means
    (or the argmin for directions, with `distance="cosine"`; everything else is the same);
    e^ = mean + scale g(B_1[c_1] + ..). Where we deviate: the input is centred and divided by one number, the root mean
    square of its coordinates, so that losses are shares of the variance and the rate need not follow the embeddings'
    scale; encoder and decoder first train alone, and the codebooks begin as residual k-means of the latents they then
    have; and the learning rate rises and falls (`tokenizer_task.rate`).

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
            and for each level used, dead, perplexity, reseeded; before the codebooks begin, epoch, loss and
            reconstruction alone. They describe the assignments that training made, while the weights moved. Not part of
            `state`.
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

    def fit(
        self, vectors: np.ndarray, progress: Progress | None = None, collaborative: np.ndarray | None = None
    ) -> RqVaeQuantizer:
        """Trains encoder, codebooks and decoder.

        Args:
            vectors: float32 [N, E], finite; may be a memory map, from which batches are read.
            progress: called with ("rqvae", epochs done, epochs in all).
            collaborative: float32 [N, C] of the same items, for LETTER's alignment; rows of zeros are left out of it.
                None: no alignment.

        Raises:
            ConfigError: collaborative vectors for an alignment of weight 0.
            DataError: wrong shape or type, a number that is not finite or too large (with its row), vectors that are
                all (nearly) equal, or fewer different ones than a level has codes.
            TrainingError: the loss is not finite.
        """
        checks.check_shape(vectors)
        checks.check_enough(len(vectors), self.codebook_sizes)
        if collaborative is not None:
            _check_collaborative(collaborative, len(vectors), self.options.alignment_weight)
        mean = checks.mean_of_checked(vectors)
        centre = mean.astype(np.float32)
        squares = [np.square(vectors[rows] - centre, dtype=np.float64).sum() for rows in row_chunks(vectors)]
        variance = float(sum(squares)) / len(vectors)
        checks.check_spread(variance, mean)
        different = checks.distinct_rows(vectors, np.arange(len(vectors)), self.codebook_sizes[0])
        if len(different) < self.codebook_sizes[0]:  # k-means would say so too, but after the first epochs
            raise checks.too_few(0, self.codebook_sizes, f"{len(different)} different vectors")
        stream = _Stream(vectors, centre, float(np.sqrt(variance / vectors.shape[1])), collaborative, self.options)
        self._train(stream, progress)
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
                codes[rows, level] = self._choose(residuals, codebook)
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

        Keys: `distance` [1] (0: l2, 1: cosine), `mean` [E], `scale` [1], `mean_squared_residuals` [L], `codebook.0` ..,
        `encoder.0.weight`, `encoder.0.bias` .., `decoder.0.weight` ..

        Raises:
            ConfigError: not fitted.
        """
        self._check_fitted()
        networks = {"encoder": self.encoder_, "decoder": self.decoder_}
        return {
            "distance": np.array([DISTANCES.index(self.options.distance)], dtype=np.int64),
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
        keys = ["distance", "mean", "scale", "mean_squared_residuals", *books]
        keys += [f"{name}.{part}" for name in networks for part in ("weight", "bias")]
        if not num_levels or not num_layers or sorted(keys) != sorted(state):
            raise DataError("not the state of an RQ-VAE", expected=", ".join(keys), found=", ".join(state))
        widths = [state["mean"].size, *(state[f"encoder.{at}.bias"].size for at in range(num_layers))]
        there = list(pairwise(widths))
        back = [(before, after) for after, before in reversed(there)]
        shapes: dict[str, tuple[int, ...]] = {
            "distance": (1,),
            "mean": (widths[0],),
            "scale": (1,),
            "mean_squared_residuals": (num_levels,),
        }
        shapes |= {name: (*state[name].shape[:1], widths[-1]) for name in books}
        for name, (before, after) in zip(networks, there + back, strict=True):
            shapes |= {f"{name}.weight": (after, before), f"{name}.bias": (after,)}
        for key, shape in shapes.items():
            checks.check_state("RQ-VAE", key, state[key], shape, _TYPES.get(key, np.float32))
        distance = int(state["distance"][0])
        if distance not in range(len(DISTANCES)):
            raise DataError("array 'distance' of the RQ-VAE is damaged", expected="0 or 1", found=distance)
        layers = [(np.array(state[f"{name}.weight"]), np.array(state[f"{name}.bias"])) for name in networks]
        sizes = tuple(len(state[name]) for name in books)
        options = RqVaeOptions(
            codebook_sizes=sizes,
            latent_width=widths[-1],
            hidden=tuple(widths[1:-1]),
            distance=DISTANCES[distance],
        )
        quantiser = cls(options)
        quantiser.encoder_, quantiser.decoder_ = layers[:num_layers], layers[num_layers:]
        quantiser.codebooks_ = [np.array(state[name]) for name in books]
        quantiser.mean_, quantiser.scale_ = np.array(state["mean"]), float(state["scale"][0])
        quantiser.mean_squared_residuals_ = np.array(state["mean_squared_residuals"])
        return quantiser

    def _check_fitted(self) -> None:
        if not hasattr(self, "mean_squared_residuals_"):
            raise ConfigError("the RQ-VAE is not fitted", fix="call fit or from_state first")

    @property
    def _by_direction(self) -> bool:
        return self.options.distance == "cosine"

    def _choose(self, residuals: np.ndarray, codebook: np.ndarray) -> np.ndarray:
        return (codes_by_direction if self._by_direction else nearest_codes)(residuals, codebook)

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
                residuals -= codebook[self._choose(residuals, codebook)]
                totals[level] += float(np.square(residuals, dtype=np.float64).sum())
        return totals / len(vectors)

    def _train(self, stream: _Stream, progress: Progress | None) -> None:
        import lightning.pytorch as pl  # seconds, not for those who only encode
        import torch
        from lightning.pytorch.callbacks import LambdaCallback

        from genrec.quantization.rqvae import RqVae
        from genrec.training.tokenizer_task import TokenizerTask

        options = self.options
        model = RqVae(
            width=len(stream.mean),
            latent_width=options.latent_width,
            hidden=options.hidden,
            codebook_sizes=self.codebook_sizes,
            learn_codebooks=options.codebook_update == "gradient",
            by_direction=self._by_direction,
            generator=torch.Generator().manual_seed(fold_in(options.seed, _WEIGHTS)),
        )
        task = TokenizerTask(
            model,
            num_items=len(stream.vectors),
            beta=options.beta,
            learning_rate=options.learning_rate,
            assign=_assignments(options),
            ema_decay=options.ema_decay if options.codebook_update == "ema" else None,
            reseed_every=options.reseed_every,
            letter=_letter(options, stream.collaborative),
        )
        stream.epoch = lambda: task.current_epoch
        start = LambdaCallback(
            on_train_epoch_start=lambda trainer, _: (
                task.start(self._first_codebooks(model, stream))
                if trainer.current_epoch == options.pretrain_epochs
                else None
            )
        )
        told = LambdaCallback(
            on_train_epoch_end=lambda trainer, _: progress and progress("rqvae", len(task.history) + 1, options.epochs)
        )
        lightning = logging.getLogger("lightning.pytorch")
        level = lightning.level
        lightning.setLevel(logging.WARNING)  # its news are of devices and of how to scale, not of codes
        trainer = pl.Trainer(
            max_epochs=options.epochs,
            accelerator=options.accelerator,
            devices=1,
            callbacks=[start, told],
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
        finally:
            lightning.setLevel(level)
        logger.info("rqvae: %s", task.history[-1])
        self.mean_, self.scale_, self.history_ = stream.mean, stream.scale, task.history
        self.encoder_, self.decoder_ = _layers(model.encoder), _layers(model.decoder)
        self.codebooks_ = [codebook.detach().cpu().numpy().copy() for codebook in model.codebooks]
        if not all(parameter.isfinite().all() for parameter in model.parameters()):  # no loss after the last step
            what = "the weights of the RQ-VAE are not finite after the last step"
            raise TrainingError(what, fix="lower tokenizer.learning_rate, or rescale the embeddings")

    def _first_codebooks(self, model: RqVae, stream: _Stream) -> list[np.ndarray]:
        """Residual k-means on the latents that the encoder gives a sample of the vectors."""
        size = min(len(stream.vectors), _POINTS * max(self.codebook_sizes))
        rows = generator(self.options.seed, _SAMPLE).choice(len(stream.vectors), size, replace=False, shuffle=False)
        encoder, seed = _layers(model.encoder), fold_in(self.options.seed, _KMEANS)
        parts = [_forward(stream.gather(part), encoder) for part in np.array_split(np.sort(rows), -(-size // 8192))]
        latents = np.concatenate(parts).astype(np.float32)
        if self._by_direction:
            return first_codebooks(latents, self.codebook_sizes, max_points_per_centroid=_POINTS, seed=seed)
        kmeans = ResidualKMeans(
            codebook_sizes=self.codebook_sizes, max_points_per_centroid=_POINTS, centre=False, seed=seed, device="cpu"
        )
        return kmeans.fit(latents).codebooks_

    def last_level_errors(self, vectors: np.ndarray, codes: np.ndarray) -> LastLevelErrors:
        """Squared errors of the latents of vectors [N, E] with codes [N, L] at other last codes.

        In the latent space, where codes are chosen; what the decoder makes of a move is not known from it. Codes that
        were chosen by direction need not have the smallest error, so a move may gain.

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

    def __init__(
        self,
        vectors: np.ndarray,
        mean: np.ndarray,
        scale: float,
        collaborative: np.ndarray | None,
        options: RqVaeOptions,
    ) -> None:
        self.vectors, self.mean, self.scale = vectors, mean, scale
        self.collaborative, self.options = collaborative, options

    def __len__(self) -> int:
        return -(-len(self.vectors) // self.options.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        import torch

        order = generator(self.options.seed, _ORDER, self.epoch()).permutation(len(self.vectors))
        for rows in np.array_split(order, len(self)):  # equal batches: uniform assignment means little in a tiny one
            batch = {"vectors": torch.from_numpy(self.gather(rows)), "rows": torch.from_numpy(rows)}
            if self.collaborative is not None:
                batch["collaborative"] = torch.from_numpy(self.collaborative[rows])
            yield batch

    def gather(self, rows: np.ndarray) -> Float32[np.ndarray, "B E"]:
        return (self.vectors[rows] - self.mean) / np.float32(self.scale)


def _check_collaborative(vectors: np.ndarray, num_items: int, weight: float) -> None:
    if not weight:
        fix = "set tokenizer.alignment_weight=0.02, or tokenizer.collaborative=null"
        raise ConfigError(
            "collaborative vectors for an alignment of weight 0",
            where="tokenizer.alignment_weight",
            expected="a positive number",
            found=weight,
            fix=fix,
        )
    checks.check_shape(vectors)
    if len(vectors) != num_items:
        raise DataError("collaborative vectors of other items", expected=f"{num_items} rows", found=len(vectors))
    for rows in row_chunks(vectors):
        checks.check_values(vectors[rows], rows.start)


def _letter(options: RqVaeOptions, collaborative: np.ndarray | None) -> Letter | None:
    import torch

    from genrec.quantization.letter import Alignment, Diversity, Letter

    alignment = diversity = None
    if collaborative is not None:
        alignment = Alignment(
            latent_width=options.latent_width,
            width=collaborative.shape[1],
            weight=options.alignment_weight,
            generator=torch.Generator().manual_seed(fold_in(options.seed, _ALIGNMENT)),
        )
    if options.diversity_weight:
        diversity = Diversity(weight=options.diversity_weight, seed=fold_in(options.seed, _DIVERSITY))
    return Letter(alignment, diversity) if alignment or diversity else None


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
