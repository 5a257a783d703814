"""The artifact "embeddings": vectors.npy, float32 [N, E], row i for item_index i of its parent dataset.

Knows arrays and artifacts, and not how the vectors were made.
"""
# N items, E width

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from genrec.artifacts import Artifact, check_parent, load_artifact, write_artifact
from genrec.embeddings.rows import check_finite, is_zero_row
from genrec.errors import DataError

KIND = "embeddings"
VECTORS = "vectors.npy"


def save_embeddings(
    path: Path | str,
    vectors: np.ndarray,
    *,
    dataset: Artifact,
    num_items: int,
    blocks: Mapping[str, Mapping[str, Any]],
    overwrite: bool = False,
) -> Artifact:
    """Writes the artifact.

    Args:
        path: folder to make.
        vectors: float32 [N, E], finite, by item_index.
        dataset: the dataset whose items they are.
        num_items: N of that dataset.
        blocks: JSON facts of each part of the vectors, side by side in this order: how it was made, its dimensions.
        overwrite: replace an artifact that is there.

    Returns:
        The artifact; its facts are num_items, dimensions, num_zero_rows and blocks.

    Raises:
        DataError: wrong shape or dtype, or a number that is not finite.
        RunError, StorageError: as `write_artifact`.
    """
    _check(vectors, num_items, where="vectors to save")
    facts = {
        "num_items": num_items,
        "dimensions": vectors.shape[1],
        "num_zero_rows": int(is_zero_row(vectors).sum()),
        "blocks": [{"name": name, **block} for name, block in blocks.items()],
    }
    with write_artifact(path, kind=KIND, facts=facts, parents={"dataset": dataset}, overwrite=overwrite) as writer:
        np.save(writer.path(VECTORS), np.ascontiguousarray(vectors), allow_pickle=False)
    return writer.artifact


def load_embeddings(
    path: Path | str, dataset: Artifact | None = None, *, num_items: int | None = None, verify: bool = True
) -> tuple[Artifact, Float32[np.ndarray, "N E"]]:
    """Reads and checks the artifact.

    Args:
        path: its folder.
        dataset: the dataset it has to be made from; None: not checked.
        num_items: the N it has to have; None: the one it was written with.
        verify: hash the file, and look for numbers that are not finite.

    Returns:
        The artifact and its vectors, a read-only memory map.

    Raises:
        ArtifactError: missing, incomplete, corrupt or of another kind.
        LineageError: made from another dataset.
        DataError: wrong shape or dtype, or a number that is not finite.
    """
    artifact = load_artifact(path, kind=KIND, verify=verify)
    if dataset is not None:
        check_parent(artifact, "dataset", dataset)
    file = artifact.file(VECTORS)
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"cannot read the array: {error}", where=file) from error
    _check(vectors, int(artifact.facts["num_items"]) if num_items is None else num_items, where=file, finite=verify)
    return artifact, vectors


def _check(vectors: np.ndarray, num_items: int, *, where: object, finite: bool = True) -> None:
    if vectors.ndim != 2 or len(vectors) != num_items or not vectors.shape[1] or vectors.dtype != np.float32:
        raise DataError(
            "embeddings have the wrong shape or type",
            where=where,
            expected=f"float32 [{num_items}, E]",
            found=f"{vectors.dtype} {list(vectors.shape)}",
        )
    if finite:
        check_finite(vectors, where=where)
