"""``genrec serve``, ``genrec catalogue publish`` and ``rollback``: a bundle is served, replaced, and brought back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec.config.serving import PublishConfig, RollbackConfig, ServeConfig
from genrec.errors import ConfigError
from genrec.serving import swap
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


def publish(config: PublishConfig, *, progress: Progress) -> Outcome:
    """The bundle becomes the next version; a running server takes it at its next look."""
    with packages_of_serving():
        from genrec.serving.open_bundle import open_bundle
    progress("publish", 0, 1)
    return _led_to(swap.publish(config.output, config.bundle, open_bundle))


def rollback(config: RollbackConfig, *, progress: Progress) -> Outcome:
    """Servers are led to the version before; the one that is left stays where it is."""
    with packages_of_serving():
        from genrec.serving.open_bundle import open_bundle
    progress("rollback", 0, 1)
    return _led_to(swap.rollback(config.output, open_bundle, version=config.version))


def _led_to(version: Path) -> Outcome:
    note = f"{version.parent.parent / swap.CURRENT} leads to {version}"
    return Outcome({"version": str(version)}, notes=(note,))
