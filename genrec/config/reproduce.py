"""The configuration of ``genrec reproduce``: a cell of the ledger of published numbers. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec.config.fields import key


@dataclass(frozen=True, kw_only=True)
class NamedSection:
    """The named configurations of the commands that a cell begins with; it runs a command that is named or has keys."""

    prepare: str | None = key("name in configs/prepare, or a YAML file; null: the defaults", None)
    embed: str | None = key("of configs/embed, likewise", None)
    tokenize: str | None = key("of configs/tokenize", None)
    train: str | None = key("of configs/train", None)
    evaluate: str | None = key("of configs/evaluate", None)


@dataclass(frozen=True, kw_only=True)
class NumbersSection:
    """Means over all cases by metric, as in {recall@10: 0.0972}."""

    none: dict[str, float] = key("no mask", dict)
    seen: dict[str, float] = key("the items of the history masked", dict)


@dataclass(frozen=True, kw_only=True)
class RecordedSection(NumbersSection):
    """What an experiment of ours has found for the same cell."""

    where: str = key("file of the project that holds it")
    row: str | None = key("row of its table, where it is a report; null: text", None)
    remark: str = key("what is different there; empty: nothing", "")


@dataclass(frozen=True, kw_only=True)
class ClaimSection:
    """What was published, and how far the way to it is ours."""

    source: str = key("paper or repository, table and row")
    trust: Literal["paper", "code", "third", "measured"] = key(
        "read in the paper, in its code, at a third party, or measured on the same files"
    )
    model: str = key("what was trained or fitted")
    protocol: str = key("how the source measured: split, mask, search")
    deviations: tuple[str, ...] = key("where this run departs from it", ())
    published: NumbersSection = key("the numbers")
    tolerance: dict[str, float] = key("largest difference by metric that still is the published number")
    tolerance_reason: str = key("why that much")
    cost: str = key("hardware and time")
    recorded: RecordedSection | None = key("what we have found already; null: it has not been run", None)


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """A published number, from raw files to a verdict; without a cell, the ledger of all that are known."""

    cell: str | None = key("its name in the ledger (give it as a word); null: show the ledger", None)
    claim: ClaimSection | None = key("what was published", None)
    named: NamedSection = key("named configurations to begin with", NamedSection)
    prepare: dict[str, Any] = key("keys of genrec prepare that differ from them", dict)
    embed: dict[str, Any] = key("keys of genrec embed", dict)
    tokenize: dict[str, Any] = key("keys of genrec tokenize", dict)
    train: dict[str, Any] = key("keys of genrec train", dict)
    evaluate: dict[str, Any] = key("keys of genrec evaluate", dict)
    raw_dir: Path | None = key("folder of the raw files; null: as the named configuration of prepare says", None)
    download: bool = key("fetch the raw files first, where they have a public address", False)
    output: Path | None = key("folder of everything it makes; null: runs/reproduce/<cell>", None)
    seeds: tuple[int, ...] = key("seeds of the trainings; a cell that trains nothing has none", (0, 1, 2), minimum=0)
    check: bool | None = key(
        "leave with exit code 4 unless reproduced; null: only where nothing is trained, so that luck plays no part",
        None,
    )
