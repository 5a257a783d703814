"""`genrec frontier` and `genrec diagnose` through the command line: against evaluate and inspect; and refusals."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import RUNNER, fails, works

from genrec.cli import app
from genrec.config.search import DiagnoseConfig
from genrec.data.dataset import Dataset
from genrec.files import read_json
from genrec.pipeline import diagnose as diagnose_module
from genrec.pipeline.diagnose import widest_within
from genrec.pipeline.diagnose_cases import Look
from genrec.pipeline.open_recommender import open_generative

NUM_ITEMS = 80
SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
FAST = ["num_requests=3", "warm_up=0", "num_resamples=100"]
SEARCH = ["k=4", "search.beam_width=6", "num_resamples=100"]


@pytest.fixture(scope="module")
def own(road: Path) -> list[str]:
    return [f"dataset={road}/d", f"recommender={road}/r/recommender"]


@pytest.fixture(scope="module")
def evaluated(road: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The recall of six beams on validation, by cut-off, as the evaluation has it without a mask."""
    words = [f"recommenders.own={road}/r/recommender", "models=[popularity]", "cutoffs=[4,6]", "search.beam_width=6"]
    found = works(
        "evaluate", f"dataset={road}/d", f"output={tmp_path_factory.mktemp('v')}/v", "split=validation", *words
    )
    return next(row["metrics"] for row in found["rows"] if (row["model"], row["mask"]) == ("own", "none"))


