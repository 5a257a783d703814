"""The artifact "embeddings": round trip, lineage, corruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genrec.artifacts import Artifact, write_artifact
from genrec.embeddings.store import KIND, load_embeddings, save_embeddings
from genrec.errors import ArtifactError, DataError, LineageError, RunError
from genrec.seeding import generator

VECTORS = generator(1).standard_normal((5, 3)).astype(np.float32)
VECTORS[2] = 0.0


def dataset(folder: Path, number: int = 0) -> Artifact:
    with write_artifact(folder, kind="dataset", facts={"number": number}) as writer:
        writer.path("items.txt").write_text("5 items")
    return writer.artifact


def test_round_trip(tmp_path: Path) -> None:
    parent = dataset(tmp_path / "dataset")
    blocks = {"text": {"kind": "tfidf", "dimensions": 2}, "clicks": {"kind": "cooccurrence", "dimensions": 1}}
    saved = save_embeddings(tmp_path / "e", VECTORS, dataset=parent, num_items=5, blocks=blocks)
    loaded, vectors = load_embeddings(tmp_path / "e", parent, num_items=5)
    assert loaded == saved
    assert loaded.kind == KIND == "embeddings"
    assert loaded.parents == {"dataset": parent.identity}
    assert loaded.facts == {
        "num_items": 5,
        "dimensions": 3,
        "num_zero_rows": 1,
        "blocks": [
            {"name": "text", "kind": "tfidf", "dimensions": 2},
            {"name": "clicks", "kind": "cooccurrence", "dimensions": 1},
        ],
    }
    assert isinstance(vectors, np.memmap)
    assert not vectors.flags.writeable
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS)
    assert np.array_equal(load_embeddings(tmp_path / "e", verify=False)[1], VECTORS)


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    parent, other = dataset(tmp_path / "one", 1), dataset(tmp_path / "two", 2)
    save_embeddings(tmp_path / "e", VECTORS, dataset=parent, num_items=5, blocks={})
    with pytest.raises(LineageError, match="was made from another 'dataset'"):
        load_embeddings(tmp_path / "e", other)
    with pytest.raises(ArtifactError, match=r"wrong kind of artifact .*expected 'embeddings', found 'dataset'"):
        load_embeddings(tmp_path / "one")


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    save_embeddings(tmp_path / "e", VECTORS, dataset=dataset(tmp_path / "d"), num_items=5, blocks={})
    file = tmp_path / "e" / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"vectors\.npy: corrupt file"):
        load_embeddings(tmp_path / "e")


def test_existing_output(tmp_path: Path) -> None:
    parent = dataset(tmp_path / "d")
    save_embeddings(tmp_path / "e", VECTORS, dataset=parent, num_items=5, blocks={})
    with pytest.raises(RunError, match="already there"):
        save_embeddings(tmp_path / "e", VECTORS, dataset=parent, num_items=5, blocks={})
    save_embeddings(tmp_path / "e", VECTORS * 2, dataset=parent, num_items=5, blocks={}, overwrite=True)
    assert np.array_equal(load_embeddings(tmp_path / "e", parent)[1], VECTORS * 2)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (VECTORS[:4], r"expected float32 \[5, E\], found float32 \[4, 3\]"),
        (VECTORS.astype(np.float64), r"found float64 \[5, 3\]"),
        (VECTORS[:, 0], r"found float32 \[5\]"),
        (VECTORS[:, :0], r"found float32 \[5, 0\]"),
        (np.where(np.arange(5)[:, None] == 3, np.float32("nan"), VECTORS), "not finite in row 3"),
    ],
)
def test_wrong_vectors(tmp_path: Path, vectors: np.ndarray, message: str) -> None:
    """Neither written by us nor read from somebody who wrote them."""
    parent = dataset(tmp_path / "d")
    with pytest.raises(DataError, match=message):
        save_embeddings(tmp_path / "ours", vectors, dataset=parent, num_items=5, blocks={})
    assert not (tmp_path / "ours").exists()
    with write_artifact(tmp_path / "theirs", kind=KIND, facts={"num_items": 5}, parents={"dataset": parent}) as writer:
        np.save(writer.path("vectors.npy"), vectors)
    with pytest.raises(DataError, match=rf"vectors\.npy: .*{message}"):
        load_embeddings(tmp_path / "theirs", parent)


def test_wrong_number_of_items(tmp_path: Path) -> None:
    save_embeddings(tmp_path / "e", VECTORS, dataset=dataset(tmp_path / "d"), num_items=5, blocks={})
    with pytest.raises(DataError, match=r"expected float32 \[6, E\], found float32 \[5, 3\]"):
        load_embeddings(tmp_path / "e", num_items=6)
