"""Training that starts from a recommender of earlier days, through the command line; and what must be refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_line import RUNNER, fails, works
from safetensors.numpy import load_file

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.cli import app
from genrec.data.dataset import Dataset
from genrec.data.synthetic import PlantedCatalogue
from genrec.semantic_ids.table import load_semantic_ids

MODEL = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2", "model.history_length=8"]
SHORT = ["stopping.max_cases=100", "optimizer.batch_size=16", "accelerator=cpu"]
METRIC = "recall@10"
NEW_ITEMS = range(3, 80, 9)  # of the later days only; their ids lie between the others'


def write_days(folder: Path) -> None:
    """LETTER files of a planted catalogue: ``early``, ``late`` (all days), and the codes of all items."""
    catalogue = PlantedCatalogue.create(num_items=80, num_categories=4)
    users, items, times = catalogue.sample(200, 6, 14)
    names = catalogue.items["item_id"].to_list()
    cut = np.quantile(times, 0.7)
    is_out = (times > cut) | ~np.isin(items, NEW_ITEMS)  # nobody meets a new item before the cut
    folder.mkdir()
    for name, shown in {"early": is_out & (times <= cut), "late": is_out}.items():
        histories: dict[str, list[str]] = {}
        for user, item in zip(users[shown].tolist(), items[shown].tolist(), strict=True):
            histories.setdefault(f"u{user:03d}", []).append(names[item])
        kept = {user: history for user, history in histories.items() if len(history) >= 3}
        (folder / f"{name}.inter.json").write_text(json.dumps(kept))
    codes, ranks = {}, Counter[int]()
    for item, subcategory in sorted(enumerate(catalogue.subcategory.tolist()), key=lambda pair: pair[0] in NEW_ITEMS):
        rank = ranks[subcategory]
        ranks[subcategory] += 1
        codes[names[item]] = [f"<a_{subcategory}>", f"<b_{rank // 2}>", f"<c_{rank % 2}>"]
    codes[names[NEW_ITEMS[-1]]][1] = "<b_9>"  # a code that the early days do not have
    (folder / "codes.json").write_text(json.dumps(codes))


def make(raw: Path, folder: Path, name: str, codes: str = "codes.json") -> None:
    """Dataset and semantic IDs."""
    source = ["source=letter", f"source.interactions={name}.inter.json", f"source.codes={codes}", "order.by=file"]
    no_core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0"]
    works("prepare", *source, *no_core, f"raw_dir={raw}", f"output={folder}/{name}")
    tokenize = ["tokenizer=imported", "gates.max_collision_rate=1", "gates.max_dead_share=1", "figures=false"]
    works("tokenize", *tokenize, f"dataset={folder}/{name}", f"output={folder}/{name}_ids")


def train(folder: Path, name: str, run: Path, epochs: int, *more: str) -> list[str]:
    words = [f"dataset={folder}/{name}", f"semantic_ids={folder}/{name}_ids", f"run={run}"]
    return ["train", *words, *MODEL, *SHORT, f"stopping.max_epochs={epochs}", *more]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm")
    write_days(folder / "raw")
    for name in ("early", "late"):
        make(folder / "raw", folder, name)
    works(*train(folder, "early", folder / "run", 10, "optimizer.learning_rate=0.01"))
    return folder


@pytest.fixture
def warm(road: Path) -> str:
    return f"initial={road}/run/recommender"


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "recommender" / "weights.safetensors")


def equal(left: Path, right: Path) -> bool:
    before, after = weights(left), weights(right)
    return before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def test_it_starts_better_than_a_cold_start_and_says_what_it_took_over(road: Path, warm: str, tmp_path: Path) -> None:
    found = works(*train(road, "late", tmp_path / "warm", 1, warm))
    works(*train(road, "late", tmp_path / "cold", 1))
    first, last = metrics(tmp_path / "warm")
    (cold,) = metrics(tmp_path / "cold")
    assert first["step"] == 0
    assert first[METRIC] > 1.5 * cold[METRIC]
    assert found[METRIC] == max(first[METRIC], last[METRIC])
    early, late = (set(Dataset.load(road / name).item_ids) for name in ("early", "late"))
    assert len(late - early) >= 5
    told = found["initial"]
    assert told["items"] == {"shared": len(early & late), "new": len(late - early), "gone": len(early - late)}
    assert told["items"]["gone"] == told["num_leaked"] == 0
    assert told[METRIC] == first[METRIC]
    assert told["settings"] == {}
    before, after = (node_rows(weights(run)) for run in (road / "run", tmp_path / "warm"))
    assert told["nodes"]["new"] == len(after.keys() - before.keys()) > 0
    assert told["nodes"]["shared"] == len(before)
    manifest = json.loads((tmp_path / "warm" / "recommender" / "manifest.json").read_text())
    expected = json.loads((road / "run" / "recommender" / "manifest.json").read_text())["identity"]
    assert set(manifest["parents"]) == {"dataset", "semantic_ids", "initial"}
    assert manifest["parents"]["initial"]["identity"] == told["identity"] == expected
    log = (tmp_path / "warm" / "log.txt").read_text()
    assert f"{len(early)} items known, {len(late - early)} new, 0 gone" in log
    shown = RUNNER.invoke(app, [*train(road, "late", tmp_path / "warm", 1, warm), "--resume"]).stdout
    assert "note: starts from" in shown
    evaluate = [f"dataset={road}/late", f"recommenders.warm={tmp_path}/warm/recommender", "models=[popularity]"]
    rows = works("evaluate", *evaluate, f"output={tmp_path}/table", "num_resamples=100")["rows"]
    assert {row["model"] for row in rows} == {"popularity", "warm"}


def node_rows(state: dict[str, np.ndarray]) -> dict[tuple[int, ...], np.ndarray]:
    """Vectors of nodes by their prefixes; 0 where a node does not count."""
    inner, found = "decoder.node_embeddings.", {}
    for name in state:
        if name.startswith(inner + "prefixes_"):
            level = name.rpartition("_")[2]
            rows = state[f"{inner}rows.{level}"] * state[f"{inner}is_trained_{level}"][:, None]
            found |= dict(zip(map(tuple, state[name].tolist()), rows, strict=True))
    return found


@pytest.mark.slow
def test_without_learning_every_row_of_what_is_shared_stays(road: Path, warm: str, tmp_path: Path) -> None:
    """Items by the users' ids, nodes by prefixes, codes by codes; new ones begin to count with a small start."""
    works(*train(road, "late", tmp_path / "run", 1, warm, "optimizer.learning_rate=0"))
    first, last = metrics(tmp_path / "run")
    assert first[METRIC] == last[METRIC]
    before, after = weights(road / "run"), weights(tmp_path / "run")
    sizes = [load_semantic_ids(road / f"{name}_ids")[1].codebook_sizes for name in ("early", "late")]
    assert sizes[0][1] < sizes[1][1] == 10
    datasets = [Dataset.load(road / name) for name in ("early", "late")]
    places = [dict(zip(dataset.item_ids, range(dataset.num_items), strict=True)) for dataset in datasets]
    vectors = {name: before["item_embeddings"][row] for name, row in places[0].items()}
    moved = {name: before["transition_embeddings"][row] for name, row in places[0].items()}
    assert any(vector.any() for vector in moved.values())
    shown = {
        name for history in datasets[1].train().to_lists() for name in map(datasets[1].item_ids.item, history[:-1])
    }
    for name, row in places[1].items():
        assert np.array_equal(after["transition_embeddings"][row], moved.get(name, np.zeros(16)))
        if name in vectors and before["item_is_trained"][places[0][name]]:
            assert np.array_equal(after["item_embeddings"][row], vectors[name])
        else:
            assert bool(after["item_is_trained"][row]) == (name in shown)
            assert np.abs(after["item_embeddings"][row]).max() < 0.1
    old, new = node_rows(before), node_rows(after)
    assert sum(vector.any() for vector in new.values()) > sum(vector.any() for vector in old.values())
    for prefix, vector in old.items():
        assert np.array_equal(new[prefix], vector) or not vector.any()
    for name, table in before.items():
        if "node_embeddings" not in name and not name.startswith(("item_", "transition_embeddings")):
            assert np.array_equal(after[name][: len(table)] if table.ndim else after[name], table)


