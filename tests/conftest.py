"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shapes and types of the array modules are checked while the tests run, and only then.
install_import_hook(["genrec.embeddings", "genrec.data.synthetic"], "shape_checks.check")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real public data sets; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set GENREC_DATA")
    return root
