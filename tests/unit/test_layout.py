"""Budgets that no linter checks: module size, empty package files, no assertion-free test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
MODULES = sorted((PROJECT / "genrec").rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("test_*.py"))
ASSERTING = ("assert", "raises", "warns", "check_")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_modules_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    assert ast.get_docstring(ast.parse(text)), "a module docstring says its role and what it must not know"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=str)
def test_package_files_import_nothing(path: Path) -> None:
    if path.parent.name == "genrec":
        return  # the root offers public names lazily
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_test_asserts(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert any(word in ast.unparse(node) for word in ASSERTING), f"{path.name}:{node.lineno} {node.name}"


def test_public_names_are_all_there() -> None:
    import genrec

    for name in dir(genrec):
        assert getattr(genrec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = genrec.nonsense


def test_shapes_are_checked_while_tests_run() -> None:
    import numpy as np
    from jaxtyping import TypeCheckError

    import genrec

    catalogue = genrec.PlantedCatalogue.create(num_items=100, seed=1)
    with pytest.raises(TypeCheckError):
        catalogue.transition(np.zeros((2, 2), dtype=np.int64))
