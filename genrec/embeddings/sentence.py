"""Item text -> vectors by a sentence-transformers model (extra `sentence`), from a folder or from the model hub.

Imports the package when it is asked to embed. Knows nothing of datasets or configuration.
"""
# N items, E width

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from genrec.errors import ConfigError, DataError, StorageError

logger = logging.getLogger(__name__)

_BATCHES_A_REPORT = 16  # the package sorts texts by length within a call, so calls should be long


def embed_sentences(
    texts: Sequence[str | None],
    *,
    model: str = "sentence-transformers/all-MiniLM-L6-v2",
    batch_size: int = 64,
    device: str | None = None,
    normalise: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[np.ndarray, "N E"]:
    """One vector a text, of the model's own width.

    A text that is empty gives a row of zeros (a model would give them all one arbitrary vector); the log counts them.

    Args:
        texts: N texts; None is an empty one.
        model: folder of a model, or its name on the hub.
        batch_size: texts a forward pass.
        device: torch device; None: the best there is.
        normalise: rows of length one.
        progress: called with (texts done, texts in all).

    Raises:
        ConfigError: the package is not installed.
        StorageError: the model cannot be loaded.
        DataError: all texts are empty.
    """
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "sentence_transformers":
            raise  # the package is there and one of its own dependencies is not
        raise ConfigError(
            "embedding 'sentence' needs the package sentence-transformers", fix="pip install 'genrec[sentence]'"
        ) from error
    try:
        encoder = SentenceTransformer(model, device=device)
    except (OSError, ValueError) as error:  # no such folder or name, no network, a folder that holds something else
        raise StorageError(
            f"cannot load the sentence model: {error}",
            where=model,
            fix="set embedding.model=... to the folder of a downloaded model, or check its name and the network",
        ) from error

    def encode(batch: list[str]) -> Any:
        return encoder.encode(
            batch,
            batch_size=batch_size,
            normalize_embeddings=normalise,
            convert_to_numpy=True,
            show_progress_bar=False,
        )

    return encode_texts(texts, encode, chunk_size=batch_size * _BATCHES_A_REPORT, progress=progress)


def encode_texts(
    texts: Sequence[str | None],
    encode: Callable[[list[str]], np.ndarray],
    *,
    chunk_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[np.ndarray, "N E"]:
    """Applies any encoder to the texts that are not empty; the others get rows of zeros.

    Args:
        texts: N texts; None is an empty one.
        encode: list of B texts -> [B, E].
        chunk_size: largest B.
        progress: called with (texts done, texts in all) after each chunk.

    Raises:
        DataError: all texts are empty.

    >>> encode_texts(["a", "", "ccc"], lambda batch: np.array([[len(text), 1.0] for text in batch])).tolist()
    [[1.0, 1.0], [0.0, 0.0], [3.0, 1.0]]
    """
    filled = [index for index, text in enumerate(texts) if text is not None and text.strip()]
    if not filled:
        raise DataError("all item texts are empty", found=f"{len(texts)} items", fix="set embedding=cooccurrence")
    if len(filled) < len(texts):
        logger.warning("%d of %d item texts are empty: their vectors are 0", len(texts) - len(filled), len(texts))
    vectors = np.empty((0, 0), dtype=np.float32)
    for start in range(0, len(filled), chunk_size):
        chosen = filled[start : start + chunk_size]
        encoded = encode([str(texts[index]) for index in chosen])
        if not start:
            vectors = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
        vectors[chosen] = encoded
        if progress is not None:
            progress(start + len(chosen), len(filled))
    return vectors
