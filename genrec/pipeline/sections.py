"""Remedies of a command whose configuration is a section of another command's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from genrec.errors import GenrecError


@contextmanager
def keys_of(section: str, of: str = "recipe") -> Iterator[None]:
    """In the block, a remedy that names keys says that these stand in a section of the recipe, or of another `of`."""
    try:
        yield
    except GenrecError as error:
        if "=" in str(error):
            error.args = (f"{error} (in a {of}, its keys begin with '{section}.')",)
        raise
