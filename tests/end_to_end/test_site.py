"""The documentation site builds without a warning and asks nothing of any other server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from markdown_blocks import DOCS, PROJECT

FROM_ELSEWHERE = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*?(?:href|src)=[\"']?((?:https?:)?//[^\"'\s>]+)")
IN_A_STYLE = re.compile(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, from a copy."""
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(PROJECT / "mkdocs.yml", folder)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_MKDOCS_2_WARNING": "1"}
    for words in (["docs/generate.py"], ["-m", "mkdocs", "build", "--strict", "--quiet"]):
        made = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
    return folder / "site"


def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    written = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    assert pages == written | {"api.html", "commands.html", "404.html"}


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not FROM_ELSEWHERE.findall(text), path.name
        assert not IN_A_STYLE.findall(text), path.name
