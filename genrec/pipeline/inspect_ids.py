"""``genrec inspect ids``: tables of semantic IDs of one dataset side by side, their health and how alike they are."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from genrec.artifacts import Artifact, write_report
from genrec.config.schema import InspectIdsConfig
from genrec.errors import ConfigError, LineageError
from genrec.quantization.comparison import alike, best_tables, flat_figures
from genrec.semantic_ids.table import SemanticIds, load_health, load_semantic_ids
from genrec.terminal import Outcome, Progress, Table

SECTIONS = ("collisions", "levels", "depths", "resolved", "purity", "neighbours", "proxy")  # of a health report today
MAX_COLUMNS = 4  # of a table, more would not fit into a line


def inspect_ids(config: InspectIdsConfig, *, progress: Progress) -> Outcome:
    """Every figure of the tables' health, the best of each marked, and how alike their first codes are.

    Raises:
        ConfigError: fewer than two tables.
        LineageError: tables of different datasets.
    """
    if len(config.tables) < 2:
        raise ConfigError(
            "nothing to compare with",
            where="key 'tables'",
            expected="two tables or more",
            found=", ".join(config.tables) or "none",
            fix="name another: tables.NAME=PATH",
        )
    loaded = {name: load_semantic_ids(path) for name, path in config.tables.items()}
    _check_same_dataset({name: artifact for name, (artifact, _) in loaded.items()})
    reports = {name: load_health(artifact) for name, (artifact, _) in loaded.items()}
    figures = {name: flat_figures(report) for name, report in reports.items()}
    pairs = []
    for done, (one, other) in enumerate(combinations(loaded, 2)):
        progress("how alike", done, len(loaded) * (len(loaded) - 1) // 2)
        depths = alike(loaded[one][1].codes, loaded[other][1].codes, seed=config.seed)
        pairs.append({"tables": [one, other], "depths": depths})
    facts = {
        "dataset": next(iter(loaded.values()))[0].parents.get("dataset"),
        "tables": {
            name: {**_table_facts(artifact, ids, reports[name]), "figures": figures[name]}
            for name, (artifact, ids) in loaded.items()
        },
        "best": best_tables(figures),
        "alike": pairs,
    }
    if config.output is not None:
        write_report(config.output, facts, overwrite=config.overwrite)
    notes = [note for name, report in reports.items() if (note := _what_is_absent(name, report))]
    names = list(loaded)
    groups = [names[start : start + MAX_COLUMNS] for start in range(0, len(names), MAX_COLUMNS)]
    shown = (*(_figures_table(facts, group) for group in groups), _pairs_table(pairs))
    return Outcome(facts, shown, notes=tuple(notes))


def _check_same_dataset(artifacts: dict[str, Artifact]) -> None:
    (first, reference), *others = artifacts.items()
    for name, artifact in others:
        if artifact.parents.get("dataset") != reference.parents.get("dataset"):
            places = [str(of.parent_paths.get("dataset")) for of in (reference, artifact)]
            raise LineageError(
                f"tables {first!r} and {name!r} are of different datasets",
                where=artifact.path,
                expected=f"that of {first!r}, {places[0]}",
                found=places[1],
                fix="compare tables that were made from the same prepared dataset",
            )


def _table_facts(artifact: Artifact, ids: SemanticIds, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(artifact.path),
        "identity": artifact.identity,
        "table": ids.identity,
        "tokenizer": report.get("tokenizer", {}).get("name"),
        "codebook_sizes": list(ids.codebook_sizes),
        "collisions": ids.collisions,
    }


def _what_is_absent(name: str, report: dict[str, Any]) -> str | None:
    absent = [section for section in SECTIONS if section not in report]
    if not absent:
        return None
    return (
        f"the health of {name} has no {', '.join(absent)}: it was written by an earlier version; "
        "tokenize again with the same configuration to compare these"
    )


def _figures_table(facts: dict[str, Any], shown: list[str]) -> Table:
    tables = {name: facts["tables"][name] for name in shown}
    rows: list[tuple[str, ...]] = [
        (key, *(_cell(of[key]) for of in tables.values())) for key in ("tokenizer", "codebook_sizes", "collisions")
    ]
    names = dict.fromkeys(name for of in facts["tables"].values() for name in of["figures"])
    for name in sorted(names, key=_order):
        best = facts["best"].get(name, ())
        cells = [("* " if table in best else "") + _cell(of["figures"].get(name)) for table, of in tables.items()]
        rows.append((name, *cells))
    caption = (
        "* the best of all, where one is better. Lifts rise and shares fall as prefixes get finer: "
        "compare tables of like codebook sizes, or information"
    )
    return Table(f"health of {', '.join(tables)}", ("figure", *tables), tuple(rows), left=("figure",), caption=caption)


def _order(name: str) -> tuple[int, int]:
    """Sections as in a report; within them the order of the first table that has a figure, levels in turn."""
    parts = name.split(".")
    section = SECTIONS.index(parts[0]) + 1 if parts[0] in SECTIONS else 0 if len(parts) == 1 else len(SECTIONS) + 1
    numbers = [int(part) for part in parts if part.isdigit()]
    return section, numbers[0] if numbers and section in (2, 3) else 0


def _pairs_table(pairs: list[dict[str, Any]]) -> Table:
    num_depths = max(len(pair["depths"]) for pair in pairs)
    rows = []
    for pair in pairs:
        cells = [f"{at['nmi']:.3f} (by chance {at['by_chance']:.3f})" for at in pair["depths"]]
        rows.append((" and ".join(pair["tables"]), *cells, *["-"] * (num_depths - len(cells))))
    columns = ("tables", *(f"depth {at + 1}" for at in range(num_depths)))
    caption = "normalised mutual information of the prefixes: 1 where both divide the items alike"
    return Table("how alike the tables are", columns, tuple(rows), left=("tables",), caption=caption)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
