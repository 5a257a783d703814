"""Answers of a real bundle, ten thousand times, against exhaustive search by the recommender that it was made from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import works

pytest.importorskip("onnx", reason="needs the extra `export`")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parents[2]
NUM_ITEMS = 147


def test_ten_thousand_answers_over_the_gift_cards_are_exact(data_root: Path, tmp_path: Path) -> None:
    raw = f"prepare.raw_dir={data_root / 'amazon2018_giftcards_raw'}"
    works("run", "giftcards", raw, f"output={tmp_path}/run", "train.stopping.max_epochs=5", "train.accelerator=cpu")
    recommender, dataset = (tmp_path / "run" / part for part in ("train/recommender", "dataset"))
    # A process of its own: the checks of shapes that tests install cannot be traced.
    words = [f"dataset={dataset}", f"recommender={recommender}", f"output={tmp_path}/b"]
    words += [f"search.beam_width={NUM_ITEMS}", "search.num_candidates=50"]
    export = [sys.executable, "-m", "genrec", "export", *words]
    subprocess.run(export, cwd=PROJECT, check=True, capture_output=True)
    script = [sys.executable, "benchmarks/constraints.py", str(tmp_path / "b"), str(recommender), str(dataset)]
    done = subprocess.run(script, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["requests"], found["wrong"], found["num_items"]) == (10_000, 0, NUM_ITEMS)
    assert 1000 < found["fewer_than_k_admissible"] < 9000
