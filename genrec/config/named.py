"""Named configurations: where ``configs/<folder>/<name>.yaml`` is looked for. Standard library only."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path

from genrec.errors import ConfigError

logger = logging.getLogger(__name__)


def find_config(folder: str, word: str, *, where: str = "command line") -> Path:
    """A YAML file by its path, or by its name in ``configs/<folder>/`` of this folder or of the package.

    Args:
        folder: mostly the name of a command.
        word: the path or the name.
        where: who names it.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    path = Path(word)
    if path.suffix in (".yaml", ".yml") and os.path.isfile(path):
        return path
    names = named_configs(folder)
    if word in names:
        shipped = [place / folder / f"{word}.yaml" for place in config_folders()[1:]]
        if any(file.is_file() and not file.samefile(names[word]) for file in shipped):
            logger.warning("%s of this folder stands in for the shipped %s", names[word], word)
        return names[word]
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(names) or "none"
    raise ConfigError(
        f"{word!r} is neither key=value, nor a YAML file, nor a name in configs/{folder}{hint} (names: {known})",
        where=where,
    )


def named_configs(folder: str) -> dict[str, Path]:
    """Every name in ``configs/<folder>/`` with its file; this folder's stand in for the shipped ones."""
    names: dict[str, Path] = {}
    for place in reversed(config_folders()):
        names.update({file.stem: file for file in sorted((place / folder).glob("*.yaml"))})
    return names


def config_folders() -> list[Path]:
    """Where named configurations are looked for: this folder, the checkout, the installed package."""
    package = Path(__file__).resolve().parent.parent
    folders = (Path("configs"), package.parent / "configs", package / "configs")
    return [folder for folder in folders if folder.is_dir()]
