"""Every ``key=value`` that an error message tells the user to set is a key of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrec.cli import CATALOGUE, INSPECT, VERBS
from genrec.config.load import describe

PACKAGE = Path(__file__).resolve().parent.parent.parent / "genrec"
ROOTS = [verb.root for verb in (*VERBS, *INSPECT, *CATALOGUE) if verb.root is not None]
KEYS = {line.key.split("  ")[0] for root in ROOTS for line in describe(root)}
SHORT = {key.removesuffix(".name") for key in KEYS if key.endswith(".name")}  # split=temporal for split.name=temporal
REMEDY = re.compile(r"(?:^|[\s,(])((?:[a-z_]+\.)*[a-z_]+)=(?=[\w'\[{.]|$)")


def remedies() -> Iterator[tuple[str, str]]:
    """(place, key) of every ``fix=`` argument in the package that names keys."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "fix":
                for part in ast.walk(node.value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        for key in REMEDY.findall(part.value):
                            yield f"{path.relative_to(PACKAGE)}:{node.value.lineno}", key


def test_there_are_remedies_to_check() -> None:
    found = {key for _, key in remedies()}
    assert {"raw_dir", "overwrite"} <= found
    assert len(found) > 8


@pytest.mark.parametrize(("place", "key"), sorted(set(remedies())), ids=lambda value: value)
def test_remedies_name_keys_of_the_command_line(place: str, key: str) -> None:
    assert key in KEYS | SHORT, f"{place}: no command has a key {key!r}"
