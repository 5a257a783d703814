"""Where the parts of a bundle's batch job are made. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.config.fields import key


@dataclass(frozen=True, kw_only=True)
class LocalEngine:
    """One part after the other, in this process."""

    name: Literal["local"] = "local"


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Parts are given out to the actors of a Ray Data job, on a cluster whose machines share the files of the job."""

    name: Literal["ray"] = "ray"
    num_actors: int | None = key(
        "actors, each of which opens the bundle and holds num_threads processors; null: as many as the processors hold",
        None,
        minimum=1,
    )
    address: str | None = key(
        "of a running cluster: host:port, or auto on one of its machines; null: a Ray of its own on this machine, for "
        "the length of the job",
        None,
    )


Engine = LocalEngine | RayEngine
