"""One step of training an RQ-VAE: the loss, codebooks by gradient or moving average, dead codes, a record an epoch.

A shell around a built model; must not know configuration or files.
"""
# B batch, E width, L levels, K codes of a level

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.errors import TrainingError
from genrec.quantization.letter import Letter
from genrec.quantization.rqvae import Assign, RqVae, ema_update, loss_parts, reseed

WARMUP, FINAL_RATE = 0.05, 0.02  # see `rate`


class TokenizerTask(pl.LightningModule):
    """Trains an `RqVae` on batches of `vectors` [B, E] and their `rows` among all [B].

    Until `start` is called encoder and decoder train alone, on the reconstruction. With an alignment in `letter`,
    batches also have `collaborative` [B, C].

    Args:
        model: without codebooks yet.
        num_items: N, vectors of an epoch.
        beta: weight of the commitment.
        learning_rate: of Adam, the highest (see `rate`).
        assign: how each level chooses its codes in training.
        ema_decay: of codebooks that are moving averages; None: they are learnt by gradient.
        reseed_every: epochs between re-seedings of codes that no item had in the epoch; 0: never.
        letter: more terms of the loss; None: none.

    Attributes:
        history: a record an epoch (see `RqVaeQuantizer`).
    """

    def __init__(
        self,
        model: RqVae,
        *,
        num_items: int,
        beta: float,
        learning_rate: float,
        assign: Sequence[Assign],
        ema_decay: float | None,
        reseed_every: int,
        letter: Letter | None = None,
    ) -> None:
        super().__init__()
        self.model, self.beta, self.learning_rate, self.assign = model, beta, learning_rate, list(assign)
        self.ema_decay, self.reseed_every, self.letter = ema_decay, reseed_every, letter
        self.codes = np.full((num_items, len(model.codebooks)), -1, dtype=np.int32)  # of the epoch, as assigned
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, float] = {}
        for level, codebook in enumerate(model.codebooks):
            self.register_buffer(f"counts_{level}", torch.ones(len(codebook)))
            self.register_buffer(f"sums_{level}", torch.zeros_like(codebook))

    @torch.no_grad()
    def start(self, codebooks: Sequence[np.ndarray]) -> None:
        """Gives the model its first codebooks; from now on batches are quantised."""
        self.model.initialise(codebooks)
        for level, codebook in enumerate(self.model.codebooks):  # as if each code had one item so far
            self.get_buffer(f"sums_{level}").copy_(codebook)

    def on_train_epoch_start(self) -> None:
        """Tells LETTER's terms."""
        if self.letter is not None and self.model.is_initialised:
            self.letter.begin(list(self.model.codebooks), self.current_epoch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss.

        Raises:
            TrainingError: it is not finite; names the epoch, the batch and the parts.
        """
        parts = self._quantised_parts(batch) if self.model.is_initialised else self._free_parts(batch)
        trained = [part for name, part in parts.items() if name != "codebook" or self.ema_decay is None]
        loss = torch.stack(trained).sum()
        values = {"loss": float(loss.detach()), **{name: float(part.detach()) for name, part in parts.items()}}
        if not np.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss of the RQ-VAE is {values['loss']}",
                where=f"epoch {self.current_epoch + 1}, batch {batch_idx}",
                found=", ".join(f"{name} {value:.4g}" for name, value in values.items()),
                fix="lower tokenizer.learning_rate, or rescale the embeddings",
            )
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(batch["rows"])
        self.last_vectors = batch["vectors"]
        return loss

    def _free_parts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        decoded = self.model.decoder(self.model.encoder(batch["vectors"]))
        return {"reconstruction": F.mse_loss(decoded, batch["vectors"])}

    def _quantised_parts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        decoded, through, quantised = self.model(batch["vectors"], self.assign)
        parts = loss_parts(batch["vectors"], decoded, quantised, beta=self.beta)
        if self.letter is not None:
            parts |= self.letter(through, quantised.codes, list(self.model.codebooks), batch.get("collaborative"))
        if self.ema_decay is not None:
            for level, residuals in enumerate(quantised.residuals):
                self._move(level, residuals.detach(), quantised.codes[:, level], self.ema_decay)
        self.codes[batch["rows"].cpu().numpy()] = quantised.codes.cpu().numpy()
        return parts

    def on_train_epoch_end(self) -> None:
        """Records the epoch, and re-seeds the codes that it left unused (not after the last: they would not learn)."""
        record: dict[str, Any] = {"epoch": self.current_epoch + 1}
        record |= {name: total / len(self.codes) for name, total in self.sums.items()}
        if self.model.is_initialised:
            record["collision_rate"] = 1 - len(np.unique(self.codes, axis=0)) / len(self.codes)
            books = self.model.codebooks
            record["levels"] = [_usage(column, len(book)) for column, book in zip(self.codes.T, books, strict=True)]
            epochs = self.current_epoch + 1
            if self.reseed_every and epochs % self.reseed_every == 0 and epochs != self.trainer.max_epochs:
                self._reseed(record["levels"])
        self.history.append(record)
        self.sums = {}

    def configure_optimizers(self) -> Any:
        """Adam on the networks, and on the codebooks where these have a gradient, at `rate`."""
        optimizer = torch.optim.Adam([part for part in self.parameters() if part.requires_grad], lr=self.learning_rate)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def _move(self, level: int, residuals: Tensor, codes: Tensor, decay: float) -> None:
        counts, sums = self.get_buffer(f"counts_{level}"), self.get_buffer(f"sums_{level}")
        state = (self.model.codebooks[level], counts, sums)
        for tensor, new in zip(state, ema_update(*state, residuals=residuals, codes=codes, decay=decay), strict=True):
            tensor.copy_(new)

    @torch.no_grad()
    def _reseed(self, levels: list[dict[str, Any]]) -> None:
        """Level by level: what a new code takes over is no longer there for the levels below."""
        latents = self.model.encoder(self.last_vectors)
        for level, codebook in enumerate(self.model.codebooks):
            is_dead = torch.ones(len(codebook), dtype=torch.bool)
            is_dead[torch.from_numpy(np.unique(self.codes[:, level])).long()] = False
            if not is_dead.any():
                continue
            residuals = self.model.quantise(latents, levels=level + 1).residuals[level]
            new, replaced = reseed(
                codebook, is_dead.to(codebook.device), residuals, by_direction=self.model.by_direction
            )
            codebook.copy_(new)
            levels[level]["reseeded"] = len(replaced)
            if self.ema_decay is not None:
                self.get_buffer(f"counts_{level}")[replaced] = 1.0
                self.get_buffer(f"sums_{level}")[replaced] = new[replaced]


def rate(step: int, total: int) -> float:
    """Learning rate of a step (from 0) of `total`, as a share of the highest: up along a line, down along a cosine.

    It rises over the first `WARMUP` of the steps: Adam's first steps are all of the full rate, which narrowed the
    latents (on Beauty 43 % of the variance were left over instead of 38 to 39 %). It falls to `FINAL_RATE`: at the end
    the encoder stands still while the codebooks settle, so the codes that training assigned in its last epoch are those
    that encoding gives, and the last record of the history describes the table.

    >>> [round(rate(step, 100), 2) for step in (0, 4, 5, 52, 99)]
    [0.2, 1.0, 1.0, 0.52, 0.02]
    """
    warmup = math.ceil(WARMUP * total)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def _usage(codes: np.ndarray, size: int) -> dict[str, Any]:
    counts = np.bincount(codes, minlength=size)
    share = counts[counts > 0] / len(codes)
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    return {"used": len(share), "dead": size - len(share), "perplexity": perplexity, "reseeded": 0}
