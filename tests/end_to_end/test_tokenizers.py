"""``genrec tokenize`` with FAISS's quantisers and with whitening: tables, their codebooks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import fails, works

from genrec.artifacts import load_artifact
from genrec.embeddings.store import load_embeddings
from genrec.pipeline.quantisers import load_quantiser
from genrec.semantic_ids.table import load_health, load_semantic_ids

TOKENIZERS = {
    "product": ["tokenizer=product", "tokenizer.codebook_sizes=[16,16,16,16]", "tokenizer.num_rotations=5"],
    "faiss_residual": ["tokenizer=faiss_residual", "tokenizer.codebook_sizes=[16,8,8]", "tokenizer.beam_width=4"],
    "whitened": ["tokenizer=residual_kmeans", "tokenizer.codebook_sizes=[12,12,12]", "tokenizer.whiten=0.9"],
}
# sizes at which some of the 80 items collide
COARSE = {
    "tokenizer=product": ["tokenizer.codebook_sizes=[4,4]"],
    "tokenizer=faiss_residual": ["tokenizer.codebook_sizes=[4,8]"],
    "tokenizer=residual_kmeans": ["tokenizer.codebook_sizes=[5,10]"],
}


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    size = ["source.num_users=100", "source.num_items=80", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    return folder


@pytest.mark.parametrize("words", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_tables_and_their_codebooks(road: Path, tmp_path: Path, words: list[str]) -> None:
    where = [f"dataset={road}/d", f"tokenizer.embeddings={road}/e", "figures=false"]
    found = works("tokenize", *where, f"output={tmp_path}/s", *words)
    artifact, ids = load_semantic_ids(tmp_path / "s", load_artifact(road / "d"))
    sizes = json.loads(next(word for word in words if "codebook_sizes" in word).split("=")[1])
    assert found["codebook_sizes"][:-1] == list(ids.codebook_sizes[:-1]) == sizes
    unexplained = [level["unexplained"] for level in load_health(artifact)["levels"]]
    assert unexplained[-1] < min(0.6, unexplained[0])
    _, vectors = load_embeddings(road / "e", load_artifact(road / "d"))
    np.testing.assert_array_equal(load_quantiser(artifact).encode(vectors), ids.codes[:, :-1])
    again = works("tokenize", *where, f"output={tmp_path}/again", *words)
    assert again["table"] == found["table"]
    other = works("tokenize", *where, f"output={tmp_path}/other", *words, "tokenizer.seed=5")
    assert other["table"] != found["table"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=name, marks=() if name == "product" else pytest.mark.slow)
        for name, words in TOKENIZERS.items()
    ],
)
def test_every_tokenizer_reassigns(road: Path, tmp_path: Path, words: list[str]) -> None:
    where = [f"dataset={road}/d", f"tokenizer.embeddings={road}/e", "gates.max_collision_rate=1"]
    before = works("tokenize", *where, f"output={tmp_path}/a", *words, *COARSE[words[0]])
    policy = ["tokenizer.collisions=reassign_or_suffix", "tokenizer.max_added_distortion=2"]
    after = works("tokenize", *where, f"output={tmp_path}/b", *words, *COARSE[words[0]], *policy)
    assert after["collisions"]["num_moved"] > 0
    assert after["table"] != before["table"]
    artifact, ids = load_semantic_ids(tmp_path / "b")
    assert len(np.unique(ids.codes, axis=0)) == 80
    moves = load_health(artifact)["moves"]
    assert moves["total"] == after["collisions"]["num_moved"]
    assert moves["costliest"][0]["cost"] <= 2 * moves["mean_squared_error"]


def test_what_does_not_fit_is_one_line(road: Path, tmp_path: Path) -> None:
    where = ["tokenize", f"dataset={road}/d", f"tokenizer.embeddings={road}/e", f"output={tmp_path}/s"]
    line = fails(*where, "tokenizer=faiss_residual", "tokenizer.codebook_sizes=[12,8]", code=2)
    assert "power of two" in line
    assert "tokenizer=residual_kmeans" in line
    line = fails(*where, "tokenizer=product", "tokenizer.codebook_sizes=[16,8]", code=2)
    assert "levels of equal size" in line
    line = fails(*where, "tokenizer=product", "tokenizer.codebook_sizes=[256,256]", code=3)
    assert "at least 256 different ones" in line
    line = fails(*where, "tokenizer=product", "tokenizer.beam_width=3", code=2)
    assert "beam_width" in line
    assert not (tmp_path / "s").exists()
