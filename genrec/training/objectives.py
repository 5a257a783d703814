"""What a step of training minimises: cross-entropy, alone or with prefix-aware losses, and the weights of these.

Asks a recommender for log-probabilities and puts `genrec.losses` together; must not know optimisers or files.
"""
# B batch, T items, P targets, C candidates, L levels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from genrec.data.negatives import draw_items
from genrec.errors import ConfigError
from genrec.losses.likelihood import LossOutput, token_cross_entropy
from genrec.losses.prefix_aware import (
    PairwiseLosses,
    pairwise_losses,
    persistent_weights,
    pointwise_losses,
    stateless_weights,
)
from genrec.models.recommender import ItemScores, Recommender


@dataclass(frozen=True)
class Likelihood:
    """Cross-entropy of the codes; see `token_cross_entropy`.

    Attributes:
        label_smoothing: share of the target's weight that its alternatives get.
        level_weights: a number a level; None: all alike.
    """

    label_smoothing: float = 0.0
    level_weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Prefixes:
    """Prefix-aware losses beside the likelihood; see `genrec.losses.prefix_aware`.

    Attributes:
        beta: their weight.
        eta: rate of the adaptive weights.
        stateless: weights from the losses of the step alone.
        num_negatives: sampled items a target; 0: the pointwise loss.
        temperature: tau_pair.
        depth_scaled: the authors' 1 / t in the pairwise loss.
    """

    beta: float
    eta: float
    stateless: bool = False
    num_negatives: int = 0
    temperature: float = 1.0
    depth_scaled: bool = True


class Objective(nn.Module):
    """The loss of a batch. The adaptive weights are a buffer, so a checkpoint holds them.

    In training, the weights take one step of mirror ascent on the losses of the batch (the mean over all targets of all
    processes) before they weigh these.

    Args:
        num_prefixes: distinct prefixes of 1 to L codes in the catalogue.
        likelihood: the first part.
        prefixes: the second; None: there is none.
        seed: of the negatives.

    Raises:
        ConfigError: level weights for another number of levels, or all 0.
    """

    compiles = "score_targets"
    weights: Tensor

    def __init__(
        self, num_prefixes: Sequence[int], *, likelihood: Likelihood, prefixes: Prefixes | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.num_prefixes, self.likelihood, self.prefixes, self.seed = num_prefixes, likelihood, prefixes, seed
        levels = len(num_prefixes)
        given = likelihood.level_weights
        if given is not None and (len(given) != levels or not sum(given)):
            raise ConfigError(
                "wrong weights of the levels",
                where="key 'loss.level_weights'",
                expected=f"{levels} numbers, not all 0",
                found=list(given),
                fix="loss.level_weights=null",
            )
        self.register_buffer("weights", torch.full((levels,), 1 / levels))

    def forward(
        self, model: Recommender, batch: Mapping[str, Tensor], *, compiled: Callable[..., ItemScores] | None = None
    ) -> LossOutput:
        """The loss of a batch.

        Args:
            model: the recommender.
            batch: items, targets, is_target [B, T]; user_index [B] and epoch [] where negatives are drawn; gaps [B, T]
                for a model that reads them.
            compiled: a compiled form of the model's `score_targets`.

        Returns:
            The loss; parts those of `token_cross_entropy`, and of each depth `prefix_loss_t`, `prefix_weight_t`, and
            where there are negatives `prefix_auc_t`, `prefix_mrr_t`.
        """
        is_target = batch["is_target"]
        targets = torch.where(is_target, batch["targets"], -1)
        with_means = self.likelihood.label_smoothing > 0
        found = None
        if self.prefixes is not None and self.prefixes.num_negatives:
            scores, found = self._against_negatives(model, batch, targets, with_means=with_means)
        else:
            score = compiled or model.score_targets
            placed = score(batch["items"], targets, with_means=with_means, **_gaps(batch))
            scores = _select(placed, is_target)
        is_valid = torch.ones_like(scores.log_probs[..., 0], dtype=torch.bool)
        output = token_cross_entropy(
            scores.log_probs,
            is_valid,
            means=scores.means,
            label_smoothing=self.likelihood.label_smoothing,
            level_weights=self.likelihood.level_weights,
        )
        if self.prefixes is None:
            return output
        losses = pointwise_losses(scores.log_probs) if found is None else found.losses
        weights = self._weigh(losses, len(is_valid))
        parts = {"prefix_loss": losses.detach(), "prefix_weight": weights}
        parts |= {} if found is None else {"prefix_auc": found.auc, "prefix_mrr": found.mrr}
        named = {f"{name}_{t}": value for name, part in parts.items() for t, value in enumerate(part, start=1)}
        return LossOutput(output.loss + self.prefixes.beta * (weights * losses).sum(), output.parts | named)

    def _against_negatives(
        self, model: Recommender, batch: Mapping[str, Tensor], targets: Tensor, *, with_means: bool
    ) -> tuple[ItemScores, PairwiseLosses]:
        assert self.prefixes is not None
        is_target = targets >= 0
        row, place = is_target.nonzero(as_tuple=True)
        own = targets[is_target]
        names = torch.stack([batch["user_index"][row], place, own], dim=1)
        negatives = draw_items(
            self.seed,
            int(batch["epoch"]),
            names,
            num_negatives=self.prefixes.num_negatives,
            num_items=model.trie.num_items,
        )
        candidates = torch.cat([own.unsqueeze(1), negatives], dim=1)
        context = model.read_positions(batch["items"], targets, **_gaps(batch))
        scores = model.score_items(context, candidates, with_means=with_means)
        found = pairwise_losses(
            scores.log_probs,
            model.trie.path_nodes(candidates),
            self.num_prefixes,
            temperature=self.prefixes.temperature,
            depth_scaled=self.prefixes.depth_scaled,
        )
        return _select(scores, (slice(None), 0)), found

    def _weigh(self, losses: Float[Tensor, " L"], num_targets: int) -> Float[Tensor, " L"]:
        assert self.prefixes is not None
        losses = losses.detach()
        if self.training and dist.is_available() and dist.is_initialized():
            shared = torch.cat([losses * num_targets, losses.new_tensor([num_targets])])
            dist.all_reduce(shared)
            losses = shared[:-1] / shared[-1].clamp(min=1)
        if self.prefixes.stateless:
            weights = stateless_weights(losses, self.prefixes.eta)
        else:
            weights = persistent_weights(self.weights, losses, self.prefixes.eta)
        if self.training:
            self.weights.copy_(weights)
        return weights


def _gaps(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"gaps": batch["gaps"]} if "gaps" in batch else {}


def _select(scores: ItemScores, which: Any) -> ItemScores:
    return ItemScores(scores.log_probs[which], None if scores.means is None else scores.means[which])
