"""The keys of ``report``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.config.fields import key


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A run, an evaluation or a comparison -> one HTML file that needs nothing else."""

    run: Path | None = key("run folder of train or finetune", None)
    evaluation: Path | None = key("folder of an evaluation; null: <run>/evaluation if it is there", None)
    comparison: Path | None = key("folder of a comparison", None)
    diagnosis: Path | None = key("folder of a search diagnosis", None)
    frontier: Path | None = key("folder of a frontier", None)
    output: Path = key("HTML file to write")
    overwrite: bool = key("replace an existing file", False)
    title: str | None = key("heading of the page; null: made of the folders' names", None)
    row: str | None = key("row of the evaluation whose slices and users are shown; null: the best recommender's", None)
    num_users: int = key("example users; 0: none", 6, minimum=0)
    k: int = key("recommendations of an example user", 10, minimum=1)
