"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from examples import every_example

# Shapes and types of the array modules are checked while the tests run, and only then.
CHECKED = ("embeddings", "data.synthetic", "semantic_ids", "quantization", "losses")
install_import_hook([f"genrec.{name}" for name in CHECKED], "shape_checks.check")

# A loaded machine is slow, not wrong. The default suite tries the same examples each time, so that what fails for one
# fails for everyone; `make slow` tries new ones.
settings.register_profile("genrec", deadline=None, derandomize=not every_example())
settings.load_profile("genrec")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real public data sets; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set GENREC_DATA")
    return root


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")
