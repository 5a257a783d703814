"""Fenced blocks, commands, code spans and links of the project's Markdown, for the tests of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
GENERATED = [DOCS / name for name in ("api.md", "commands.md")]  # by docs/generate.py, not there in a fresh checkout
PAGES = sorted(set(DOCS.rglob("*.md")) - set(GENERATED))
OTHERS = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md")]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
EXIT_CODE = re.compile(r"#.*\bexit code (\d+)")


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text without the indentation of the fence, and where it is."""

    language: str
    body: str
    place: str


@dataclass(frozen=True)
class Command:
    """One shell command: its words, the exit code that its comment promises, and where it is."""

    words: tuple[str, ...]
    exit_code: int
    place: str


def blocks(path: Path, *languages: str) -> Iterator[Block]:
    """The fenced blocks of a page in some languages, in order."""
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match["language"] in languages:
            indent = len(match["indent"])
            body = "".join(line[indent:] for line in match["body"].splitlines(keepends=True))
            line = text.count("\n", 0, match.start()) + 1
            yield Block(match["language"], body, f"{path.relative_to(PROJECT)}:{line}")


def commands(path: Path) -> Iterator[Command]:
    """The commands of the ``bash`` blocks of a page, continued lines joined, comments left out."""
    for block in blocks(path, "bash"):
        for line in block.body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                promised = EXIT_CODE.search(line)
                yield Command(tuple(words), int(promised[1]) if promised else 0, block.place)


def spans(path: Path) -> Iterator[str]:
    """What is in single backticks outside of the fenced blocks; a line break within is a space."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    yield from (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def links(path: Path) -> Iterator[str]:
    """Targets of the links and pictures of a page, outside of its fenced blocks and code spans."""
    text = re.sub(r"`[^`]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(path: Path) -> set[str]:
    """Identifiers that the headings of a page get, by the rule of MkDocs (and of most of what shows Markdown)."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
