"""A cell of the ledger from raw files to its verdict: seeds, intervals, re-use, the gate, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import RUNNER, fails, works

from genrec.artifacts import check_parent, load_artifact
from genrec.cli import app
from genrec.evaluation.verdict import seed_interval
from genrec.files import read_json

SIZES = {"num_users": 120, "num_items": 80, "num_categories": 4}
MODEL = {"width": 16, "hidden": 32, "depth_hidden": 16, "num_heads": 2}
CELL: dict[str, Any] = {
    "cell": "tiny",
    "claim": {
        "source": "planted by this test",
        "trust": "measured",
        "model": "a very small hierarchical recommender",
        "protocol": "leave-one-out",
        "published": {"none": {"recall@10": 0.5}, "seen": {"recall@10": 0.5}},
        "tolerance": {"recall@10": 0.5},
        "tolerance_reason": "anything is reproduced",
        "cost": "CPU: seconds",
    },
    "prepare": {"source": {"name": "synthetic", **SIZES}},
    "embed": {"embedding": {"name": "tfidf", "dimensions": 16}},
    "tokenize": {"tokenizer": {"name": "residual_kmeans", "codebook_sizes": [12, 12, 12]}, "figures": False},
    "train": {"model": MODEL, "stopping": {"max_epochs": 2}, "accelerator": "cpu"},
    "evaluate": {"num_resamples": 100, "num_permutations": 100, "cutoffs": [10], "search": {"beam_width": 20}},
}
SHARED = ["prepare", "embed", "tokenize"]


def write_cell(path: Path, **claim: Any) -> Path:
    path.write_text(yaml.safe_dump({**CELL, "claim": {**CELL["claim"], **claim}}), encoding="utf-8")
    return path


def planted(value: float, tolerance: float) -> dict[str, Any]:
    return {"published": {"none": {"recall@10": value}}, "tolerance": {"recall@10": tolerance}}


def run(folder: Path, *words: str, cell: str = "tiny") -> dict[str, Any]:
    return works("reproduce", f"{folder}/{cell}.yaml", f"output={folder}/out", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the cell and its run of two seeds, and what the command said."""
    folder = tmp_path_factory.mktemp("reproduce")
    write_cell(folder / "tiny.yaml")
    return folder, run(folder, "seeds=[0,1]")


def test_every_seed_has_a_number_and_together_they_have_an_interval(made: tuple[Path, dict[str, Any]]) -> None:
    folder, found = made
    assert (found["verdict"], found["is_settled"], found["seeds"], found["reused"]) == ("reproduced", True, [0, 1], [])
    number, masked = found["numbers"]
    assert (number["mask"], masked["mask"]) == ("none", "seen")
    values = list(number["by_evaluation"].values())
    assert values[0] != values[1]
    assert number["mean"] == pytest.approx(sum(values) / 2)
    assert (number["low"], number["high"]) == pytest.approx(seed_interval(values))
    for seed in (0, 1):
        report = load_artifact(folder / "out" / f"seed_{seed}" / "evaluation").file("report.json")
        means = {row["mask"]: row["metrics"]["recall@10"]["mean"] for row in read_json(report)["rows"]}
        assert {row["mask"]: row["by_evaluation"][f"evaluation of seed {seed}"] for row in found["numbers"]} == means


def test_the_verdict_is_an_artifact_that_names_its_evaluations(made: tuple[Path, dict[str, Any]]) -> None:
    folder, first = made
    found = run(folder, "seeds=[0,1]")
    assert found["reused"] == [
        *SHARED,
        *(f"seed {seed}: {stage}" for seed in (0, 1) for stage in ("train", "evaluate")),
    ]
    artifact = load_artifact(folder / "out" / "reproduction", kind="reproduction")
    written = read_json(artifact.file("reproduction.json"))
    assert written["numbers"] == found["numbers"] == first["numbers"]
    assert written["claim"]["source"] == "planted by this test"
    assert written["configuration"]["train"]["model"]["width"] == 16
    check_parent(artifact, "dataset", load_artifact(folder / "out" / "dataset"))
    for seed in (0, 1):
        check_parent(
            artifact, f"evaluation of seed {seed}", load_artifact(folder / "out" / f"seed_{seed}" / "evaluation")
        )


