from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from genrec.data.sequences import Ragged
from genrec.quantization.diagnostics import health
from genrec.quantization.neighbours import prefix_indices
from genrec.quantization.proxy import next_item_proxy
from genrec.reports.figures import write_health_figures

ALWAYS = ("usage", "levels", "nodes")
SOMETIMES = ("residuals", "purity", "neighbours", "proxy", "training")


def make(num_items: int = 300) -> dict[str, Any]:
    """A report with all there can be; nobody has the last code of level 2."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 20, num_items), rng.geometric(0.1, num_items).clip(max=79) - 1], axis=1)
    vectors = rng.standard_normal((num_items, 4)).astype(np.float32)
    report = health(
        codes,
        codebook_sizes=(20, 80),
        vectors=vectors,
        decode=lambda codes: 0.5 * vectors[: len(codes)] / codes.shape[1],
        categories=[[f"top {code % 2}", f"leaf {code}"] for code in codes[:, 0]],
    )
    train = Ragged.from_offsets(rng.integers(0, num_items, 400), np.arange(0, 401, 10))
    epochs = [
        {
            "epoch": epoch,
            "loss": 3 / epoch,
            **dict.fromkeys(("reconstruction", "codebook", "commitment"), 1 / epoch),
            "collision_rate": 0.4,
            "levels": [{"used": 15 + epoch, "dead": 5 - epoch}, {"used": 60, "dead": 20}],
        }
        for epoch in range(1, 5)
    ]
    epochs = [{"epoch": 0, "loss": 4.0, "reconstruction": 4.0}, *epochs]  # before there were codes
    return {**report, "proxy": next_item_proxy(train, prefix_indices(codes)), "training": epochs}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return make()


@pytest.fixture(scope="module")
def folder(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    names = write_health_figures(report, folder.joinpath)
    assert sorted(names) == sorted(f"{name}.{suffix}" for name in (*ALWAYS, *SOMETIMES) for suffix in ("svg", "csv"))
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    return folder


def test_the_data_beside_the_figures_are_those_of_the_report(report: dict[str, Any], folder: Path) -> None:
    usage = read(folder / "usage.csv")
    assert len(usage) == 20 + 64
    items = [float(row["items_a_code"]) * (int(row["last_rank"]) - int(row["first_rank"]) + 1) for row in usage]
    assert sum(items[:20]) == pytest.approx(300)
    assert sum(items[20:]) == pytest.approx(300)
    assert [row["last_rank"] for row in usage if row["level"] == "2"][-1] == "80"
    assert [float(row["of_even_use"]) for row in usage[:20]] == pytest.approx(np.array(items[:20]) / 15)
    for name, section in (("levels", "levels"), ("residuals", "levels"), ("nodes", "depths")):
        for row, entry in zip(read(folder / f"{name}.csv"), report[section], strict=True):
            assert {key: float(value) for key, value in row.items()} == {key: entry[key] for key in row}
    neighbours = read(folder / "neighbours.csv")
    assert [float(row["found"]) for row in neighbours] == [at["share"] for at in report["neighbours"]["depths"]]
    proxy = read(folder / "proxy.csv")
    assert [row["panel"] for row in proxy] == ["with the last item"] * 2 + ["with any of the last 5"] * 2
    assert [float(row["by_chance"]) for row in proxy[2:]] == [
        at["by_chance"] for at in report["proxy"]["recent"]["depths"]
    ]
    purity = read(folder / "purity.csv")
    assert float(purity[2]["found"]) == report["purity"]["last"]["depths"][0]["nmi"]
    assert [row["used_level_1"] for row in read(folder / "training.csv")] == ["", "16", "17", "18", "19"]


def test_figures_are_whole_and_speak(folder: Path) -> None:
    titles = {
        "usage": "How evenly the codes are used",
        "nodes": "Items under a prefix",
        "proxy": "Next items of training histories that share their prefix (repeats left out)",
        "training": "Collision rate of the codes that training assigned",
    }
    for path in sorted(folder.glob("*.svg")):
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert f"<!-- {titles.get(path.stem, '')}" in text
        assert len(text) < 200_000


def test_the_same_facts_give_the_same_bytes_in_another_process(
    report: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """Whatever the user's own settings, the order of hashes and the time; and nothing global is left behind."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: none\naxes.grid: True\n", encoding="utf-8")
    (tmp_path / "health.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "again").mkdir()
    code = (
        "import json, matplotlib, pathlib, sys\n"
        "from genrec.reports.figures import write_health_figures\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "write_health_figures(json.loads((folder / 'health.json').read_text()), (folder / 'again').joinpath)\n"
        "assert matplotlib.rcParams['font.size'] == 20\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    own = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "0"}
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    for path in sorted(folder.iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_facts_that_are_not_there_are_not_drawn(tmp_path: Path) -> None:
    bare = health(np.array([[0, 0], [1, 0], [1, 0]]), codebook_sizes=(2, 700))
    none = {"window": 1, "num_targets": 0, "repeat_share": 1.0, "depths": []}
    bare["proxy"] = {"num_positions": 1, "num_sampled": 1, "last": none, "recent": none}
    bare["purity"] = {"first": None, "last": None}
    names = write_health_figures(bare, tmp_path.joinpath)
    assert [name for name in names if name.endswith("svg")] == [f"{name}.svg" for name in ALWAYS]
