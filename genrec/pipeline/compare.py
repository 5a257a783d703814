"""``genrec compare``: evaluations of the same cases -> what is more than luck, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from genrec.artifacts import Artifact, load_artifact, write_artifact
from genrec.config.comparison import CompareConfig
from genrec.config.load import to_plain
from genrec.errors import ConfigError, LineageError
from genrec.evaluation.comparison import FEW_SEEDS, ComparisonProtocol, System, compare_systems, signed
from genrec.evaluation.evaluate import KIND as EVALUATION
from genrec.evaluation.evaluate import Evaluation, load_evaluation
from genrec.files import write_json
from genrec.pipeline.evaluate import short
from genrec.terminal import Outcome, Progress, Table

KIND = "comparison"
MASK_WORDS = {"none": "no mask", "seen": "seen items masked"}
CASES = ("case_index", "user_index", "target", "history_length")


class Source(NamedTuple):
    """One row of one evaluation."""

    artifact: Artifact
    evaluation: Evaluation
    row: str

    @property
    def is_trained(self) -> bool:
        return self.row in self.evaluation.report["configuration"]["recommenders"]

    @property
    def table(self) -> pl.DataFrame:
        return self.evaluation.cases.filter(pl.col("model") == self.row)

    def __str__(self) -> str:
        return f"{self.artifact.path}:{self.row}"


def compare(config: CompareConfig, *, progress: Progress) -> Outcome:
    """Reads the evaluations, refuses what cannot be compared, and writes the comparison."""
    if len(config.systems) < 2:
        fix = "set systems.a=FOLDER systems.b=FOLDER, folders that genrec evaluate has written"
        raise ConfigError(
            "too few systems", where="key 'systems'", expected="two or more", found=len(config.systems), fix=fix
        )
    reference = config.reference or next(iter(config.systems))
    if reference not in config.systems:
        expected = f"one of {', '.join(config.systems)}"
        raise ConfigError("unknown system", where="key 'reference'", expected=expected, found=repr(reference))
    opened: dict[Path, tuple[Artifact, Evaluation]] = {}
    sources = {
        name: [_open(word, f"key 'systems.{name}'", opened) for word in ([words] if isinstance(words, str) else words)]
        for name, words in config.systems.items()
    }
    _check_alike(sources)
    first = sources[reference][0].evaluation.report["protocol"]
    _check_cutoff(config.cutoff, sources)
    protocol = ComparisonProtocol(
        config.cutoff,
        first["tie_rule"],
        config.num_resamples,
        config.num_permutations,
        config.confidence,
        config.seed,
        config.pair_seeds,
    )
    systems = [
        System(name, [source.table for source in found], has_seeds=any(source.is_trained for source in found))
        for name, found in sources.items()
    ]
    progress("compare", 0, 1)
    report = compare_systems(systems, reference, protocol)
    progress("compare", 1, 1)
    report["split"] = sources[reference][0].evaluation.report["split"]
    report["configuration"] = to_plain(config)
    report["sources"] = {name: [str(source) for source in found] for name, found in sources.items()}
    notes = [*_level_notes(report["comparisons"], protocol), *_notes(systems, sources)]
    report["notes"] = notes
    parents = {
        f"{name} {number}": source.artifact for name, found in sources.items() for number, source in enumerate(found)
    }
    facts = {"systems": list(sources), "reference": reference, "protocol": report["protocol"]}
    with write_artifact(config.output, kind=KIND, facts=facts, parents=parents, overwrite=config.overwrite) as writer:
        write_json(writer.path("report.json"), report)
    summary = {
        "output": str(config.output),
        "identity": writer.artifact.identity,
        **{name: report[name] for name in ("num_cases", "systems", "comparisons", "overlap", "verdicts", "notes")},
    }
    verdicts = [f"{MASK_WORDS[found['mask']]}: {found['text']}" for found in report["verdicts"]]
    return Outcome(summary, _tables(report), notes=(*verdicts, *notes))


def _open(word: str, where: str, opened: dict[Path, tuple[Artifact, Evaluation]]) -> Source:
    """FOLDER or FOLDER:ROW; a folder of that very name goes before."""
    folder, _, row = (word, "", "") if Path(word).is_dir() else word.rpartition(":") if ":" in word else (word, "", "")
    path = Path(folder).expanduser().resolve()
    if path not in opened:
        opened[path] = load_artifact(path, kind=EVALUATION), load_evaluation(path)
    artifact, evaluation = opened[path]
    rows = evaluation.report["models"]
    trained = [name for name in rows if name in evaluation.report["configuration"]["recommenders"]]
    if not row:
        choice = trained or rows
        if len(choice) > 1:
            fix = f"name one, as in {folder}:{choice[0]}"
            raise ConfigError(
                "the evaluation has several rows", where=where, expected="FOLDER:ROW", found=", ".join(rows), fix=fix
            )
        row = choice[0]
    if row not in rows:
        raise ConfigError(
            "the evaluation has no such row", where=where, expected=f"one of {', '.join(rows)}", found=repr(row)
        )
    return Source(artifact, evaluation, row)


def _check_alike(sources: dict[str, list[Source]]) -> None:
    """Raises LineageError unless all were ranked on the same cases in the same way, ConfigError for a row twice."""
    every = [source for found in sources.values() for source in found]
    names = [(source.artifact.identity, source.row) for source in every]
    for source, name in zip(every, names, strict=True):
        if names.count(name) > 1:
            raise ConfigError("the same row twice", where="key 'systems'", found=source, fix="leave one of them out")
    first = every[0]
    for source in every[1:]:
        for what, one, other in _differences(first, source):
            raise LineageError(
                f"evaluations with another {what} cannot be compared",
                where=source.artifact.path,
                expected=f"{one}, as in {first.artifact.path}",
                found=other,
                fix="evaluate both alike",
            )


def _differences(first: Source, second: Source) -> list[tuple[str, Any, Any]]:
    """(what, of the first, of the second) of all that has to be equal."""
    a, b = first.evaluation.report, second.evaluation.report
    facts = [
        ("dataset", first.artifact.parents["dataset"][:12], second.artifact.parents["dataset"][:12]),
        ("split", a["split"], b["split"]),
        ("number of items", a["protocol"]["num_items"], b["protocol"]["num_items"]),
        ("tie rule", a["protocol"]["tie_rule"], b["protocol"]["tie_rule"]),
        ("ranking", a["protocol"]["ranking"], b["protocol"]["ranking"]),
        ("set of masks", ", ".join(a["protocol"]["masks"]), ", ".join(b["protocol"]["masks"])),
        ("number of cases", first.table.height, second.table.height),
    ]
    found = [fact for fact in facts if fact[1] != fact[2]]
    if not found and first.evaluation is not second.evaluation:
        columns = [name for name in CASES if not first.table[name].equals(second.table[name])]
        found = [("set of cases", "equal cases", f"other values of {', '.join(columns)}")] if columns else []
    return found


def _check_cutoff(cutoff: int, sources: dict[str, list[Source]]) -> None:
    """Beyond the largest cut-off that was evaluated, a search may not have looked."""
    for found in sources.values():
        for source in found:
            largest = max(source.evaluation.report["protocol"]["cutoffs"])
            if cutoff > largest:
                raise ConfigError(
                    "the cut-off is above those of the evaluation",
                    where="key 'cutoff'",
                    expected=f"at most {largest} for {source.artifact.path}",
                    found=cutoff,
                    fix=f"set cutoff={largest}",
                )


def _level_notes(comparisons: Sequence[dict[str, Any]], protocol: ComparisonProtocol) -> list[str]:
    """What the number of sign patterns makes impossible."""
    least = len(comparisons) / (1 + protocol.num_permutations)
    if least <= 1 - protocol.confidence or all(row["over"] != "cases" for row in comparisons):
        return []
    return [
        f"{protocol.num_permutations} sign patterns cannot show a difference at this level: {len(comparisons)} "
        f"comparisons make every corrected p-value {least:.3f} or more; set num_permutations=10000"
    ]


def _notes(systems: Sequence[System], sources: dict[str, list[Source]]) -> list[str]:
    notes = []
    for system in systems:
        if system.has_seeds and len(system.tables) < FEW_SEEDS:
            seeds = "one seed" if len(system.tables) == 1 else f"{len(system.tables)} seeds"
            what = (
                "what another seed would change is in no interval"
                if len(system.tables) == 1
                else "its seed error is hardly known"
            )
            notes.append(f"{system.name} has {seeds}: {what}; {FEW_SEEDS} or more are worth a claim")
    searches = {
        name: source.evaluation.report["configuration"]["search"]
        for name, found in sources.items()
        for source in found
        if source.is_trained
    }
    for key in sorted(set.intersection(*map(set, searches.values())) - {"batch_size"} if searches else ()):
        values = {name: search.get(key) for name, search in searches.items()}
        if len({str(value) for value in values.values()}) > 1:
            notes.append(
                f"searched in other ways: search.{key} is {', '.join(f'{v} for {n}' for n, v in values.items())}"
            )
    return notes


def _tables(report: dict[str, Any]) -> tuple[Table, ...]:
    protocol = report["protocol"]
    level, reference = f"{100 * protocol['confidence']:g} %", protocol["reference"]
    columns = (
        "system",
        "seeds",
        "seen mask",
        "metric",
        "mean",
        f"minus {reference}",
        level,
        "over",
        "p (Holm)",
        "detectable",
    )
    found = {(row["system"], row["mask"], row["metric"]): row for row in report["comparisons"]}
    rows = []
    for system in report["systems"]:
        for mean in system["means"]:
            row = found.get((system["name"], mean["mask"], mean["metric"]))
            cells = ("", "", "", "", "") if row is None else _comparison_cells(row)
            rows.append(
                (system["name"], str(system["num_seeds"]), mean["mask"], mean["metric"], short(mean["mean"]), *cells)
            )
    title = f"{report['num_cases']:,} {report['split']} cases of {report['num_users']:,} users, against {reference}"
    caption = f"detectable: the true difference that is found in {protocol['power']:.0%} of such tests"
    tables = [Table(title, columns, tuple(rows), left=("system", "seen mask", "metric", "over"), caption=caption)]
    metric = f"recall@{protocol['cutoff']}"
    columns = (
        "system",
        "slice",
        "label",
        "cases",
        f"{metric} minus {reference}",
        "standard error",
        "won",
        "tied",
        "lost",
    )
    cells = tuple(
        (
            row["system"],
            row["slice"].replace("_", " "),
            row["label"],
            f"{row['num_cases']:,}",
            signed(row["difference"]),
            "" if row["standard_error"] is None else short(row["standard_error"]),
            *(f"{row[name]:,}" for name in ("num_won", "num_tied", "num_lost")),
        )
        for row in report["slices"]
        if (row["mask"], row["metric"]) == ("none", metric)
    )
    tables.append(Table(f"{metric} by slice, no mask", columns, cells, left=columns[:3]))
    columns = ("system", "seen mask", "both", "system only", f"{reference} only", "neither", "seeds of one agree")
    agreement = {system["name"]: system["agreement"] for system in report["systems"]}
    cells = tuple(
        (
            row["system"],
            row["mask"],
            *(short(row[name]) for name in ("both", "system_only", "reference_only", "neither")),
            f"{agreement[row['system']][row['mask']]:.0%}" if row["mask"] in agreement[row["system"]] else "",
        )
        for row in report["overlap"]
    )
    tables.append(
        Table(f"targets among the first {protocol['cutoff']}: shares of the cases", columns, cells, left=columns[:2])
    )
    return tuple(tables)


def _comparison_cells(row: dict[str, Any]) -> tuple[str, ...]:
    reach = row["smallest_detectable_effect"]
    return (
        signed(row["difference"]),
        f"[{signed(row['low'])}, {signed(row['high'])}]",
        row["over"],
        f"{row['p_holm']:.3f}",
        "" if reach is None else short(reach),
    )
