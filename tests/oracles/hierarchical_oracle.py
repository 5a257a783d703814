"""The probability of an item under the hierarchical recommender, written out with loops over prefixes."""

from __future__ import annotations

import math

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + 1e-6) * weight


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])


def decode(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    layer = 0
    while (prefix := f"decoder.layers.{layer}.") + "norm.weight" in weights:
        inner = weights[prefix + "feed_forward.inner.weight"] @ rms_norm(x, weights[prefix + "norm.weight"])
        x = x + weights[prefix + "feed_forward.outer.weight"] @ gelu(inner)
        layer += 1
    return rms_norm(x, weights["decoder.norm.weight"])


def node_vector(weights: dict[str, np.ndarray], prefix: tuple[int, ...]) -> np.ndarray:
    """E of the node with these codes: 0 if its level has none or it does not count."""
    level = len(prefix) - 1
    name = f"decoder.node_embeddings.prefixes_{level}"
    zero = np.zeros_like(weights["empty_history"])
    if name not in weights:
        return zero
    row = [tuple(codes) for codes in weights[name].tolist()].index(prefix)
    is_trained = weights[f"decoder.node_embeddings.is_trained_{level}"][row]
    return weights[f"decoder.node_embeddings.rows.{level}"][row] if is_trained else zero


def transitions(weights: dict[str, np.ndarray], history: list[int]) -> np.ndarray:
    """What transition embeddings add to the state after a history."""
    total, g = np.zeros_like(weights["empty_history"]), 1 / (1 + math.exp(-weights["transition_decay"]))
    for age, item in enumerate(reversed(history)):
        if weights["item_is_trained"][item]:
            total = total + g**age * weights["transition_embeddings"][item]
    return total


def memory_term(weights: dict[str, np.ndarray], scores: dict[tuple[int, ...], float], prefix: tuple[int, ...]) -> float:
    """What a transition memory gives the node of a prefix for the item-kNN scores of the items below it."""
    level = len(prefix) - 1
    mass = sum(score for codes, score in scores.items() if codes[: level + 1] == prefix)
    return weights["memory.gain"][level] * math.log(mass + math.exp(weights["memory.log_floor"][level]))


def code_log_probs(
    weights: dict[str, np.ndarray],
    user: np.ndarray,
    codes: tuple[int, ...],
    catalogue: set[tuple[int, ...]],
    *,
    normalisation: str,
    temperature: float,
    scores: dict[tuple[int, ...], float] | None = None,
) -> list[float]:
    """Log-probability of each code of an item, given the state of a user and what a memory scores, by codes."""
    state, found = user, []
    for level, target in enumerate(codes):
        prefix = codes[:level]
        decoded = decode(weights, state)
        children = {other[level] for other in catalogue if other[:level] == prefix}
        logits = {}
        for code in range(len(weights[f"decoder.output_codes.{level}"])):
            if code in children:
                node = node_vector(weights, (*prefix, code))
                logits[code] = decoded @ weights[f"decoder.output_codes.{level}"][code] + (decoded + user) @ node
                if scores is not None:
                    logits[code] += memory_term(weights, scores, (*prefix, code))
            elif normalisation == "vocabulary":
                logits[code] = decoded @ weights[f"decoder.output_codes.{level}"][code]
        total = sum(math.exp(logit / temperature) for logit in logits.values())
        found.append(logits[target] / temperature - math.log(total))
        if level + 1 < len(codes):
            token = weights[f"decoder.code_embeddings.{level}"][target] + node_vector(weights, codes[: level + 1])
            state = state + token
    return found
