"""The wheel carries everything it needs: it runs from a folder that knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent


def run(*words: str | Path, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built wheel's content; its dependencies come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PROJECT, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    done = run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, folder=folder)
    assert done.returncode == 0, done.stderr
    return target


def test_configurations_and_cards_travel(installed: Path) -> None:
    for part, source in (("configs", PROJECT / "configs"), ("cards", PROJECT / "data" / "cards")):
        shipped = {
            file.relative_to(installed / "genrec" / part) for file in (installed / "genrec" / part).rglob("*.yaml")
        }
        assert shipped == {file.relative_to(source) for file in source.rglob("*.yaml")}
        assert shipped


@pytest.mark.slow
def test_the_road_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run(sys.executable, "-c", "import genrec; print(genrec.__file__)", folder=tmp_path, path=installed)
    assert Path(where.stdout.strip()).is_relative_to(installed)
    words = ("prepare", "synthetic", "source.num_users=60", "source.num_items=80", "output=d", "--json")
    done = run(sys.executable, "-m", "genrec.cli", *words, folder=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["users"] == 60
    assert (tmp_path / "d" / "manifest.json").is_file()