@pytest.mark.slow
def test_a_memory_is_made_anew_of_the_newer_data(road: Path, tmp_path: Path) -> None:
    """With what it has learnt to make of it; without one there is nothing to start it from."""
    memory = ["model.memory.followers=6", "optimizer.learning_rate=0.01"]
    works(*train(road, "early", tmp_path / "early", 1, *memory))
    warm = f"initial={tmp_path}/early/recommender"
    new = ["model.memory.followers=5", "model.memory.decay=0.9", "optimizer.learning_rate=0"]
    found = works(*train(road, "late", tmp_path / "late", 1, warm, *new))
    assert found["initial"]["settings"] == {"memory.followers": [6, 5], "memory.decay": [0.7, 0.9]}
    before, after = weights(tmp_path / "early"), weights(tmp_path / "late")
    for name in ("memory.gain", "memory.log_floor"):
        assert np.array_equal(before[name], after[name])
        assert np.ptp(after[name]) > 0
    dataset = Dataset.load(road / "late")
    knn = DirectedItemKnn(decay=0.9).fit(dataset.train(), num_items=dataset.num_items)
    expected = np.sort(knn.similarity_.toarray(), axis=1)[:, :-6:-1]
    np.testing.assert_allclose(after["memory.weights"], expected, rtol=1e-6)
    counts = Counter(item for history in dataset.train().to_lists() for item in history)
    expected = [max(1, counts[item]) ** -0.75 for item in range(dataset.num_items)]
    np.testing.assert_allclose(after["memory.source_scale"], expected, rtol=1e-6)
    line = fails(*train(road, "late", tmp_path / "x", 1, warm), code=2)
    assert "key 'model.memory.followers' is not that of the initial recommender (expected 6, found 0)" in line
    line = fails(*train(road, "late", tmp_path / "x", 1, f"initial={road}/run/recommender", *memory), code=2)
    assert "set model.memory.followers=0" in line


