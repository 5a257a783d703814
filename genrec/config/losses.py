"""The training losses of recommenders: the ``loss`` section of ``train``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from genrec.config.fields import key


def _label_smoothing() -> Any:
    return key("share of the target's weight spread over all that the softmax runs over", 0.0, minimum=0, maximum=1)


def _level_weights() -> Any:
    return key("weights of the levels in the cross-entropy, which is divided by their sum; null: all alike", None)


def _beta(default: float) -> Any:
    return key("weight of the prefix losses beside the cross-entropy", default, minimum=0)


def _eta() -> Any:
    return key("rate of the adaptive weights of the depths", 1e-3, minimum=0)


def _weights() -> Any:
    what = "weights of the depths: carried from step to step (the paper), or of a step's losses alone (its code)"
    return key(what, "persistent")


@dataclass(frozen=True, kw_only=True)
class CrossEntropyLoss:
    """Cross-entropy of the codes, the mean over the levels (MSL's under model.normalisation=trie); sasrec: of items."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = _label_smoothing()
    level_weights: tuple[float, ...] | None = _level_weights()


@dataclass(frozen=True, kw_only=True)
class PrefixPointwiseLoss:
    """APAO, pointwise: cross-entropy and the mean log-probability of the codes of every prefix."""

    name: Literal["prefix_pointwise"] = "prefix_pointwise"
    beta: float = _beta(0.3)
    eta: float = _eta()
    weights: Literal["persistent", "stateless"] = _weights()
    label_smoothing: float = _label_smoothing()
    level_weights: tuple[float, ...] | None = _level_weights()


@dataclass(frozen=True, kw_only=True)
class PrefixPairwiseLoss:
    """APAO, pairwise: cross-entropy and a softmax of every prefix against those of sampled items."""

    name: Literal["prefix_pairwise"] = "prefix_pairwise"
    beta: float = _beta(0.2)
    eta: float = _eta()
    weights: Literal["persistent", "stateless"] = _weights()
    num_negatives: int = key("items drawn for each target, anew in each epoch", 100, minimum=1)
    temperature: float = key("tau_pair", 1.0, minimum=1e-6)
    depth_scaled: bool = key("divide the loss of depth t by t, as the authors' code does", True)
    label_smoothing: float = _label_smoothing()
    level_weights: tuple[float, ...] | None = _level_weights()


@dataclass(frozen=True, kw_only=True)
class SampledSoftmaxLoss:
    """For model=sasrec: cross-entropy against sampled items that a batch shares."""

    name: Literal["sampled_softmax"] = "sampled_softmax"
    num_negatives: int = key("items drawn for a batch, with replacement", 1000, minimum=1)
    popularity_power: float = key("exponent of the counts that they are drawn by; 0: uniform", 0.0, minimum=0)
    correct: bool = key("subtract the logarithm of their probability (logQ)", True)


@dataclass(frozen=True, kw_only=True)
class GbceLoss:
    """For model=sasrec: generalised binary cross-entropy (gSASRec)."""

    name: Literal["gbce"] = "gbce"
    num_negatives: int = key("items drawn for each target, uniformly", 128, minimum=1)
    calibration: float = key("0: binary cross-entropy; 1: calibrated probabilities", 0.75, minimum=0, maximum=1)


Loss = CrossEntropyLoss | PrefixPointwiseLoss | PrefixPairwiseLoss | SampledSoftmaxLoss | GbceLoss
