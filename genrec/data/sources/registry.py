"""All sources by name: the one way from a configuration's ``source`` section to a `RawData`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path

from genrec.data.schema import RAW_ITEMS, RAW_OPTIONAL, RAW_REQUIRED, RawData, check_frame
from genrec.data.sources.amazon import (
    read_amazon_2014,
    read_amazon_2018,
    read_amazon_2023,
    read_amazon_2023_splits,
)
from genrec.data.sources.lines import readable
from genrec.data.sources.movielens import read_movielens_1m, read_movielens_100k
from genrec.data.sources.names import nearest
from genrec.data.sources.sequences import read_letter, read_sasrec_text, read_sequences_jsonl
from genrec.data.sources.tables import TableColumns, read_table
from genrec.data.synthetic import read_synthetic
from genrec.errors import ConfigError, DataError

SOURCES: dict[str, Callable[..., RawData]] = {
    "amazon_2014": read_amazon_2014,
    "amazon_2018": read_amazon_2018,
    "amazon_2023": read_amazon_2023,
    "amazon_2023_splits": read_amazon_2023_splits,
    "movielens_100k": read_movielens_100k,
    "movielens_1m": read_movielens_1m,
    "sasrec": read_sasrec_text,
    "sequences_jsonl": read_sequences_jsonl,
    "letter": read_letter,
    "table": read_table,
    "synthetic": read_synthetic,
}
WITHOUT_FILES = ("synthetic",)


def source_options(name: str) -> dict[str, bool]:
    """The options of a source, and which of them are required.

    >>> source_options("letter")
    {'interactions': True, 'items': False, 'codes': False}
    """
    options: dict[str, bool] = {}
    for parameter in list(inspect.signature(SOURCES[name]).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            options |= dict.fromkeys(typing.get_type_hints(TableColumns), False)
        else:
            options[parameter.name] = parameter.default is parameter.empty
    return options


def read_source(name: str, raw_dir: Path | str, **options: object) -> RawData:
    """Reads raw data with the source `name`.

    Args:
        name: a key of `SOURCES`.
        raw_dir: folder that the file options are relative to.
        **options: keyword arguments of the source.

    Returns:
        The data, their column types checked.

    Raises:
        ConfigError: unknown source or option, missing option.
        DataError: no such folder; whatever the source finds wrong.
        StorageError: the folder or a file may not be read.
    """
    if name not in SOURCES:
        raise ConfigError(f"unknown source {name!r}{nearest(name, SOURCES)}", expected=f"one of {', '.join(SOURCES)}")
    accepted = source_options(name)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        hint = nearest(unknown[0], accepted)
        raise ConfigError(f"source {name}: unknown option {unknown[0]!r}{hint} (accepted: {', '.join(accepted)})")
    missing = [option for option, is_required in accepted.items() if is_required and option not in options]
    if missing:
        shown = ", ".join(missing)
        fix = f"set source.{missing[0]}=..."
        raise ConfigError(f"source {name}: missing option{'s' if len(missing) > 1 else ''} {shown}", fix=fix)
    folder = Path(raw_dir)
    with readable(folder):
        if name not in WITHOUT_FILES and not folder.is_dir():
            raise DataError("there is no such folder", where=folder, fix="set raw_dir=... to the folder of the files")
    raw = SOURCES[name](folder, **options)
    check_frame(raw.interactions, RAW_REQUIRED, RAW_OPTIONAL, where=f"source {name}")
    if raw.items is not None:
        check_frame(raw.items, RAW_ITEMS, where=f"items of source {name}")
    return raw
