"""The two terms that LETTER (arXiv 2405.07314) adds to the loss of an RQ-VAE: alignment and diversity.

Pure functions over tensors, and the two small modules that hold what the terms need from step to step; must not know
Lightning, configuration or artifacts. Neither term has a part in encoding or decoding.
"""
# B batch, L levels, K codes of a level, D width of the latents, C width of the collaborative vectors

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.seeding import fold_in

_CLUSTERS = 10  # of the codes of a level, as in LETTER; fewer where these would have less than two codes each


def alignment_loss(quantised: Float[Tensor, "B C"], collaborative: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """-1/n sum_i log(exp <q_i, h_i> / sum_j exp <q_i, h_j>) over the n items of the batch whose h is not zero.

    LETTER's collaborative regularisation: inner products, no temperature. Items without a collaborative vector are
    neither anchors nor negatives; 0 if there are no others.

    Args:
        quantised: z^ = q_1 + .. + q_L of each item, mapped to the width of h.
        collaborative: h; rows of zeros are items nobody is known to have bought.
    """
    known = (collaborative != 0).any(dim=1)
    logits = quantised[known] @ collaborative[known].T
    if not len(logits):
        return quantised.sum() * 0.0
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def partners(
    codes: Int64[Tensor, " B"], clusters: Int64[Tensor, " K"], draws: Float[Tensor, "B K"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """For each code another one of its cluster, the one of the largest draw.

    Args:
        codes: c of each item.
        clusters: of every code of the level.
        draws: uniform numbers in [0, 1).

    Returns:
        The rows whose cluster has another code, and that code.

    >>> partners(torch.tensor([0, 1]), torch.tensor([5, 6, 5, 5]), torch.tensor([[.9, .9, .1, .8], [.9] * 4]))
    (tensor([0]), tensor([3]))
    """
    is_partner: Bool[Tensor, "B K"] = clusters[codes].unsqueeze(1) == clusters
    is_partner[torch.arange(len(codes), device=codes.device), codes] = False
    rows = is_partner.any(dim=1).nonzero().squeeze(1)
    return rows, draws.masked_fill(~is_partner, -1.0)[rows].argmax(dim=1)


def diversity_loss(
    codebook: Float[Tensor, "K D"], codes: Int64[Tensor, " n"], partners: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """-1/n sum_i log(exp <b_c, b_+> / sum_{k != c} exp <b_c, b_k>), for c the code of item i and + its partner.

    LETTER's diversity regularisation: a code is drawn to one of its own cluster and away from all others, so that codes
    spread evenly. 0 for no items. The gradient goes to both factors of the products.
    """
    if not len(codes):
        return codebook.sum() * 0.0
    logits = F.embedding(codes, codebook) @ codebook.T
    is_self = F.one_hot(codes, len(codebook)).bool()
    return F.cross_entropy(logits.masked_fill(is_self, -math.inf), partners)


class Alignment(nn.Module):
    """weight * `alignment_loss`, with a learnt linear map D -> C where the widths differ (not part of the encoding).

    Args:
        latent_width: D.
        width: C.
        weight: of the term; LETTER's alpha.
        generator: of the first weights of the map.
    """

    def __init__(self, *, latent_width: int, width: int, weight: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = weight
        self.projection: nn.Module = nn.Identity()
        if latent_width != width:
            projection = nn.Linear(latent_width, width, bias=False, device="meta").to_empty(device="cpu")
            with torch.no_grad():
                projection.weight.normal_(0.0, 1 / math.sqrt(latent_width), generator=generator)
            self.projection = projection

    def forward(self, quantised: Float[Tensor, "B D"], collaborative: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
        """The term for z^ with the gradient of z (straight-through)."""
        return self.weight * alignment_loss(self.projection(quantised), collaborative)


class Diversity:
    """weight * the mean over the levels of `diversity_loss`; the codes are clustered anew in every epoch.

    Deviation: LETTER clusters by k-means with bounds on the sizes, we by k-means as it is.

    Args:
        weight: of the term; LETTER's beta.
        seed: of the clusterings and of the partners.
    """

    def __init__(self, *, weight: float, seed: int) -> None:
        self.weight, self.seed = weight, seed
        self.clusters: list[Tensor] = []

    def begin(self, codebooks: Sequence[Tensor], epoch: int) -> None:
        """Clusters the codes of each level."""
        self.clusters = [
            torch.from_numpy(cluster(codebook.detach().cpu().numpy(), seed=fold_in(self.seed, epoch, level)))
            for level, codebook in enumerate(codebooks)
        ]
        self.random = torch.Generator().manual_seed(fold_in(self.seed, epoch))

    def __call__(self, codebooks: Sequence[Tensor], codes: Int64[Tensor, "B L"]) -> Float[Tensor, ""]:
        losses = []
        for codebook, clusters, column in zip(codebooks, self.clusters, codes.T, strict=True):
            draws = torch.rand(len(column), len(codebook), generator=self.random).to(codebook.device)
            rows, others = partners(column, clusters.to(codebook.device), draws)
            losses.append(diversity_loss(codebook, column[rows], others))
        return self.weight * torch.stack(losses).mean()


class Letter(nn.Module):
    """The terms that are wanted, by name; None: without it."""

    def __init__(self, alignment: Alignment | None, diversity: Diversity | None) -> None:
        super().__init__()
        self.alignment, self.diversity = alignment, diversity

    def begin(self, codebooks: Sequence[Tensor], epoch: int) -> None:
        """Before the first batch of an epoch."""
        if self.diversity is not None:
            self.diversity.begin(codebooks, epoch)

    def forward(
        self,
        quantised: Float[Tensor, "B D"],
        codes: Int64[Tensor, "B L"],
        codebooks: Sequence[Tensor],
        collaborative: Float[Tensor, "B C"] | None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted terms of a batch; `collaborative` is needed for the alignment alone."""
        terms = {}
        if self.alignment is not None:
            assert collaborative is not None
            terms["alignment"] = self.alignment(quantised, collaborative)
        if self.diversity is not None:
            terms["diversity"] = self.diversity(codebooks, codes)
        return terms


def cluster(codebook: np.ndarray, *, seed: int) -> np.ndarray:
    """int64 [K]: the cluster of each code, by k-means; all 0 where the codes are too few or too alike for two.

    >>> found = cluster(np.array([[0, 0], [0, 1], [9, 0], [9, 1]], dtype=np.float32), seed=0)
    >>> found[0] == found[1] != found[2] == found[3]
    np.True_
    """
    number = min(_CLUSTERS, len(np.unique(codebook, axis=0)) // 2)
    if number < 2:
        return np.zeros(len(codebook), dtype=np.int64)
    return ResidualKMeans(codebook_sizes=(number,), seed=seed).fit(codebook).encode(codebook)[:, 0].astype(np.int64)
