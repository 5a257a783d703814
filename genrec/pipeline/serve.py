"""``genrec serve``: a bundle, served until it is told to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from genrec.config.serving import ServeConfig
from genrec.errors import ConfigError
from genrec.terminal import Outcome, Progress


@contextmanager
def packages_of_serving() -> Iterator[None]:
    """In the block, a package that only the extra `serve` brings is missing with one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("genrec"):
            raise
        raise ConfigError(f"serving needs {error.name}", fix="pip install 'genrec[serve]'") from error


def serve(config: ServeConfig, *, progress: Progress) -> Outcome:
    """Blocks as long as the server lives."""
    with packages_of_serving():
        from genrec.serving import server
    server.serve(config)
    return Outcome({"bundle": str(config.bundle)}, notes=("ended; what was begun has been answered",))
