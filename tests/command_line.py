"""The command line as tests use it: in this process, with its answer, or with the one line that it fails with."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from genrec.cli import app

RUNNER = CliRunner()


def works(*words: str) -> dict[str, Any]:
    """What the command prints under ``--json``."""
    result = RUNNER.invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def fails(*words: str, code: int) -> str:
    """The one line that the command prints as it leaves with `code`."""
    result = RUNNER.invoke(app, list(words))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr
