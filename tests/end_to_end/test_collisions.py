"""Collision policies through the command line: what is written, what is shown, and what happens without room."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import RUNNER, fails, works

from genrec.artifacts import load_artifact
from genrec.cli import app
from genrec.quantization.residual_kmeans import ResidualKMeans
from genrec.semantic_ids.table import load_codebooks, load_health, load_semantic_ids

NUM_ITEMS = 90
GATES = ["gates.max_collision_rate=1", "gates.max_dead_share=1", "gates.min_perplexity_share=0", "figures=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset d, and embeddings e with items close together, two of them equal."""
    folder = tmp_path_factory.mktemp("collisions")
    size = ["source.num_users=150", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    vectors = np.random.default_rng(5).standard_normal((NUM_ITEMS, 4)).astype(np.float32)
    vectors[70] = vectors[20]
    np.save(folder / "vectors.npy", vectors)
    where = ["embedding=precomputed", f"embedding.path={folder}/vectors.npy"]
    works("embed", f"dataset={folder}/d", f"output={folder}/e", *where)
    return folder


def words(folder: Path, output: Path, *more: str, sizes: str = "[5,32]") -> list[str]:
    tokenizer = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e", f"tokenizer.codebook_sizes={sizes}"]
    return ["tokenize", f"dataset={folder}/d", f"output={output}", *tokenizer, *GATES, *more]


def errors(folder: Path, output: Path, codes: np.ndarray) -> tuple[np.ndarray, float]:
    """Squared error of every item at its quantiser codes, and the mean of the fitted set."""
    quantiser = ResidualKMeans.from_state(load_codebooks(load_artifact(output, kind="semantic_ids")))
    vectors = np.load(folder / "vectors.npy")
    rest = np.square(vectors - quantiser.decode(codes), dtype=np.float64).sum(axis=1)
    return rest, float(quantiser.mean_squared_residuals_[-1])


@pytest.fixture(scope="module")
def suffixed(folder: Path) -> tuple[Path, dict[str, Any]]:
    return folder / "suffixed", works(*words(folder, folder / "suffixed"))


def test_suffix_is_the_default_and_keeps_its_reserve(suffixed) -> None:
    output, found = suffixed
    artifact, ids = load_semantic_ids(output)
    health = load_health(artifact)
    report = found["collisions"]
    assert (ids.collisions, ids.num_levels) == ("suffix", 3)
    assert ids.codebook_sizes[-1] == health["collisions"]["largest_bucket"] + 8 == ids.codes[:, -1].max() + 1 + 8
    assert report["num_suffixed"] == report["num_touched"] == (ids.codes[:, -1] > 0).sum() > 0
    assert report["num_moved"] == 0
    assert "moves" not in health
    assert health["tokenizer"]["collisions"] == "suffix"


@pytest.fixture(scope="module")
def reassigned(folder: Path) -> tuple[Path, dict[str, Any]]:
    return folder / "reassigned", works(*words(folder, folder / "reassigned", "tokenizer.collisions=reassign"))


@pytest.fixture(scope="module")
def halfway(reassigned) -> float:
    """A limit that about half the moves keep."""
    moves = load_health(load_artifact(reassigned[0], kind="semantic_ids"))["moves"]
    return float(np.median([move["cost"] for move in moves["costliest"]]) / moves["mean_squared_error"])


def test_reassigned_items_are_told_with_their_costs(folder: Path, suffixed, reassigned) -> None:
    output, found = reassigned
    artifact, ids = load_semantic_ids(output)
    before = load_semantic_ids(suffixed[0])[1].codes[:, :-1]
    distinct = len(np.unique(before, axis=0))
    assert (ids.collisions, ids.codebook_sizes, found["codebook_sizes"]) == ("reassign", (5, 32), [5, 32])
    assert len(np.unique(ids.codes, axis=0)) == NUM_ITEMS
    changed = np.flatnonzero((ids.codes != before).any(axis=1))
    assert len(changed) == NUM_ITEMS - distinct == found["collisions"]["num_moved"] > 2
    assert np.array_equal(ids.codes[:, 0], before[:, 0])
    assert 70 in changed
    assert 20 not in changed or np.square(before[20] - before[70]).sum() == 0
    moves = load_health(artifact)["moves"]
    assert (moves["total"], moves["max_added_distortion"]) == (len(changed), None)
    assert sorted(move["item_index"] for move in moves["costliest"]) == changed.tolist()
    (old, mean), (new, _) = errors(folder, output, before), errors(folder, output, ids.codes)
    for move in moves["costliest"]:
        item = move["item_index"]
        assert (move["old_codes"], move["new_codes"]) == (before[item].tolist(), ids.codes[item].tolist())
        assert move["cost"] == pytest.approx(new[item] - old[item], rel=1e-3, abs=1e-5)
    costs = [move["cost"] for move in moves["costliest"]]
    assert costs == sorted(costs, reverse=True)
    assert found["collisions"]["mean_added"] == pytest.approx(np.mean(costs) / mean)
    assert found["collisions"]["largest_added"] == pytest.approx(costs[0] / mean)
    assert found["table"] != suffixed[1]["table"]
    again = works(*words(folder, output, "tokenizer.collisions=reassign", "overwrite=true"))
    assert again["identity"] == found["identity"]


def test_beyond_the_limit_there_is_a_suffix(folder: Path, halfway: float) -> None:
    tables = {}
    for limit in (0.0, halfway, 1000 * halfway):
        output = folder / f"limit_{limit}"
        policy = ["tokenizer.collisions=reassign_or_suffix", f"tokenizer.max_added_distortion={limit}"]
        found = works(*words(folder, output, *policy, "tokenizer.reserve=3"))
        artifact, ids = load_semantic_ids(output)
        moves = load_health(artifact)["moves"]
        mean = moves["mean_squared_error"]
        assert all(move["cost"] <= limit * mean for move in moves["costliest"])
        assert ids.codebook_sizes[-1] == ids.codes[:, -1].max() + 1 + 3
        assert len(np.unique(ids.codes, axis=0)) == NUM_ITEMS
        report = found["collisions"]
        assert report["num_suffixed"] == (ids.codes[:, -1] > 0).sum() == report["num_touched"] - report["num_moved"]
        assert report["num_moved"] + report["num_suffixed"] == NUM_ITEMS - report["num_buckets"]
        tables[limit] = (found["table"], report["num_moved"])
    identities, moved = zip(*tables.values(), strict=True)
    assert moved[0] == 0 < moved[1] < moved[2]
    assert len(set(identities)) == 3


def test_the_health_table_shows_both(folder: Path, halfway: float) -> None:
    policy = ["tokenizer.collisions=reassign_or_suffix", f"tokenizer.max_added_distortion={halfway}"]
    result = RUNNER.invoke(app, words(folder, folder / "shown", *policy))
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    at = next(at for at, line in enumerate(lines) if line.startswith("moved to free last codes"))
    assert re.search(
        r"items note: adds [0-9.]+ of the mean squared error, [0-9.]+ at most", " ".join(lines[at : at + 2])
    )
    assert any(line.startswith("largest bucket") and line.endswith("note: before items moved") for line in lines)
    assert any(line.startswith("suffixes above 0") for line in lines)
    assert any(line.startswith("suffix codes") for line in lines)


def test_a_full_parent_is_a_data_error_with_a_way_out(folder: Path) -> None:
    output = folder / "full"
    line = fails(*words(folder, output, "tokenizer.collisions=reassign", sizes="[3,20]"), code=3)
    assert "finds no free code under the prefix [" in line
    assert "at most 20 items under a prefix" in line
    assert not output.exists()
    found = works(*words(folder, output, "tokenizer.collisions=reassign_or_suffix", sizes="[3,20]"))
    assert found["collisions"]["num_suffixed"] > 0


@pytest.mark.parametrize("wrong", ["tokenizer.collisions=reasign", "tokenizer.max_added_distortion=-1"])
def test_wrong_settings_are_refused(folder: Path, wrong: str) -> None:
    line = fails(*words(folder, folder / "wrong", wrong), code=2)
    assert wrong.split("=")[0] in line
    assert not (folder / "wrong").exists()


def test_a_recommender_is_trained_on_reassigned_ids(folder: Path, reassigned, tmp_path: Path) -> None:
    model = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2"]
    short = ["stopping.max_epochs=1", "stopping.max_cases=20", "accelerator=cpu", f"run={tmp_path}/run"]
    works("train", f"dataset={folder}/d", f"semantic_ids={reassigned[0]}", *model, *short)
    assert (tmp_path / "run" / "recommender" / "model.json").is_file()
