"""RQ-VAE through the command line: what is written, what later items get, and how it ends where it cannot go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import RUNNER, works

from genrec.artifacts import load_artifact
from genrec.cli import app
from genrec.config import training
from genrec.pipeline.quantisers import load_quantiser
from genrec.pipeline.stages import collaborative_of
from genrec.semantic_ids.table import load_codebooks, load_health, load_semantic_ids, table_identity

NUM_ITEMS = 90


def fails(*words: str, code: int) -> str:
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == code, result.output + repr(result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset d and embeddings e."""
    folder = tmp_path_factory.mktemp("rqvae")
    size = ["source.num_users=150", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    return folder


def words(folder: Path, output: Path, *more: str) -> list[str]:
    small = ["tokenizer.codebook_sizes=[12,8]", "tokenizer.hidden=[24]", "tokenizer.latent_width=8"]
    short = [
        "tokenizer.epochs=5",
        "tokenizer.pretrain_epochs=1",
        "tokenizer.batch_size=32",
        "tokenizer.accelerator=cpu",
    ]
    gates = ["gates.max_collision_rate=1", "gates.max_dead_share=1", "gates.min_perplexity_share=0", "figures=false"]
    tokenizer = ["tokenizer=rqvae", f"tokenizer.embeddings={folder}/e", *small, *short, *gates]
    return ["tokenize", f"dataset={folder}/d", f"output={output}", *tokenizer, *more]


def test_tables_hold_what_later_items_need_and_the_curves(folder: Path, tmp_path: Path) -> None:
    found = works(*words(folder, tmp_path / "s", "figures=true"))
    assert found["codebook_sizes"][:2] == [12, 8]
    artifact, ids = load_semantic_ids(tmp_path / "s")
    assert {"figures/training.svg", "figures/training.csv"} <= artifact.files.keys()
    health = load_health(artifact)
    assert [record["epoch"] for record in health["training"]] == [1, 2, 3, 4, 5]
    assert {"loss", "reconstruction", "codebook", "commitment", "collision_rate", "levels"} <= set(
        health["training"][1]
    )
    assert health["tokenizer"]["name"] == "rqvae"
    assert [level["unexplained"] is not None for level in health["levels"]] == [True, True]
    vectors = np.load(folder / "e" / "vectors.npy")
    np.testing.assert_array_equal(load_quantiser(artifact).encode(vectors), ids.codes[:, :2])
    weights = load_codebooks(artifact)
    assert weights["codebook.0"].shape == (12, 8)
    assert weights["encoder.0.weight"].shape == (24, 16)
    weights["encoder.0.weight"] = weights["encoder.0.weight"] + 1
    assert table_identity(weights, ids.codebook_sizes, ids.collisions) != ids.identity, "the encoder is part of it"


def test_the_same_seed_gives_the_same_table(folder: Path, tmp_path: Path) -> None:
    tables = {
        name: works(*words(folder, tmp_path / name, *more))["table"]
        for name, more in {
            "a": (),
            "b": (),
            "c": ("tokenizer.seed=1",),
            "d": ("tokenizer.codebook_update=gradient",),
            "e": ("tokenizer.distance=cosine",),
        }.items()
    }
    assert tables["a"] == tables["b"]
    assert len(set(tables.values())) == 4


def test_collaborative_vectors_are_a_parent_that_encoding_does_not_need(folder: Path, tmp_path: Path) -> None:
    works("embed", "embedding=cooccurrence", "embedding.dimensions=6", f"dataset={folder}/d", f"output={tmp_path}/c")
    aligned = [f"tokenizer.collaborative={tmp_path}/c", "tokenizer.alignment_weight=1"]
    found = works(*words(folder, tmp_path / "s", *aligned))
    artifact, ids = load_semantic_ids(tmp_path / "s")
    assert artifact.parents.keys() == {"dataset", "embeddings", "collaborative"}
    assert artifact.parents["collaborative"] == load_artifact(tmp_path / "c").identity
    section = training.RqVaeTokenizer(embeddings=folder / "e", collaborative=tmp_path / "c")
    config = training.TokenizeConfig(dataset=folder / "d", output=tmp_path / "s", tokenizer=section)
    assert collaborative_of(config) == {"collaborative": artifact.parents["collaborative"]}, (
        "a recipe runs again with another"
    )
    assert all(record["alignment"] > 0 for record in load_health(artifact)["training"][1:])
    assert found["table"] != works(*words(folder, tmp_path / "without"))["table"]
    shutil.rmtree(tmp_path / "c")
    vectors = np.load(folder / "e" / "vectors.npy")
    np.testing.assert_array_equal(load_quantiser(artifact).encode(vectors), ids.codes[:, :2])


def test_collaborative_vectors_of_another_dataset_are_refused(folder: Path, tmp_path: Path) -> None:
    works("prepare", "synthetic", "source.num_users=60", "source.seed=9", f"output={tmp_path}/d")
    works("embed", "embedding=cooccurrence", "embedding.dimensions=6", f"dataset={tmp_path}/d", f"output={tmp_path}/c")
    error = fails(*words(folder, tmp_path / "s", f"tokenizer.collaborative={tmp_path}/c"), code=5)
    assert "another 'dataset'" in error
    error = fails(*words(folder, tmp_path / "s", f"tokenizer.collaborative={folder}/d"), code=3)
    assert "embeddings" in error
    weightless = [f"tokenizer.collaborative={folder}/e", "tokenizer.alignment_weight=0"]
    assert "alignment of weight 0" in fails(*words(folder, tmp_path / "s", *weightless), code=2)
    assert "codebook_update=gradient" in fails(
        *words(folder, tmp_path / "s", "tokenizer.diversity_weight=1e-4"), code=2
    )
    assert not (tmp_path / "s").exists()


def test_it_ends_with_the_code_of_what_went_wrong(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "s"
    assert "tokenizer.codebook_sizes" in fails(*words(folder, output, "tokenizer.codebook_sizes=[400,8]"), code=3)
    assert "loss" in fails(*words(folder, output, "tokenizer.learning_rate=1e20"), code=4)
    assert "collision rate" in fails(*words(folder, output, "gates.max_collision_rate=0"), code=4)
    assert "sinkhorn" in fails(*words(folder, output, "tokenizer.sinkhorn=first"), code=2)
    assert "ema_decay" in fails(*words(folder, output, "tokenizer.ema_decay=1"), code=2)
    assert "learning_rate" in fails(*words(folder, output, "tokenizer.learning_rate=0"), code=2)
    assert not output.exists()
