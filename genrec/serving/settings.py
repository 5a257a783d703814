"""``--key value`` of a program that runs without the rest of genrec -> `ServeConfig`, the only list of options."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec.config.serving import ServeConfig
from genrec.errors import ConfigError


def read_settings(words: Sequence[str]) -> ServeConfig:
    """The configuration that the words of a command line give; ``--help`` tells every option and leaves.

    Raises:
        ConfigError: a number out of its range.
        SystemExit: argparse has said what is wrong with the words, or printed the help.

    >>> read_settings(["bundles", "--port", "0", "--no-page"]).page
    False
    """
    parser = argparse.ArgumentParser(
        prog="python -m genrec.serving.server",
        description="Serve a bundle over HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    kinds = typing.get_type_hints(ServeConfig)
    for field in dataclasses.fields(ServeConfig):
        _add(parser, field, kinds[field.name])
    config = ServeConfig(**vars(parser.parse_args(words)))
    check_settings(config)
    return config


def check_settings(config: ServeConfig) -> None:
    """Raises ConfigError for a number out of its range."""
    for field in dataclasses.fields(config):
        value, least, most = getattr(config, field.name), field.metadata.get("minimum"), field.metadata.get("maximum")
        if least is not None and value < least:
            raise ConfigError("too small", where=f"key {field.name!r}", expected=f"at least {least}", found=value)
        if most is not None and value > most:
            raise ConfigError("too large", where=f"key {field.name!r}", expected=f"at most {most}", found=value)


def read_key(path: Path | None) -> str | None:
    """The key that requests must carry.

    Raises:
        ConfigError: the file cannot be read, or holds no key.
    """
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot read the key", where=path, found=error) from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("this is no key", where=path, expected="one line of printable ASCII without spaces")
    return key


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    text = field.metadata["help"].replace("%", "%%")
    if isinstance(kind, types.UnionType):
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    if field.default is dataclasses.MISSING:
        parser.add_argument(field.name, type=kind, help=text)
        return
    option = "--" + field.name.replace("_", "-")
    if kind is bool:
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default, help=text)
    else:
        parser.add_argument(option, type=kind, default=field.default, help=text)
