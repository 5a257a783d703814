"""RQ-VAE: an encoder, residual codebooks in its latent space and a decoder, and the functions that train them.

Pure functions over tensors and one torch module; must not know Lightning, configuration, artifacts, or what becomes of
items that share their codes.
"""
# B batch, E width of the vectors, D width of the latents, L levels, K codes of a level

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

_SMALLEST_EPSILON = 2 / 690  # exp(-2 / epsilon) is a normal number in float64, with room for the scaling of rows

Assign = Callable[[Float[Tensor, "B K"]], Int64[Tensor, " B"]]


@dataclass(frozen=True, eq=False)
class Quantised:
    """What residual quantisation made of a batch of latents.

    Attributes:
        codes: c_1 .. c_L.
        residuals: r_0 .. r_{L-1}, what each level had to quantise; all with the gradient of the latents.
        chosen: q_1 .. q_L, the codebook rows of the codes, with the gradient of the codebooks.
    """

    codes: Int64[Tensor, "B L"]
    residuals: tuple[Float[Tensor, "B D"], ...]
    chosen: tuple[Float[Tensor, "B D"], ...]

    @property
    def total(self) -> Float[Tensor, "B D"]:
        """q_1 + .. + q_L."""
        return torch.stack(self.chosen).sum(dim=0)