def test_the_configuration_of_the_older_run_can_be_given_first(road: Path, warm: str, tmp_path: Path) -> None:
    words = [f"dataset={road}/late", f"semantic_ids={road}/late_ids", f"run={tmp_path}/run", warm]
    words += ["stopping.max_epochs=1", "model.dropout_input=0.1", "model.attention=sdpa"]
    line = fails("train", *words, code=2)
    assert "key 'model.history_length'" not in line
    assert "key 'model.width' is not that of the initial recommender, nor are num_heads, hidden, depth_hidden" in line
    assert (
        "(expected 16, found 128); set model.width=16 model.num_heads=2 model.hidden=32 model.depth_hidden=16" in line
    )
    found = works("train", f"{road}/run/config.yaml", *words)
    assert found["initial"]["settings"] == {"attention": ["softmax", "sdpa"], "dropout_input": [0.3, 0.1]}
    assert found["configuration"]["model"]["width"] == 16


def test_a_dry_run_shows_what_would_be_taken_over(road: Path, warm: str, tmp_path: Path) -> None:
    plan = works(*train(road, "late", tmp_path / "run", 1, warm, "model.dropout_input=0.2"), "--dry-run")
    assert plan["configuration"]["initial"] == warm.removeprefix("initial=")
    assert any(" items known, " in line and "; " in line and " nodes known, " in line for line in plan["expected_cost"])
    assert "model.dropout_input was 0.3 there and is 0.2" in plan["expected_cost"]
    assert not (tmp_path / "run").exists()
    assert "model.width=16" in fails(
        *train(road, "late", tmp_path / "run", 1, warm, "model.width=32"), "--dry-run", code=2
    )


@pytest.mark.slow
def test_killed_training_goes_on_bit_equal_and_with_the_same_start_only(road: Path, warm: str, tmp_path: Path) -> None:
    works(*train(road, "late", tmp_path / "whole", 4, warm))
    run, words = tmp_path / "run", train(road, "late", tmp_path / "run", 4, warm)
    process = subprocess.Popen([sys.executable, "-m", "genrec", *words], stderr=subprocess.PIPE, env=dict(os.environ))
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "checkpoints" / "last.pt").is_file() and len(metrics(run)) >= 2:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    line = fails(*train(road, "late", run, 4), "--resume", code=5)
    assert "cannot resume with another input" in line
    other = f"initial={tmp_path}/whole/recommender"
    assert "cannot resume with another input" in fails(*train(road, "late", run, 4, other), "--resume", code=5)
    shutil.copytree(road / "run", tmp_path / "moved")
    works(*train(road, "late", run, 4, f"initial={tmp_path}/moved/recommender"), "--resume")
    assert equal(run, tmp_path / "whole")
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(tmp_path / "whole")]


