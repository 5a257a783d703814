"""The command line as a user meets it: words in, one line and an exit code out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec.cli import CATALOGUE, INSPECT, VERBS, app, config_folders, find_config
from genrec.config.load import load_config
from genrec.config.recipe import RecipeConfig, decided_by
from genrec.errors import ConfigError

RUNNER = CliRunner()
COMMANDS = [[verb.name] for verb in VERBS] + [["inspect", verb.name] for verb in INSPECT]
COMMANDS += [["catalogue", verb.name] for verb in CATALOGUE]
CONFIGS = [file for folder in config_folders() for file in sorted(folder.glob("*/*.yaml"))]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_lists_every_key(words: list[str]) -> None:
    result = RUNNER.invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"usage: genrec {' '.join(words)}" in result.output


def test_help_of_prepare_names_defaults_and_variants() -> None:
    output = RUNNER.invoke(app, ["prepare", "-h"]).output
    assert "filter.min_user_interactions = 5" in output
    assert "source.timestamp_unit  [table] = auto" in output
    assert "named configurations: " in output
    assert "giftcards" in output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom genrec.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['evaluate', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'lightning', 'polars', 'sklearn', 'scipy', 'faiss', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prepare", "gifcards"], "did you mean 'giftcards'?"),
        (["prepare", "none.yaml"], "'none.yaml' is neither key=value, nor a YAML file, nor a name in configs/prepare"),
        (["prepare", "giftcards", "outptu=x"], "unknown key 'outptu'; did you mean 'output'?"),
        (["prepare"], "missing values: source (one of"),
        (["audit", "dataset"], "is neither key=value"),
        (["audit", "dataset=x", "--resume"], "--resume: audit has nothing to resume"),
        (["doctor", "x=1"], "doctor takes no arguments"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(words: list[str], expected: str) -> None:
    result = RUNNER.invoke(app, words)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_unknown_verb_and_option_exit_2() -> None:
    assert RUNNER.invoke(app, ["prepar"]).exit_code == 2
    assert RUNNER.invoke(app, ["prepare", "--nope"]).exit_code == 2


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_shipped_configuration_loads(file: Path) -> None:
    verb = next(verb for verb in VERBS if verb.folder == file.parent.name)
    assert verb.root is not None
    extra = {
        "embed": ["dataset=d", "output=o"],
        "tokenize": ["dataset=d", "output=o"],
        "train": ["dataset=d", "semantic_ids=s", "run=r"],
        "sweep": ["dataset=d", "run=r"],
        "finetune": ["dataset=d", "initial=i", "run=r"],
    }.get(file.parent.name, [])
    fixed = decided_by if verb.root is RecipeConfig else None
    assert load_config(verb.root, [file], extra, fixed=fixed) is not None
    assert find_config(verb.folder, file.stem).samefile(file)


def test_dry_run_prints_a_configuration_that_reads_back(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["prepare", "office", "filter.min_rating=2", f"output={tmp_path}/o", "--dry-run"])
    assert result.exit_code == 0
    file = tmp_path / "plan.yaml"
    file.write_text(result.stdout, encoding="utf-8")
    assert find_config("prepare", str(file)) == file
    root = next(verb.root for verb in VERBS if verb.name == "prepare")
    assert load_config(root, [file]).filter.min_rating == 2.0  # type: ignore[union-attr,arg-type]
    assert "# " in result.stdout
    assert not (tmp_path / "o").exists()


def test_a_file_beside_the_user_wins_over_the_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "prepare").mkdir(parents=True)
    mine = tmp_path / "configs" / "prepare" / "office.yaml"
    mine.write_text("output: mine\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert find_config("prepare", "office").samefile(mine)
    with pytest.raises(ConfigError):
        find_config("prepare", "absent")


def test_doctor_reports_the_machine() -> None:
    result = RUNNER.invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["python"] == sys.version.split()[0]
    assert facts["packages"]["polars"]
    assert facts["missing"] == []
    assert facts["faiss_gpus"] >= 0


def test_a_package_that_is_not_installed_is_one_line() -> None:
    words = ["genrec", "catalogue", "diff", "before=a", "after=b"]
    program = f"import sys; sys.modules['jaxtyping'] = None; sys.argv = {words}; from genrec.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this needs the package jaxtyping, which is not installed")
    assert len(done.stderr.strip().splitlines()) <= 2
