"""The keys of ``serve``, and the options of ``python -m genrec.serving.server``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.config.fields import key


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """A bundle -> the next version in a folder that servers look at."""

    bundle: Path = key("folder of the bundle; it is copied and checked before servers are led to it")
    output: Path = key("folder of versions, which a server was given as its bundle")


@dataclass(frozen=True, kw_only=True)
class RollbackConfig:
    """Back to the version before the one that servers are led to."""

    output: Path = key("folder of versions")
    version: int | None = key(
        "number of the version; null: the last one before that no rollback has left already", None, minimum=1
    )


@dataclass(frozen=True, kw_only=True)
class DiffConfig:
    """Two catalogues -> items that came, went, or have another semantic ID, title or tags."""

    before: Path = key("folder of a bundle, of versions that servers are led to, or of semantic IDs")
    after: Path = key("folder of the later one")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """A bundle -> an HTTP server."""

    bundle: Path = key("folder of a bundle, or one whose entry `current` leads to a bundle and may be swapped")
    host: str = key("address to listen on; the default is reached from this machine alone", "127.0.0.1")
    port: int = key(
        "port to listen on; 0: any free one, which the first line of output names", 8000, minimum=0, maximum=65535
    )
    model_name: str = key("name of the model in the Open Inference Protocol", "genrec")
    api_key_file: Path | None = key("file of one line that requests must send as X-API-Key; null: open to all", None)
    max_batch: int = key("histories that are searched at once; 1: no batching", 16, minimum=1)
    max_wait_ms: float = key("milliseconds that a request may wait for others to join it", 0.0, minimum=0)
    max_queue: int = key("histories that may wait; requests beyond are refused with 503", 256, minimum=1)
    max_body_bytes: int = key("bytes of a request; larger ones are refused with 413", 1 << 20, minimum=1024)
    max_k: int = key(
        "items a request may ask for; more is refused with 422, as is more than the bundle has", 100, minimum=1
    )
    max_history: int = key(
        "items of a history, and items or tags of a list of what may come or not; more is refused with 422",
        10_000,
        minimum=1,
    )
    max_rows: int = key("histories of one inference request; more is refused with 422", 64, minimum=1)
    timeout_s: float = key(
        "seconds for the head of a request, for its body (slower ones: 408), and for its answer (504)",
        10.0,
        minimum=0.01,
    )
    shutdown_s: int = key("seconds that what was begun may take after the signal to end", 30, minimum=0)
    check_s: float = key("seconds between looks for a swapped bundle", 1.0, minimum=0.01)
    num_threads: int = key("threads of one search", 1, minimum=1)
    page: bool = key("serve the demonstration page at /, and the search of titles that it needs", True)
