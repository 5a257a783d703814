"""Which quantiser a tokenizer's configuration names, and which one a table's codebooks belong to."""
# N vectors, E width, L levels

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from genrec.artifacts import Artifact
from genrec.config import training
from genrec.errors import DataError
from genrec.quantization.faiss_residual import FaissResidualQuantizer
from genrec.quantization.last_level import LastLevelErrors
from genrec.quantization.product import ProductQuantizer
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.semantic_ids.table import load_codebooks, load_health
from genrec.training.rqvae import RqVaeOptions, RqVaeQuantizer

NOT_THE_QUANTISERS = ("name", "embeddings", "collaborative", "collisions", "max_added_distortion", "reserve")


class Quantiser(Protocol):
    """What `tokenize` asks of a quantiser: the contract of tests/contracts/test_tokenizers.py."""

    codebook_sizes: tuple[int, ...]

    def fit(self, vectors: np.ndarray, progress: Callable[[str, int, int], None] | None = None) -> Quantiser: ...

    def encode(self, vectors: np.ndarray, progress: Callable[[str, int, int], None] | None = None) -> np.ndarray: ...

    def decode(self, codes: np.ndarray) -> np.ndarray: ...

    def last_level_errors(self, vectors: np.ndarray, codes: np.ndarray) -> LastLevelErrors: ...

    def state(self) -> dict[str, np.ndarray]: ...


# the keys of a section that are not said otherwise are the arguments of the class of its name
BUILDERS: dict[str, Callable[..., Quantiser]] = {
    "residual_kmeans": ResidualKMeans,
    "product": ProductQuantizer,
    "faiss_residual": FaissResidualQuantizer,
    "rqvae": lambda **options: RqVaeQuantizer(RqVaeOptions(**options)),
}
RESTORERS: dict[str, Callable[[Mapping[str, np.ndarray]], Quantiser]] = {
    "residual_kmeans": ResidualKMeans.from_state,
    "product": ProductQuantizer.from_state,
    "faiss_residual": FaissResidualQuantizer.from_state,
    "rqvae": RqVaeQuantizer.from_state,
}


def build_quantiser(section: training.QuantiserTokenizer) -> Quantiser:
    """The quantiser of a tokenizer's section, not fitted yet.

    Raises:
        ConfigError: a parameter out of range, or parameters that do not go together.
    """
    options = {key: value for key, value in asdict(section).items() if key not in NOT_THE_QUANTISERS}
    return BUILDERS[section.name](**options)


def training_facts(quantiser: Quantiser) -> dict[str, Any]:
    """What health.json says of the training of a quantiser that keeps a history of it; nothing of the others."""
    return {"training": quantiser.history_} if isinstance(quantiser, RqVaeQuantizer) else {}


def load_quantiser(artifact: Artifact) -> Quantiser:
    """The fitted quantiser of a semantic_ids artifact, which encodes later items as it did the first.

    Raises:
        ArtifactError: the table was imported without codebooks.
        DataError: the codebooks are not those of the tokenizer that the artifact names.
    """
    state = load_codebooks(artifact)
    name = load_health(artifact).get("tokenizer", {}).get("name")
    if name not in RESTORERS:
        raise DataError(
            "codebooks of an unknown tokenizer", where=artifact.path, expected=", ".join(RESTORERS), found=name
        )
    return RESTORERS[name](state)
