"""How an RQ-VAE is built and trained: the keyword arguments, their defaults and why, and their ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.errors import ConfigError
from genrec.seeding import fold_in

DISTANCES = ("l2", "cosine")  # a state has the position


@dataclass(frozen=True, kw_only=True)
class RqVaeOptions:
    """How an RQ-VAE is built and trained.

    The defaults are for codes that live and tell items apart. Measured on Beauty (12,101 items, all-MiniLM-L6-v2, seeds
    0, 1, 2): every code of every level used, at most 9 of 256 unused in any epoch, collisions 1.6 to 1.8 %. What they
    cannot mend is embeddings that hardly tell items apart: of Beauty's TF-IDF vectors (128 wide) more than half have
    another within 5 % of the variance; the defaults leave 14 % collisions there, residual k-means 18 %.

    Attributes:
        codebook_sizes: K_l of each level, each at least 2. Four, since the first three alone left 5 to 6 % collisions.
        latent_width: D, width of the codebooks.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        epochs: passes over the vectors. More of them leave less error and a few more collisions, since the latents go
            on to widen (at a constant rate, 10 left 53 % of the variance and 0.7 % collisions, 60 37 % and 1.3 %).
        pretrain_epochs: the first of them, in which encoder and decoder train alone; then the codebooks begin as
            residual k-means of their latents. With 0 they begin on the untrained encoder's, which run away from them
            within an epoch: at the first level all but 5 to 12 of 256 codes died, and had to be re-seeded.
        batch_size: largest batch; those of an epoch are equal up to one vector.
        learning_rate: of Adam, the highest; it rises and falls (`tokenizer_task.rate`).
        beta: weight of the commitment.
        distance: what a level's code is nearest in: "l2", or "cosine", by direction (see `quantization.directional`).
        codebook_update: "gradient", or "ema" (moving averages of what a code gets). On TF-IDF of Office
            and Beauty the latter left a tenth less error and a tenth fewer collisions; on Beauty's sentence embeddings
            they leave the same error, gradients (with a diversity of 1e-4) 1.4 % collisions (one seed each).
        ema_decay: their share of the old value, in [0, 1).
        sinkhorn: levels that are assigned uniformly in training: "none", "last" or "all" (LC-Rec). Encoding always
            takes the nearest code.
        sinkhorn_epsilon: softness of that assignment, for distances mapped to [-1, 1].
        sinkhorn_iterations: of its scaling.
        reseed_every: epochs between re-seedings of the codes that no item had in the epoch; 0: never.
        alignment_weight: of LETTER's alignment with the collaborative vectors that `fit` is given; without them it is
            not used. 0.02 is LETTER's.
        diversity_weight: of LETTER's diversity of the codes (1e-4 there); 0: without. It moves codebooks by gradient
            alone, so moving averages refuse it.
        accelerator: a Lightning accelerator, such as "cpu" or "auto".
        seed: in [0, 2^64).

    Raises:
        ConfigError: a value out of range, or a diversity that could have no effect.
    """

    codebook_sizes: Sequence[int] = (256, 256, 256, 256)
    latent_width: int = 32
    hidden: Sequence[int] = (512, 256)
    epochs: int = 40
    pretrain_epochs: int = 2
    batch_size: int = 256
    learning_rate: float = 3e-3
    beta: float = 0.25
    distance: str = "l2"
    codebook_update: str = "ema"
    ema_decay: float = 0.99
    sinkhorn: str = "none"
    sinkhorn_epsilon: float = 0.003
    sinkhorn_iterations: int = 50
    reseed_every: int = 1
    alignment_weight: float = 0.02
    diversity_weight: float = 0.0
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
            ("pretrain_epochs", 0 <= self.pretrain_epochs < self.epochs, f"0 or more, below epochs {self.epochs}"),
            ("learning_rate", 0 < self.learning_rate < np.inf, "a positive number"),
            ("beta", 0 <= self.beta < np.inf, "0 or more"),
            ("distance", self.distance in DISTANCES, " or ".join(DISTANCES)),
            ("alignment_weight", 0 <= self.alignment_weight < np.inf, "0 or more"),
            ("diversity_weight", 0 <= self.diversity_weight < np.inf, "0 or more"),
            ("codebook_update", self.codebook_update in ("gradient", "ema"), "gradient or ema"),
            ("ema_decay", 0 <= self.ema_decay < 1, "0 <= decay < 1"),
            ("sinkhorn", self.sinkhorn in ("none", "last", "all"), "none, last or all"),
            ("sinkhorn_epsilon", 0 < self.sinkhorn_epsilon < np.inf, "a positive number"),
            ("reseed_every", self.reseed_every >= 0, "0 or more"),
        ]
        for name, is_right, expected in rules:
            if not is_right:
                raise ConfigError(f"RQ-VAE: wrong {name}", expected=expected, found=getattr(self, name))
        if self.diversity_weight and self.codebook_update == "ema":
            raise ConfigError(
                "RQ-VAE: the diversity term moves codebooks by its gradient alone, and moving averages have none",
                where="tokenizer.diversity_weight",
                expected="0 with codebook_update ema",
                found=self.diversity_weight,
                fix="set tokenizer.codebook_update=gradient, or tokenizer.diversity_weight=0",
            )
