"""Comparisons through the command line: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import RUNNER, fails, works

from genrec.cli import app
from genrec.files import read_json

QUICK = ["num_resamples=100", "num_permutations=100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets d and other, evaluations a and b of d (validation: v; mid ranks: m), o of other."""
    folder = tmp_path_factory.mktemp("compare")
    size = ["source.num_users=120", "source.num_items=60", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("prepare", "synthetic", *size, "source.seed=5", f"output={folder}/other")
    short = [*QUICK, "reference=null", "cutoffs=[1,5,10]"]
    models = "models=[popularity,item_knn]"
    works("evaluate", f"dataset={folder}/d", f"output={folder}/a", models, *short)
    works("evaluate", f"dataset={folder}/d", f"output={folder}/b", "models=[item_knn]", "item_knn.window=1", *short)
    works("evaluate", f"dataset={folder}/d", f"output={folder}/v", models, "split=validation", *short)
    works("evaluate", f"dataset={folder}/d", f"output={folder}/m", models, "ties=mid", *short)
    works("evaluate", f"dataset={folder}/other", f"output={folder}/o", models, *short)
    return folder


def test_the_comparison_says_what_the_evaluations_say(folder: Path, tmp_path: Path) -> None:
    words = [f"systems.popular={folder}/a:popularity", f"systems.knn={folder}/a:item_knn", f"systems.near={folder}/b"]
    found = works("compare", *words, f"output={tmp_path}/c", "cutoff=5", *QUICK)
    report = read_json(tmp_path / "c" / "report.json")
    assert report["comparisons"] == found["comparisons"]
    rows = read_json(folder / "a" / "report.json")["rows"]
    means = {(row["model"], row["mask"]): row["metrics"]["recall@5"]["mean"] for row in rows}
    for row in report["comparisons"]:
        if row["metric"] == "recall@5" and row["system"] == "knn":
            expected = means["item_knn", row["mask"]] - means["popularity", row["mask"]]
            assert row["difference"] == pytest.approx(expected)
    assert set(read_json(tmp_path / "c" / "manifest.json")["parents"]) == {"popular 0", "knn 0", "near 0"}
    assert report["sources"]["knn"] == [f"{(folder / 'a').resolve()}:item_knn"]
    again = works("compare", *words, f"output={tmp_path}/c2", "cutoff=5", *QUICK)
    assert again["comparisons"] == found["comparisons"]
    shown = RUNNER.invoke(app, ["compare", *words, f"output={tmp_path}/c3", "cutoff=5", *QUICK])
    assert "100 sign patterns cannot show a difference at this level: 8 comparisons" in shown.stdout
    shown = RUNNER.invoke(app, ["compare", *words, f"output={tmp_path}/c4", "cutoff=5", "num_permutations=1000"])
    assert "knn is better than popular" in shown.stdout


@pytest.mark.parametrize(
    ("one", "other", "code", "text"),
    [
        ("a:item_knn", "o:item_knn", 5, "another dataset cannot be compared"),
        ("a:item_knn", "v:item_knn", 5, "another split cannot be compared (expected test"),
        ("a:item_knn", "m:item_knn", 5, "another tie rule cannot be compared (expected pessimistic"),
        ("a", "b", 2, "has several rows (expected FOLDER:ROW, found popularity, item_knn); name one"),
        ("a:knn", "b", 2, "no such row (expected one of popularity, item_knn, found 'knn')"),
        ("a:item_knn", "a:item_knn", 2, "the same row twice"),
        ("d", "b", 3, "wrong kind of artifact"),
        ("nowhere", "b", 3, "no such artifact"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    one: str, other: str, code: int, text: str, folder: Path, tmp_path: Path
) -> None:
    words = [f"systems.one={folder}/{one}", f"systems.other={folder}/{other}", f"output={tmp_path}/c"]
    assert text in fails("compare", *words, "cutoff=5", *QUICK, code=code)
    assert not (tmp_path / "c").exists()


def test_words_that_make_no_sense(folder: Path, tmp_path: Path) -> None:
    output, one = f"output={tmp_path}/c", f"systems.one={folder}/b"
    assert "too few systems (expected two or more, found 1)" in fails("compare", one, output, code=2)
    two = f"systems.two={folder}/a:item_knn"
    assert "unknown system (expected one of one, two" in fails("compare", one, two, output, "reference=three", code=2)
    assert "cut-off is above those of the evaluation" in fails("compare", one, two, output, "cutoff=20", code=2)