def test_a_seed_is_what_train_and_evaluate_make_of_it(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, found = made
    data = [f"dataset={folder}/out/dataset"]
    words = [f"model.{name}={value}" for name, value in MODEL.items()]
    ids = f"semantic_ids={folder}/out/semantic_ids"
    works("train", *data, ids, f"run={tmp_path}/r", *words, "stopping.max_epochs=2", "accelerator=cpu", "seed=1")
    table = works(
        *("evaluate", *data, f"recommenders.it={tmp_path}/r/recommender", "models=[]", f"output={tmp_path}/e"),
        *("cutoffs=[10]", "search.beam_width=20", "num_resamples=100"),
    )
    expected = {row["mask"]: row["metrics"]["recall@10"]["mean"] for row in table["rows"]}
    assert {row["mask"]: row["by_evaluation"]["evaluation of seed 1"] for row in found["numbers"]} == expected


def test_one_seed_has_an_interval_over_cases_and_each_claim_its_verdict(made: tuple[Path, dict[str, Any]]) -> None:
    folder, first = made
    value = first["numbers"][0]["by_evaluation"]["evaluation of seed 1"]
    again = [*SHARED, "seed 1: train", "seed 1: evaluate"]
    for published, expected in ((value, "reproduced"), (value - 0.2, "above"), (value + 0.2, "below")):
        write_cell(folder / "claim.yaml", **planted(published, 1e-6))
        found = run(folder, "seeds=[1]", cell="claim")
        assert (found["verdict"], found["reused"]) == (expected, again)
        (number,) = found["numbers"]
        assert (number["interval"], number["mean"]) == ("over cases", value)
        assert number["low"] < value < number["high"]
        assert not found["is_settled"] or expected != "reproduced"


def test_a_run_that_was_cut_off_goes_on(made: tuple[Path, dict[str, Any]]) -> None:
    folder, first = made
    own = folder / "out" / "seed_1"
    record = read_json(own / "recipe.json")
    del record["train"], record["evaluate"]  # as if the process had been killed in the second training
    (own / "recipe.json").write_text(json.dumps(record))
    shutil.rmtree(own / "evaluation")
    found = run(folder, "seeds=[0,1]")
    assert found["reused"] == [*SHARED, "seed 0: train", "seed 0: evaluate"]
    assert read_json(own / "train" / "status.json")["num_resumed"] == 1
    assert found["numbers"] == first["numbers"]


def test_a_check_that_fails_is_a_gate_and_leaves_the_verdict(made: tuple[Path, dict[str, Any]]) -> None:
    folder, first = made
    file = write_cell(folder / "wrong.yaml", **planted(first["numbers"][0]["mean"] + 0.3, 0.01))
    shown = RUNNER.invoke(app, ["reproduce", str(file), f"output={folder}/out", "seeds=[0,1]", "check=true"])
    assert shown.exit_code == 4, shown.output
    assert "tiny: below" in shown.stdout
    assert "the cell 'tiny' is below" in shown.stderr
    assert load_artifact(folder / "out" / "reproduction").facts["verdict"] == "below"
    assert run(folder, "seeds=[0,1]", cell="wrong")["verdict"] == "below"  # no defect: a training may fall short


def baseline(path: Path, data: dict[str, Any], **claim: Any) -> Path:
    cell = {key: value for key, value in CELL.items() if key not in ("embed", "tokenize", "train")}
    cell = {**cell, "claim": {**CELL["claim"], **claim}, "prepare": data}
    cell["evaluate"] = {**CELL["evaluate"], "models": ["markov"]}
    path.write_text(yaml.safe_dump(cell), encoding="utf-8")
    return path


def test_nothing_trained_is_a_check_by_itself(tmp_path: Path) -> None:
    data = {"source": {"name": "synthetic", **SIZES}}
    works(
        "prepare",
        "synthetic",
        *(f"source.{name}={value}" for name, value in SIZES.items()),
        f"output={tmp_path}/d",
        "filter.min_user_interactions=5",
        "filter.min_item_interactions=5",
        "overwrite=true",
    )
    table = works("evaluate", f"dataset={tmp_path}/d", "models=[markov]", f"output={tmp_path}/e", "num_resamples=100")
    value = next(row["metrics"]["recall@10"]["mean"] for row in table["rows"] if row["mask"] == "none")
    file = baseline(tmp_path / "right.yaml", data, **planted(value, 0.0))
    found = works("reproduce", str(file), f"output={tmp_path}/out")
    assert (found["verdict"], found["is_settled"], found["seeds"]) == ("reproduced", True, [])
    file = baseline(tmp_path / "wrong.yaml", data, **planted(value + 0.01, 0.0))
    shown = RUNNER.invoke(app, ["reproduce", str(file), f"output={tmp_path}/out"])
    assert shown.exit_code == 4
    assert "check=false" in shown.stderr
    assert works("reproduce", str(file), f"output={tmp_path}/out", "check=false")["verdict"] == "below"


def test_the_ledger_is_shown_and_slips_are_caught(tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["reproduce"])
    assert shown.exit_code == 0
    assert "apao-office-t5-pairwise" in shown.stdout
    assert "R@10 .0671 ±.0048" in shown.stdout
    cells = works("reproduce")["cells"]
    assert cells["item-knn-office"]["published"]["seen"] == {"recall@10": 0.1021, "ndcg@10": 0.0615}
    assert "did you mean 'apao-office-t5-ce'?" in fails("reproduce", "apao-ofice-t5-ce", code=2)
    assert "try genrec reproduce tiger-beauty" in fails("reproduce", "cell=tiger_beauty", code=2)
    slip = fails("reproduce", "sasrec-office", "train.optimiser=x", code=2)
    assert "section 'train': unknown key 'optimiser'; did you mean 'optimizer'?" in slip
    missing = fails("reproduce", "item-knn-office", f"raw_dir={tmp_path}/nowhere", f"output={tmp_path}/out", code=3)
    assert "set raw_dir=" in missing
    assert not (tmp_path / "out").exists()
    plan = works("reproduce", "apao-office-t5-ce", f"raw_dir={tmp_path}/nowhere", "--dry-run")["expected_cost"]
    assert plan[-1] == "GPU (one CPU core: a day a seed), 3 times"


def test_the_bar_of_office_is_reproduced(data_root: Path, tmp_path: Path) -> None:
    found = works("reproduce", "item-knn-office", f"raw_dir={data_root}/apao_office", f"output={tmp_path}/out")
    assert (found["verdict"], found["changes"]) == ("reproduced", [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["popularity-{}", "markov-{}", "item-knn-{}", "item-knn-{}-validation"])
@pytest.mark.parametrize(("data", "folder"), [("office", "apao_office"), ("beauty", "amazon2014_beauty")])
def test_every_baseline_is_reproduced(kind: str, data: str, folder: str, data_root: Path, tmp_path: Path) -> None:
    found = works("reproduce", kind.format(data), f"raw_dir={data_root / folder}", f"output={tmp_path}/out")
    assert (found["verdict"], found["changes"]) == ("reproduced", [])
