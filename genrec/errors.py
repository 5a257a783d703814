"""Every exception a user of genrec may want to catch.

One line says what is wrong, where, what was expected and found, and how to mend it. The command line prints that line
and leaves with the exception's ``exit_code``. This module must not import anything.
"""

from __future__ import annotations

from typing import Any, ClassVar


class GenrecError(Exception):
    """Base of all errors a user can cause and mend.

    Args:
        what: the problem, as a clause without a full stop.
        where: file, line, row, column or configuration key.
        expected: what would have been right.
        found: what was there instead.
        fix: the next thing to do, as an imperative clause.

    >>> str(DataError("cannot parse the line", where="a.jsonl:7", fix="set source.skip_bad_lines=true"))
    'a.jsonl:7: cannot parse the line; set source.skip_bad_lines=true'
    >>> str(ConfigError("wrong type", where="key 'k'", expected="int", found="'x'"))
    "key 'k': wrong type (expected int, found 'x')"
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        fix: str | None = None,
    ) -> None:
        facts = [f"{label} {value}" for label, value in (("expected", expected), ("found", found)) if value is not None]
        text = what if where is None else f"{where}: {what}"
        if facts:
            text += f" ({', '.join(facts)})"
        if fix is not None:
            text += f"; {fix}"
        super().__init__(" ".join(text.split()))


class ConfigError(GenrecError):
    """A configuration file, key, value or command-line argument is wrong (exit code 2)."""

    exit_code = 2


class RunError(ConfigError):
    """A run or output folder is in use, not empty, or cannot be resumed (exit code 2)."""


class DataError(GenrecError):
    """Raw data, a table or an array is not what it has to be (exit code 3)."""

    exit_code = 3


class MissingFileError(DataError):
    """A raw file is not where it should be (exit code 3)."""


class ArtifactError(DataError):
    """An artifact is missing, incomplete, corrupt, or of another kind or format version (exit code 3)."""


class StorageError(GenrecError):
    """Files could not be written or read: disk full, no permission, no network (exit code 3)."""

    exit_code = 3


class GateError(GenrecError):
    """A quality gate failed: going on would waste training hours (exit code 4).

    Attributes:
        evidence: what a person needs to see to judge the failure; the command line shows it before the error.
    """

    exit_code = 4
    evidence: Any = None


class TrainingError(GateError):
    """Training cannot go on: the loss is not finite (exit code 4)."""


class LineageError(GenrecError):
    """Two artifacts do not descend from the same parent (exit code 5)."""

    exit_code = 5