def test_ids_that_moved_and_other_catalogues_are_refused(road: Path, warm: str, tmp_path: Path) -> None:
    raw, codes = road / "raw", json.loads((road / "raw" / "codes.json").read_text())
    dataset = Dataset.load(road / "early")
    first, second = dataset.item_ids[4], dataset.item_ids[20]
    moved = codes | {first: codes[second], second: codes[first]}
    (raw / "moved.json").write_text(json.dumps(moved))
    make(raw, tmp_path / "m", "late", "moved.json")
    line = fails(*train(tmp_path / "m", "late", tmp_path / "run", 1, warm), code=5)
    assert f"2 of {dataset.num_items} shared items have other semantic IDs" in line
    numbers = [[int(token[3:-1]) for token in codes[name]] for name in (first, second)]
    assert f"(expected for instance {numbers[0]} for item {first!r}, found {numbers[1]})" in line
    assert "keep the published semantic IDs (tokenizer=imported)" in line
    (raw / "deep.json").write_text(json.dumps({name: [*tokens, "<d_0>"] for name, tokens in codes.items()}))
    make(raw, tmp_path / "d", "late", "deep.json")
    assert "another number of levels" in fails(*train(tmp_path / "d", "late", tmp_path / "run", 1, warm), code=5)
    renamed = {f"x{name}": tokens for name, tokens in codes.items()}
    (raw / "renamed.json").write_text(json.dumps(renamed))
    events = json.loads((raw / "late.inter.json").read_text())
    (raw / "other.inter.json").write_text(json.dumps({user: [f"x{item}" for item in events[user]] for user in events}))
    make(raw, tmp_path / "o", "other", "renamed.json")
    line = fails(*train(tmp_path / "o", "other", tmp_path / "run", 1, warm), code=5)
    assert "no item of the initial recommender" in line
    assert not (tmp_path / "run").exists()


def test_what_is_missing_or_replaced_is_named(road: Path, tmp_path: Path) -> None:
    line = fails(*train(road, "late", tmp_path / "run", 1, f"initial={tmp_path}/none"), code=3)
    assert f"{tmp_path}/none: no such artifact" in line
    assert "wrong kind" in fails(*train(road, "late", tmp_path / "run", 1, f"initial={road}/early"), code=3)
    folder = tmp_path / "daily"
    make(road / "raw", folder, "early")
    works(*train(folder, "early", tmp_path / "old", 1))
    initial = f"initial={tmp_path}/old/recommender"
    shutil.rmtree(folder / "early")
    line = fails(*train(road, "late", tmp_path / "run", 1, initial), code=3)
    assert f"cannot read what the initial recommender was trained on: {folder}/early: no such artifact" in line
    shutil.copytree(road / "late", folder / "early")  # as if every day were prepared into one folder
    line = fails(*train(road, "late", tmp_path / "run", 1, initial), code=5)
    assert "was made from another 'dataset'" in line


@pytest.mark.slow
def test_a_recommender_that_has_seen_what_is_held_out_is_told(road: Path, tmp_path: Path) -> None:
    """From all days back to the early ones: items are gone, and events held out there were trained on."""
    works(*train(road, "late", tmp_path / "late", 1))
    result = RUNNER.invoke(
        app, [*train(road, "early", tmp_path / "run", 1, f"initial={tmp_path}/late/recommender"), "--json"]
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["initial"]
    early, late = (Dataset.load(road / name) for name in ("early", "late"))
    trained = Counter(events(late, late.train().to_lists()))
    kept = Counter(events(early, early.train().to_lists()))
    held_out = Counter(events(early, early.histories().to_lists())) - kept
    expected = sum(min(count, max(0, trained[event] - kept[event])) for event, count in held_out.items())
    assert told["num_leaked"] == expected > 0
    assert f"{expected} held-out events were training events of the initial recommender" in result.stderr
    assert told["items"]["gone"] == late.num_items - early.num_items > 0
    assert told["items"]["new"] == told["nodes"]["new"] == 0


def events(dataset: Dataset, histories: list[list[int]]) -> list[tuple[str, str]]:
    return [(dataset.user_ids[u], dataset.item_ids[i]) for u, history in enumerate(histories) for i in history]
