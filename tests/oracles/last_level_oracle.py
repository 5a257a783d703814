"""The squared error of one item at any codes, in the space in which its quantiser assigns, from the stored arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def squared_error(name: str, state: Mapping[str, np.ndarray], vector: np.ndarray, codes: Sequence[int]) -> float:
    """In float64; `name` as a tokenizer's section has it."""
    books = [state[f"codebook.{level}"].astype(np.float64) for level in range(len(codes))]
    chosen = [book[code] for book, code in zip(books, codes, strict=True)]
    inner = _inner(name, state, vector.astype(np.float64) - state["mean"])
    approximation = np.concatenate(chosen) if name == "product" else np.sum(chosen, axis=0)
    return float(((inner - approximation) ** 2).sum())


def _inner(name: str, state: Mapping[str, np.ndarray], centred: np.ndarray) -> np.ndarray:
    if name == "product":
        return state["rotation"].astype(np.float64) @ centred
    if "whitening.scales" in state:
        return state["whitening.directions"].astype(np.float64) @ centred / state["whitening.scales"]
    if name != "rqvae":
        return centred
    hidden = centred / state["scale"][0]
    num_layers = sum(key.startswith("encoder.") for key in state) // 2
    for at in range(num_layers):
        hidden = state[f"encoder.{at}.weight"].astype(np.float64) @ hidden + state[f"encoder.{at}.bias"]
        if at < num_layers - 1:
            hidden = np.maximum(hidden, 0)
    return hidden
