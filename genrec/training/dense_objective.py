"""What a step of training a dense recommender minimises: a softmax over all items, over sampled ones, or gBCE.

Asks the model for queries and puts `genrec.losses.dense` together; must not know optimisers or files.
"""
# B batch, T items, N items of the catalogue

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from genrec.data.negatives import draw_items
from genrec.losses.dense import full_softmax, generalised_bce, sampled_softmax
from genrec.losses.likelihood import LossOutput
from genrec.models.sasrec import Sasrec


@dataclass(frozen=True)
class FullSoftmax:
    """See `full_softmax`."""

    label_smoothing: float = 0.0


@dataclass(frozen=True)
class SampledSoftmax:
    """See `sampled_softmax`.

    Attributes:
        num_negatives: items drawn for a batch, with replacement.
        popularity_power: q is proportional to (training interactions, at least 1) to this power; 0: uniform.
        correct: subtract log q.
    """

    num_negatives: int
    popularity_power: float = 0.0
    correct: bool = True


@dataclass(frozen=True)
class GeneralisedBce:
    """See `generalised_bce`.

    Attributes:
        num_negatives: items drawn for each target, uniformly.
        calibration: t.
    """

    num_negatives: int
    calibration: float = 0.75


DenseLoss = FullSoftmax | SampledSoftmax | GeneralisedBce


class DenseObjective(nn.Module):
    """The loss of a batch; holds nothing that is learnt.

    The negatives that a batch shares come from torch's global generator, which the training loop seeds for each step.
    Those of a target are a function of (seed, epoch, user row, place, target).

    Args:
        loss: which, and its constants.
        counts: [N] training interactions of each item.
        seed: of the negatives of a target.
    """

    compiles = "read"
    log_q: Tensor

    def __init__(self, loss: DenseLoss, counts: Int64[Tensor, " N"], *, seed: int = 0) -> None:
        super().__init__()
        self.loss, self.seed = loss, seed
        power = loss.popularity_power if isinstance(loss, SampledSoftmax) else 0.0
        weights = counts.clamp(min=1).double() ** power
        self.register_buffer("log_q", (weights / weights.sum()).log().float(), persistent=False)

    def forward(
        self, model: Sasrec, batch: Mapping[str, Tensor], *, compiled: Callable[..., Tensor] | None = None
    ) -> LossOutput:
        """The loss of a batch.

        Args:
            model: the recommender.
            batch: items, targets, is_target [B, T]; user_index [B] and epoch [] for gBCE.
            compiled: a compiled form of the model's `read`.
        """
        is_target = batch["is_target"]
        queries = (compiled or model.read)(batch["items"])[is_target]
        items, targets = model.item_vectors(), batch["targets"][is_target]
        if isinstance(self.loss, FullSoftmax):
            return full_softmax(queries, items, targets, label_smoothing=self.loss.label_smoothing)
        if isinstance(self.loss, SampledSoftmax):
            negatives = torch.multinomial(self.log_q.exp(), self.loss.num_negatives, replacement=True)
            return sampled_softmax(queries, items, targets, negatives, self.log_q if self.loss.correct else None)
        row, place = is_target.nonzero(as_tuple=True)
        names = torch.stack([batch["user_index"][row], place, targets], dim=1)
        negatives = draw_items(
            self.seed,
            int(batch["epoch"]),
            names,
            num_negatives=self.loss.num_negatives,
            num_items=model.num_items,
        )
        return generalised_bce(queries, items, targets, negatives, calibration=self.loss.calibration)