def squared_distances(residuals: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"]) -> Float[Tensor, "B K"]:
    """|r - b|^2 as |r|^2 - 2 <r, b> + |b|^2: one product, and a rounding error that training does not mind."""
    lengths = residuals.square().sum(dim=1, keepdim=True)
    return torch.addmm(lengths + codebook.square().sum(dim=1), residuals, codebook.T, alpha=-2)


def directions(vectors: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """Each row divided by its length; rows of zeros stay as they are.

    >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    lengths = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(lengths > 0, lengths, 1.0)


def direction_distances(residuals: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"]) -> Float[Tensor, "B K"]:
    """|r / |r| - b / |b||^2 = 2 - 2 cos(r, b), the direction of zero being zero; 0 for all codes where r is zero."""
    distances = squared_distances(directions(residuals), directions(codebook))
    return distances * (residuals != 0).any(dim=1, keepdim=True)


def nearest(distances: Float[Tensor, "B K"]) -> Int64[Tensor, " B"]:
    """The code of the smallest distance.

    >>> nearest(torch.tensor([[3.0, 1.0], [0.0, 2.0]])).tolist()
    [1, 0]
    """
    return distances.argmin(dim=1)


def sinkhorn(distances: Float[Tensor, "B K"], *, epsilon: float = 0.003, iterations: int = 50) -> Float[Tensor, "B K"]:
    """A soft assignment by distance that uses all codes alike (LC-Rec, arXiv 2311.09049, uniform semantic mapping).

    exp(-d / epsilon), its rows and columns scaled in turns; columns sum to B / K exactly, rows to 1 in the limit. As in
    LC-Rec's code, the distances of the batch are first mapped to [-1, 1], so that epsilon has a meaning.

    Args:
        distances: any real numbers.
        epsilon: the smaller, the harder the assignment and the more iterations it takes; below 0.003 (and on devices
            without float64) a logarithmic form is used, which cannot underflow and takes far longer.
        iterations: at least 1.
    """
    low, high = distances.min(), distances.max()
    scores = -(distances - (high + low) / 2) / ((high - low) / 2 + 1e-5) / epsilon
    scores = scores - scores.amax(dim=1, keepdim=True)  # rows are scaled first anyway
    num_rows, num_codes = distances.shape
    if epsilon < _SMALLEST_EPSILON or distances.device.type == "mps":
        for _ in range(iterations):
            scores = scores - scores.logsumexp(dim=1, keepdim=True)
            scores = scores - scores.logsumexp(dim=0, keepdim=True) + math.log(num_rows / num_codes)
        return scores.exp()
    plan = scores.double().exp()
    for _ in range(iterations):
        plan /= plan.sum(dim=1, keepdim=True)
        plan *= num_rows / num_codes / plan.sum(dim=0, keepdim=True)
    return plan.to(distances.dtype)


def balanced(distances: Float[Tensor, "B K"], *, epsilon: float = 0.003, iterations: int = 50) -> Int64[Tensor, " B"]:
    """The code that the Sinkhorn assignment gives most weight."""
    return sinkhorn(distances, epsilon=epsilon, iterations=iterations).argmax(dim=1)


def quantise(
    latents: Float[Tensor, "B D"],
    codebooks: Sequence[Float[Tensor, "_ D"]],
    assign: Sequence[Assign] | None = None,
    *,
    by_direction: bool = False,
) -> Quantised:
    """r_0 = z; q_l = B_l[c_l], r_l = r_{l-1} - sg[q_l] (docs/methods.md section 1).

    Args:
        latents: z.
        codebooks: B_1 .. B_L.
        assign: how each level chooses among its codes; None: the nearest.
        by_direction: choose by `direction_distances`; q stays the row as it is (see `quantization.directional`).
    """
    residual, codes, residuals, chosen = latents, [], [], []
    for level, codebook in enumerate(codebooks):
        with torch.no_grad():
            distances = (direction_distances if by_direction else squared_distances)(residual, codebook)
            codes.append((nearest if assign is None else assign[level])(distances))
        residuals.append(residual)
        chosen.append(F.embedding(codes[-1], codebook))  # its backward adds in a fixed order, that of indexing need not
        residual = residual - chosen[-1].detach()
    return Quantised(torch.stack(codes, dim=1), tuple(residuals), tuple(chosen))


def straight_through(latents: Float[Tensor, "B D"], quantised: Quantised) -> Float[Tensor, "B D"]:
    """z + sg[q_1 + .. + q_L - z]: the value is the codes', the gradient goes to the encoder as it is."""
    return latents + (quantised.total - latents).detach()


def loss_parts(
    vectors: Float[Tensor, "B E"], decoded: Float[Tensor, "B E"], quantised: Quantised, *, beta: float
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss, squared norms averaged over the batch and the width; the loss is their sum.

    Args:
        vectors: e.
        decoded: e^.
        quantised: of the latents of e.
        beta: weight of the commitment.

    Returns:
        reconstruction |e - e^|^2; codebook sum_l |sg[r_{l-1}] - q_l|^2, to be left out where the codebooks are moving
        averages; commitment beta sum_l |r_{l-1} - sg[q_l]|^2.
    """
    pairs = list(zip(quantised.residuals, quantised.chosen, strict=True))
    return {
        "reconstruction": F.mse_loss(decoded, vectors),
        "codebook": torch.stack([F.mse_loss(chosen, residual.detach()) for residual, chosen in pairs]).sum(),
        "commitment": beta * torch.stack([F.mse_loss(residual, chosen.detach()) for residual, chosen in pairs]).sum(),
    }


def ema_update(
    codebook: Float[Tensor, "K D"],
    counts: Float[Tensor, " K"],
    sums: Float[Tensor, "K D"],
    *,
    residuals: Float[Tensor, "B D"],
    codes: Int64[Tensor, " B"],
    decay: float,
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"], Float[Tensor, "K D"]]:
    """Codebook, counts and sums after a batch: N <- g N + (1 - g) n, m <- g m + (1 - g) sum r, B = m / N.

    A code that no row of the batch has keeps its vector: its N and m shrink alike. (No Laplace smoothing, which would
    draw rare codes to zero; codes that die are re-seeded.)
    """
    one_hot = F.one_hot(codes, len(codebook)).to(residuals.dtype)  # a product adds in a fixed order on every device
    batch_counts = one_hot.sum(dim=0)
    counts = decay * counts + (1 - decay) * batch_counts
    sums = decay * sums + (1 - decay) * (one_hot.T @ residuals)
    is_used = (batch_counts > 0).unsqueeze(1)
    return torch.where(is_used, sums / counts.clamp(min=1e-30).unsqueeze(1), codebook), counts, sums


def reseed(
    codebook: Float[Tensor, "K D"],
    is_dead: Bool[Tensor, " K"],
    residuals: Float[Tensor, "B D"],
    *,
    by_direction: bool = False,
) -> tuple[Float[Tensor, "K D"], Int64[Tensor, " k"]]:
    """Puts dead codes on the residuals that are farthest from the codes that live.

    Args:
        codebook: B_l.
        is_dead: codes to replace.
        residuals: r_{l-1} of a batch.
        by_direction: how far and how different they are is measured between directions.

    Returns:
        The new codebook, and the codes that were replaced: all dead ones, or the first of them if the batch has fewer
        different residuals that are no living code.

    >>> new, codes = reseed(torch.zeros(3, 1), torch.tensor([False, True, True]), torch.tensor([[1.0], [5.0], [5.0]]))
    >>> new.flatten().tolist(), codes.tolist()
    ([0.0, 5.0, 1.0], [1, 2])
    """
    dead = is_dead.nonzero().squeeze(1)
    alive, points = codebook[~is_dead], residuals
    if by_direction:
        alive, points = directions(alive), directions(points)
    # Differences, not the expanded square: whether a residual is a living code has to be exact.
    errors = torch.cdist(points, alive, compute_mode="donot_use_mm_for_euclid_dist") if len(alive) else points
    error = errors.amin(dim=1) if len(alive) else errors.norm(dim=1)
    if by_direction:
        error = error * (points != 0).any(dim=1)  # zero has no direction to give
    order = error.argsort(descending=True, stable=True)
    order = order[error[order] > 0]
    first = np.unique(points[order].cpu().numpy(), axis=0, return_index=True)[1]
    rows = order[torch.from_numpy(np.sort(first)).to(order.device)][: len(dead)]
    replaced = dead[: len(rows)]
    codebook = codebook.clone()
    codebook[replaced] = residuals[rows]
    return codebook, replaced


class RqVae(nn.Module):
    """Encoder, codebooks and decoder.

    Both networks are linear layers with ReLU between. The codebooks are zeros until `initialise`, an explicit step;
    `is_initialised` is part of the state dict, as the codebooks are.

    Args:
        width: E.
        latent_width: D.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        codebook_sizes: K_l of each level.
        learn_codebooks: by gradient; otherwise they are set from outside.
        by_direction: codes are chosen by direction (`quantise`).
        generator: of the first weights (He's normal initialisation; biases are zero).
    """

    is_initialised: Tensor

    def __init__(
        self,
        *,
        width: int,
        latent_width: int,
        hidden: Sequence[int],
        codebook_sizes: Sequence[int],
        learn_codebooks: bool,
        generator: torch.Generator,
        by_direction: bool = False,
    ) -> None:
        super().__init__()
        self.by_direction = by_direction
        self.encoder = _mlp((width, *hidden, latent_width), generator)
        self.decoder = _mlp((latent_width, *reversed(hidden), width), generator)
        self.codebooks = nn.ParameterList(
            nn.Parameter(torch.zeros(size, latent_width), requires_grad=learn_codebooks) for size in codebook_sizes
        )
        self.register_buffer("is_initialised", torch.tensor(False))

    def initialise(self, codebooks: Sequence[Float32[np.ndarray, "_ D"]]) -> None:
        """Sets the codebooks, found by residual k-means on the first latents."""
        with torch.no_grad():
            for parameter, codebook in zip(self.codebooks, codebooks, strict=True):
                parameter.copy_(torch.from_numpy(codebook))
            self.is_initialised.fill_(True)

    def forward(
        self, vectors: Float[Tensor, "B E"], assign: Sequence[Assign] | None = None
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B D"], Quantised]:
        """e^ = g(z^); z^ = z + sg[sum_l q_l - z] with z = f(e); and the codes on the way."""
        assert self.is_initialised, "initialise comes first"
        latents = self.encoder(vectors)
        quantised = self.quantise(latents, assign=assign)
        through = straight_through(latents, quantised)
        return self.decoder(through), through, quantised

    def quantise(
        self, latents: Float[Tensor, "B D"], *, levels: int | None = None, assign: Sequence[Assign] | None = None
    ) -> Quantised:
        """`quantise` by the first codebooks; None: by all."""
        return quantise(latents, list(self.codebooks)[:levels], assign, by_direction=self.by_direction)


def _mlp(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(pairwise(widths)):
        is_last = at == len(widths) - 2
        spread = math.sqrt((1 if is_last else 2) / before)
        linear = nn.Linear(before, after, device="meta").to_empty(device="cpu")  # no draw from the global generator
        with torch.no_grad():
            linear.weight.normal_(0.0, spread, generator=generator)
            linear.bias.zero_()
        layers += [linear] if is_last else [linear, nn.ReLU()]
    return nn.Sequential(*layers)
