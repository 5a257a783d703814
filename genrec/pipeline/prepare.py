"""``genrec prepare`` and ``genrec audit``: raw files -> dataset artifact, and what it hides."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrec.artifacts import write_report
from genrec.config import schema
from genrec.config.load import to_plain
from genrec.data.audit import audit as audit_tables
from genrec.data.audit import audit_rows
from genrec.data.cards import find_card
from genrec.data.dataset import Dataset, save_dataset
from genrec.data.filters import FilterPolicy
from genrec.data.item_table import TextPolicy
from genrec.data.prepare import OrderPolicy, Prepared
from genrec.data.prepare import prepare as prepare_data
from genrec.data.sources.registry import read_source
from genrec.data.splits import SplitPolicy
from genrec.errors import ConfigError, DataError, GateError, MissingFileError
from genrec.terminal import Outcome, Progress, Table


def prepare(config: schema.PrepareConfig, *, progress: Progress) -> Outcome:
    """Raw files -> dataset artifact, with its audit."""
    raw_dir = raw_folder(config)
    _fetch(config, raw_dir, progress)
    options = asdict(config.source)
    name = options.pop("name")
    progress("prepare", 0, 4)  # of four stages: read, filter and split, audit, write
    try:
        raw = read_source(name, raw_dir, **options)
    except MissingFileError as error:
        if config.card is None or not any(file.url for file in find_card(config.card).files):
            raise
        raise MissingFileError(f"{error}, or download=true") from error
    progress("prepare", 1, 4)
    prepared = prepare_data(
        raw,
        filters=FilterPolicy(**asdict(config.filter)),
        order=OrderPolicy(**asdict(config.order)),
        split=SplitPolicy(**asdict(config.split)),
        text=TextPolicy(**asdict(config.text)),
    )
    _check_counts(prepared, config.expect)
    progress("prepare", 2, 4)
    found = audit_tables(prepared.interactions, prepared.items)
    progress("prepare", 3, 4)
    facts = {"source": to_plain(config.source), "card": config.card}
    artifact = save_dataset(prepared, config.output, facts=facts, audit=found, overwrite=config.overwrite)
    progress("prepare", 4, 4)
    steps = prepared.facts["steps"]
    table = Table(
        f"{config.output}: what each step left",
        ("step", "interactions", "users", "items"),
        tuple(tuple(_cell(step[name]) for name in ("step", "interactions", "users", "items")) for step in steps),
        left=("step",),
    )
    summary = {**_sizes(prepared), "output": str(config.output), "identity": artifact.identity, "audit": found}
    follow = f"genrec evaluate dataset={config.output} output=runs/{config.output.name}_baselines"
    return Outcome(summary, (table, _audit_table(found)), notes=tuple(prepared.facts["notes"]), next=follow)


def audit(config: schema.AuditConfig, *, progress: Progress) -> Outcome:
    """The audit of a prepared dataset, from its tables."""
    dataset = Dataset.load(config.dataset)
    found = audit_tables(dataset.load_interactions(), dataset.items)
    if config.output is not None:
        write_report(config.output, found, overwrite=config.overwrite)
    return Outcome(found, (_audit_table(found),))


def raw_folder(config: schema.PrepareConfig) -> Path:
    """Where the raw files are."""
    if config.raw_dir is not None:
        return config.raw_dir
    return Path("data") / "raw" / config.card if config.card else Path()


def _fetch(config: schema.PrepareConfig, raw_dir: Path, progress: Progress) -> None:
    """Downloads the card's files if that is wanted; says so where it would help."""
    from genrec.data.download import download

    card = find_card(config.card) if config.card is not None else None
    if config.download and card is None:
        raise ConfigError("nothing to download", where="key 'download'", fix="get the files by hand, set raw_dir=...")
    if config.download and card is not None:
        download(card.files, raw_dir, progress=progress)
    elif card is not None and not raw_dir.is_dir():
        can_download = any(file.url for file in card.files)
        fix = "set raw_dir=..." + (", or download=true" if can_download else f"; the files are at {card.homepage}")
        raise DataError("there is no such folder of raw files", where=raw_dir, fix=fix)


def _sizes(prepared: Prepared) -> dict[str, int]:
    return {name: int(prepared.facts[f"num_{name}"]) for name in ("users", "items", "interactions")}


def _check_counts(prepared: Prepared, expect: schema.ExpectSection | None) -> None:
    if expect is not None and asdict(expect) != _sizes(prepared):
        raise GateError(
            "the prepared data have other counts than the configuration expects",
            where="key 'expect'",
            expected=" / ".join(map(str, asdict(expect).values())),
            found=" / ".join(map(str, _sizes(prepared).values())) + " users / items / interactions",
            fix="correct the files or the filters, or set expect=null",
        )


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _audit_table(found: dict[str, Any]) -> Table:
    return Table("audit", ("what", "value", "remark"), tuple(audit_rows(found)), left=("what", "remark"))