@pytest.fixture(scope="module")
def diagnosed(road: Path, own: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = f"output={tmp_path_factory.mktemp('d')}/diagnosis"
    return works("diagnose", *own, output, *SEARCH, f"embeddings={road}/e", "neighbours=[1,3]")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_frontier_finds_what_evaluate_finds(own: list[str], evaluated: dict[str, Any], tmp_path: Path) -> None:
    words = ["beam_widths=[3,6,80]", "k=6", "target=p50:100s", *FAST]
    found = works("frontier", *own, f"output={tmp_path}/f", *words)
    by_name = {setting["name"]: setting for setting in found["settings"]}
    assert list(by_name) == ["beam 3", "beam 6", "beam 80"]
    assert [setting["num_candidates"] for setting in by_name.values()] == [3, 6, 6]
    assert by_name["beam 6"]["recall"]["mean"] == pytest.approx(evaluated["recall@6"]["mean"])
    assert found["chosen"] == max(by_name.values(), key=lambda each: (each["recall"]["mean"], -each["seconds"]))["name"]
    for setting in by_name.values():
        assert setting["recall"]["low"] <= setting["recall"]["mean"] <= setting["recall"]["high"]
        assert setting["behind_best"]["mean"] == pytest.approx(
            setting["recall"]["mean"] - max(each["recall"]["mean"] for each in by_name.values())
        )
        assert 0 < setting["latency"]["p50"] <= setting["latency"]["p90"] <= setting["latency"]["max"]
        assert setting["seconds"] == setting["latency"]["p50"]
        assert setting["is_on_frontier"] or not setting["is_chosen"]
        beaten = [
            other
            for other in by_name.values()
            if other["seconds"] < setting["seconds"] and other["recall"]["mean"] > setting["recall"]["mean"]
        ]
        assert not (setting["is_on_frontier"] and beaten)
    written = read_json(tmp_path / "f" / "frontier.json")
    assert written["settings"] == found["settings"]
    assert written["machine"]["threads"] >= 1
    rows = read(tmp_path / "f" / "frontier.csv")
    assert [row["setting"] for row in rows] == list(by_name)
    assert [float(row["recall"]) for row in rows] == [each["recall"]["mean"] for each in by_name.values()]
    assert (tmp_path / "f" / "frontier.svg").read_text(encoding="utf-8").startswith("<?xml")
    manifest = read_json(tmp_path / "f" / "manifest.json")
    assert manifest["kind"] == "frontier"
    assert set(manifest["parents"]) == {"dataset", "recommender"}


def test_the_next_command_evaluates_the_choice(own: list[str], tmp_path: Path) -> None:
    words = ["frontier", *own, f"output={tmp_path}/f", "beam_widths=[5]", "k=5", "target=p99:100s", *FAST]
    shown = RUNNER.invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "beam 5 finds most within p99:100s" in shown.stdout
    assert "p99 of 3 requests is their slowest" in shown.stdout
    follow = shlex.split(shown.stdout.strip().splitlines()[-1].removeprefix("next: genrec "))
    assert works(*follow)["rows"][-1]["model"] == "chosen"


def test_a_target_that_nothing_meets_fails_the_gate_after_writing(own: list[str], tmp_path: Path) -> None:
    result = RUNNER.invoke(
        app, ["frontier", *own, f"output={tmp_path}/f", "beam_widths=[3]", "k=3", "target=p99:0.001us", *FAST]
    )
    assert result.exit_code == 4
    assert "no setting meets p99:0.001us" in result.stderr
    assert "beam 3" in result.stdout
    settings = read_json(tmp_path / "f" / "frontier.json")["settings"]
    assert [setting["is_chosen"] for setting in settings] == [False]


def test_frontiers_that_cannot_be_are_refused(road: Path, own: list[str], tmp_path: Path) -> None:
    words = ["frontier", *own, f"output={tmp_path}/f", *FAST]
    assert "not a latency to meet" in fails(*words, "target=30ms", code=2)
    assert "no setting to try" in fails(*words, "beam_widths=[]", code=2)
    assert "needs a value head" in fails(*words, "node_budgets=[64]", code=2)
    assert "unknown key 'beam_width'" in fails(*words, "beam_width=5", code=2)
    other = ["frontier", f"dataset={road}/d", f"recommender={road}/s", f"output={tmp_path}/f"]
    assert "wrong kind of artifact" in fails(*other, code=3)
    assert not (tmp_path / "f").exists()


def test_the_diagnosis_agrees_with_evaluate(diagnosed: dict[str, Any], evaluated: dict[str, Any]) -> None:
    assert diagnosed["recall"]["mean"] == pytest.approx(evaluated["recall@4"]["mean"])
    assert diagnosed["recall_of_beams"]["mean"] == pytest.approx(evaluated["recall@6"]["mean"])
    verdicts = diagnosed["verdicts"]
    assert sum(verdicts.values()) == diagnosed["num_cases"] == 150
    assert verdicts["found"] == pytest.approx(150 * evaluated["recall@4"]["mean"])
    assert verdicts["excluded"] == 0
    assert diagnosed["faults"] == {"invalid": 0, "duplicate": 0, "empty": 0}


def test_survival_falls_to_what_the_beams_hold(diagnosed: dict[str, Any]) -> None:
    shares = [line["mean"] for line in diagnosed["survival"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == diagnosed["recall_of_beams"]["mean"]
    kept = [line["num_kept"] for line in diagnosed["survival"]]
    before = [150, *kept]
    assert [line["num_lost"] for line in diagnosed["displaced"]] == (-np.diff(before)).tolist()
    exact = diagnosed["exact"]
    assert exact["mass"]["mean"] >= 0
    # a beam may also list what exact scoring does not, in the place of what it lost
    verdicts, num_exact = diagnosed["verdicts"], round(150 * exact["recall"]["mean"])
    assert verdicts["lost_by_search"] <= num_exact <= verdicts["lost_by_search"] + verdicts["found"]
    widths = [line["share"] for line in exact["kept_by_width"]]
    assert widths == sorted(widths)
    assert widths[0] <= shares[-1]
    assert widths[-1] == 1  # 192 beams hold 80 items


def test_files_of_the_diagnosis_say_the_same(diagnosed: dict[str, Any]) -> None:
    folder = Path(diagnosed["output"])
    written = read_json(folder / "diagnosis.json")
    assert {name: value for name, value in written.items() if name != "configuration"}.items() <= diagnosed.items()
    cases = pl.read_parquet(folder / "cases.parquet")
    assert len(cases) == 150
    assert cases["verdict"].value_counts().sort("verdict").rows() == sorted(
        (name, count) for name, count in diagnosed["verdicts"].items() if count
    )
    assert cases["regret_mass"].mean() == pytest.approx(diagnosed["exact"]["mass"]["mean"])
    assert cases["level_place"].list.len().to_list() == [4] * 150
    rows = read(folder / "figures" / "survival.csv")
    assert [float(row["kept"]) for row in rows] == [line["mean"] for line in diagnosed["survival"]]
    bins = read(folder / "figures" / "calibration.csv")
    assert sum(int(row["num_cases"]) for row in bins if row["of"] == "top") == 150
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".csv"}


def test_neighbours_are_compared_with_a_list_as_long(
    diagnosed: dict[str, Any], road: Path, own: list[str], tmp_path: Path
) -> None:
    first, second = diagnosed["neighbourhood"]
    assert (first["neighbours"], second["neighbours"]) == (1, 3)
    assert 4 <= first["num_items"] <= 8
    assert first["num_items"] <= second["num_items"] <= 16
    assert diagnosed["recall"]["mean"] <= first["near"]["mean"] <= second["near"]["mean"]
    for line in (first, second):
        assert line["difference"]["mean"] == pytest.approx(line["near"]["mean"] - line["longer"]["mean"])
    # neighbours enough are everything, and so is a list as long
    words = ["max_cases=20", "neighbours=[79]", f"embeddings={road}/e", "exact=false"]
    found = works("diagnose", *own, f"output={tmp_path}/all", *SEARCH, *words)
    assert found["exact"] is None
    (line,) = found["neighbourhood"]
    assert (line["num_items"], line["near"]["mean"], line["longer"]["mean"]) == (80, 1, 1)


def test_enough_beams_leave_nothing_to_regret(own: list[str], tmp_path: Path) -> None:
    words = ["k=10", f"search.beam_width={NUM_ITEMS}", "max_cases=30", "num_resamples=100", "exclude_seen=true"]
    found = works("diagnose", *own, f"output={tmp_path}/d", *words)
    assert found["verdicts"]["lost_by_search"] == 0
    assert found["exact"]["is_same"]["mean"] == 1
    assert abs(found["exact"]["mass"]["mean"]) < 1e-6
    assert found["exact"]["recall"]["mean"] == found["recall"]["mean"]
    assert found["survival"][-1]["num_kept"] + found["verdicts"]["excluded"] == found["num_cases"] == 30


def test_the_next_command_looks_at_a_target_that_the_search_lost(own: list[str], tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["diagnose", *own, f"output={tmp_path}/d", "k=3", "search.beam_width=3"])
    assert shown.exit_code == 0, shown.output
    for words in ("lost by the search", "siblings", "lists that are the exact ones", "ECE", "0 invalid and 0 repeated"):
        assert words in shown.stdout
    follow = shlex.split(shown.stdout.strip().splitlines()[-1].removeprefix("next: genrec "))
    assert follow[:2] == ["inspect", "search"]
    assert works(*follow, "search.num_candidates=3")["target"]["verdict"] == "lost_by_search"


def test_large_catalogues_are_not_scored_as_a_whole(
    own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose_module, "EXACT_ITEMS", NUM_ITEMS - 1)
    shown = RUNNER.invoke(app, ["diagnose", *own, f"output={tmp_path}/d", *SEARCH, "max_cases=10"])
    assert shown.exit_code == 0, shown.output
    assert "nothing exact: the catalogue has more than 79 items" in shown.stdout
    assert "more probable than the last of the list" in shown.stdout


def test_diagnoses_that_cannot_be_are_refused(road: Path, own: list[str], tmp_path: Path) -> None:
    words = ["diagnose", *own, f"output={tmp_path}/d"]
    assert "longer than the beams (expected at most 5, found 6); set search.beam_width=6" in fails(
        *words, "k=6", "search.beam_width=5", code=2
    )
    assert "the whole beams are looked at" in fails(*words, "search.num_candidates=3", code=2)
    assert "no neighbours to look at" in fails(*words, f"embeddings={road}/e", "neighbours=[]", code=2)
    assert "needs a value head" in fails(*words, "node_budgets=[64]", *SEARCH, "max_cases=5", code=2)
    assert "wrong kind of artifact" in fails(*words, f"embeddings={road}/s", code=3)
    assert not (tmp_path / "d").exists()


def test_beams_within_a_budget(road: Path) -> None:
    config = DiagnoseConfig(dataset=road / "d", recommender=road / "r" / "recommender", output=road / "x")
    dataset = Dataset.load(config.dataset)
    generator = open_generative(config.recommender, dataset, config.search)[1]
    look = Look(generator, np.zeros(NUM_ITEMS, dtype=int), 1, exclude_seen=False, exact=False)
    for budget in (3, 30, 31, 10_000):
        width = widest_within(look, budget)
        assert generator.of_width(width).nodes_per_request <= budget or width == 1
        assert generator.of_width(width + 1).nodes_per_request > budget or width == NUM_ITEMS


@pytest.mark.slow
def test_a_value_head_is_tried_too(road: Path, own: list[str], tmp_path: Path) -> None:
    words = [f"dataset={road}/d", f"initial={road}/r/recommender", f"run={tmp_path}/v", "mode=value"]
    short = ["stopping.max_epochs=1", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
    works("finetune", *words, f"embeddings={road}/e", *short)
    valued = [own[0], f"recommender={tmp_path}/v/recommender"]
    tree = ["node_budgets=[24,48]", "value_guided.initial_width=3"]
    found = works("frontier", *valued, f"output={tmp_path}/f", *FAST, *tree, "beam_widths=[4]", "k=4")
    assert [setting["name"] for setting in found["settings"]] == ["beam 4", "value 24", "value 48"]
    assert all(setting["nodes_per_request"] <= 48 for setting in found["settings"])
    found = works("diagnose", *valued, f"output={tmp_path}/d", *SEARCH, *tree, "max_cases=60")
    first, second = found["rescues"]["budgets"]
    assert first["lost"] == second["lost"] == 0  # a tree holds the beams that it grows from
    assert found["rescues"]["initial_found"] <= first["found"] <= second["found"]
    assert first["found"] == pytest.approx(found["rescues"]["initial_found"] + first["rescued"])
    assert first["nodes"] <= 24
    assert second["beam"]["nodes"] <= 48
    assert "half the budget" in fails("frontier", *valued, f"output={tmp_path}/g", "node_budgets=[4]", code=2)
    assert (tmp_path / "d" / "figures" / "rescues.svg").is_file()


@pytest.mark.slow
def test_indexes_of_a_dense_recommender(road: Path, tmp_path: Path) -> None:
    model = ["model=sasrec", "model.width=16", "model.hidden=32", "model.history_length=8"]
    works("train", *model, *SHORT, f"dataset={road}/d", f"run={tmp_path}/r")
    dense = [f"dataset={road}/d", f"recommender={tmp_path}/r/recommender"]
    words = ["num_probes=[1,9]", "num_visited=[80]", "k=5", "target=p50:100s", *FAST]
    found = works("frontier", *dense, f"output={tmp_path}/f", *words)
    by_name = {setting["name"]: setting for setting in found["settings"]}
    assert list(by_name) == ["flat", "ivf 1", "ivf 9", "hnsw 80"]
    assert by_name["flat"]["recall_of_flat"] == by_name["ivf 9"]["recall_of_flat"] == 1  # all 9 lists
    assert by_name["ivf 1"]["recall_of_flat"] < 1
    assert by_name["ivf 9"]["recall"] == by_name["flat"]["recall"]
    assert by_name["ivf 1"]["search"]["num_probes"] == 1
    assert "is not searched by value" in fails("frontier", *dense, f"output={tmp_path}/g", "node_budgets=[64]", code=2)
    assert "no semantic IDs" in fails("diagnose", *dense, f"output={tmp_path}/h", code=2)


@pytest.mark.slow
def test_a_hybrid_is_searched_by_beams(road: Path, tmp_path: Path) -> None:
    constants = ["weights=[0.5]", "search.beam_width=6", "cutoff=5"]
    generative = f"generative={road}/r/recommender"
    works("fuse", f"dataset={road}/d", generative, f"output={tmp_path}/h", *constants)
    words = [f"dataset={road}/d", f"recommender={tmp_path}/h", "beam_widths=[5,9]", "k=5", *FAST]
    found = works("frontier", *words, f"output={tmp_path}/f")
    assert [setting["name"] for setting in found["settings"]] == ["beam 5", "beam 9"]
    words = ["models=[popularity]", "cutoffs=[5]", "split=validation", "search.beam_width=9"]
    table = works("evaluate", f"dataset={road}/d", f"recommenders.h={tmp_path}/h", f"output={tmp_path}/e", *words)
    row = next(row for row in table["rows"] if (row["model"], row["mask"]) == ("h", "none"))
    assert found["settings"][1]["recall"]["mean"] == pytest.approx(row["metrics"]["recall@5"]["mean"])
