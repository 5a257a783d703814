"""Dataset cards: where public data come from, under which terms, and what they should hold.

A card is a YAML file in ``data/cards``; it says what is known and leaves null what is not. Knows nothing of formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genrec.data.download import RemoteFile
from genrec.data.sources.lines import readable
from genrec.data.sources.names import nearest
from genrec.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Counts:
    """How many users, items and interactions a data set has; None where it is not known."""

    users: int | None = None
    items: int | None = None
    interactions: int | None = None


@dataclass(frozen=True)
class DatasetCard:
    """One public data set.

    Attributes:
        name: what it is called in commands, and the card's file name.
        title: what it is called in print.
        licence: terms of use, in a sentence.
        homepage: page of its authors.
        citation: work to cite.
        files: what to get.
        raw: counts of the files as they come.
        prepared: counts after `prepare` by the benchmark's rules.
        notes: what decides whether a number is comparable.
    """

    name: str
    title: str
    licence: str
    homepage: str
    citation: str
    files: tuple[RemoteFile, ...]
    raw: Counts = Counts()
    prepared: Counts = Counts()
    notes: str = ""


def card_folders() -> tuple[Path, ...]:
    """Where cards are looked for: the working folder, the project's checkout, the installed package."""
    return (Path("data") / "cards", _PACKAGE.parent / "data" / "cards", _PACKAGE / "cards")


def list_cards() -> tuple[str, ...]:
    """The names of all cards, sorted."""
    return tuple(sorted({path.stem for folder in card_folders() for path in folder.glob("*.yaml")}))


def find_card(name: str) -> DatasetCard:
    """The card called `name`.

    Raises:
        ConfigError: there is none (with the nearest name), or it is malformed.
        StorageError: it may not be looked at.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        for folder in card_folders():
            path = folder / f"{name}.yaml"
            with readable(path):
                is_there = path.is_file()
            if is_there:
                return load_card(path)
    known = list_cards()
    raise ConfigError(f"there is no dataset card {name!r}{nearest(name, known)} (known: {', '.join(known) or 'none'})")


def load_card(path: Path) -> DatasetCard:
    """Reads one card.

    Raises:
        ConfigError: unreadable, not YAML, a key that is unknown, missing or of the wrong type; with file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the dataset card: {error.strerror}", where=path) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', None) or error}", where=where) from error
    texts = ("name", "title", "licence", "homepage", "citation")
    card = _section(content, path, "", required=(*texts, "files"), optional=("expected", "notes"))
    values = {key: _typed(card, key, str, path) for key in texts}
    if values["name"] != path.stem:
        raise ConfigError("key 'name' is not the file's name", where=path, expected=path.stem, found=values["name"])
    expected = _section(card.get("expected") or {}, path, "expected", optional=("raw", "prepared"))
    return DatasetCard(
        **values,
        files=tuple(
            _file(entry, path, f"files.{i}", values["homepage"])
            for i, entry in enumerate(_typed(card, "files", list, path))
        ),
        raw=_counts(expected.get("raw"), path, "expected.raw"),
        prepared=_counts(expected.get("prepared"), path, "expected.prepared"),
        notes=_typed(card, "notes", str, path, is_optional=True) or "",
    )


def _file(entry: Any, path: Path, key: str, homepage: str) -> RemoteFile:
    entry = _section(entry, path, key, required=("name",), optional=("url", "sha256", "size", "unpack"))
    sha256 = _typed(entry, "sha256", str, path, key, is_optional=True)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ConfigError(f"key '{key}.sha256' is no checksum", where=path, expected="64 hexadecimal digits")
    return RemoteFile(
        name=_typed(entry, "name", str, path, key),
        url=_typed(entry, "url", str, path, key, is_optional=True),
        sha256=sha256,
        size=_typed(entry, "size", int, path, key, is_optional=True),
        unpack=_typed(entry, "unpack", bool, path, key, is_optional=True) or False,
        homepage=homepage,
    )


def _counts(entry: Any, path: Path, key: str) -> Counts:
    entry = _section(entry or {}, path, key, optional=("users", "items", "interactions"))
    return Counts(**{name: _typed(entry, name, int, path, key, is_optional=True) for name in entry})


def _section(
    value: Any, path: Path, key: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    shown = f"key {key!r}" if key else "the card"
    if not isinstance(value, dict):
        raise ConfigError(f"{shown} is no section of keys", where=path, found=type(value).__name__)
    accepted = (*required, *optional)
    for name in value:
        if name not in accepted:
            full = f"{key}.{name}" if key else str(name)
            hint = nearest(str(name), accepted)
            raise ConfigError(f"unknown key {full!r}{hint} (accepted: {', '.join(accepted)})", where=path)
    missing = [name for name in required if value.get(name) is None]
    if missing:
        raise ConfigError(f"{shown} lacks {', '.join(map(repr, missing))}", where=path)
    return value


def _typed(
    section: Mapping[str, Any], name: str, kind: type, path: Path, key: str = "", *, is_optional: bool = False
) -> Any:
    value = section.get(name)
    if (value is None and is_optional) or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
        return value
    full = f"{key}.{name}" if key else name
    words = {str: "text", int: "an integer", bool: "true or false", list: "a list"}
    raise ConfigError(f"key {full!r} has the wrong type", where=path, expected=words[kind], found=repr(value))
