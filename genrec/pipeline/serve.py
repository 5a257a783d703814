"""``genrec serve``: a bundle, served until it is told to end."""

from __future__ import annotations

from genrec.config.serving import ServeConfig
from genrec.errors import ConfigError
from genrec.terminal import Outcome, Progress


def serve(config: ServeConfig, *, progress: Progress) -> Outcome:
    """Blocks as long as the server lives."""
    try:
        from genrec.serving import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("genrec"):
            raise
        raise ConfigError(f"serving needs {error.name}", fix="pip install 'genrec[serve]'") from error
    server.serve(config)
    return Outcome({"bundle": str(config.bundle)}, notes=("ended; what was begun has been answered",))
