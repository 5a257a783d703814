"""``genrec reproduce``: a published number, from raw files to a verdict; without a cell, the ledger of them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from genrec.artifacts import Artifact, write_artifact
from genrec.config import reproduce as settings
from genrec.config.load import to_plain
from genrec.errors import DataError, GateError
from genrec.evaluation.verdict import judge, seed_interval, together
from genrec.files import read_json, write_json
from genrec.pipeline.evaluate import evaluate, short
from genrec.pipeline.ledger import (
    COMMANDS,
    Number,
    Plan,
    changes,
    describe,
    ledger_table,
    numbers_of,
    protocol_of,
    read_ledger,
    resolve,
    short_metric,
    show,
)
from genrec.pipeline.prepare import prepare
from genrec.pipeline.stages import Stages, collaborative_of, id_files, initial_of, raw_files
from genrec.terminal import Outcome, Progress, Table, quieten_lightning

KIND = "reproduction"
FILE = "reproduction.json"


def reproduce(config: settings.ReproduceConfig, *, progress: Progress) -> Outcome:
    """Runs a cell, re-using what has not changed, and compares it with what was published.

    Raises:
        GateError: the cell is to be checked, and is not reproduced; the verdict is written all the same.
    """
    if config.cell is None and config.claim is None:
        plans = list(map(resolve, read_ledger().values()))
        cells = {plan.cell: describe(plan) for plan in plans}
        return Outcome({"cells": cells}, (ledger_table(plans),), next="genrec reproduce item-knn-office raw_dir=...")
    plan = resolve(config)
    parents, reused = _run(plan, config.seeds, progress)
    reports = {role: read_json(artifact.file("report.json")) for role, artifact in parents.items() if role != "dataset"}
    judged = [_judge(number, plan, reports) for number in numbers_of(plan.claim)]
    verdict = together([row["verdict"] for row in judged])
    facts = {"cell": plan.cell, "verdict": verdict}
    found = {
        **facts,
        "is_settled": all(row["is_settled"] for row in judged),
        "numbers": judged,
        "seeds": [] if plan.train is None else list(config.seeds),
        "changes": changes(config),
        "claim": to_plain(plan.claim),
        "protocol": protocol_of(plan),
        "configuration": {command: to_plain(getattr(plan, command)) for command in COMMANDS},
    }
    with write_artifact(plan.output / KIND, kind=KIND, facts=facts, parents=parents, overwrite=True) as writer:
        write_json(writer.path(FILE), found)
    outcome = _outcome(found, plan, reused, writer.artifact)
    is_checked = plan.train is None if config.check is None else config.check
    if is_checked and verdict != "reproduced":
        error = GateError(
            f"the cell {plan.cell!r} is {verdict}",
            where=plan.output / KIND / FILE,
            fix="compare data, versions and changes, or set check=false",
        )
        error.evidence = outcome
        raise error
    return outcome


def _run(plan: Plan, seeds: tuple[int, ...], progress: Progress) -> tuple[dict[str, Artifact], list[str]]:
    """Dataset and evaluations by role, and what was used again."""
    stages = Stages(plan.output, of="cell")
    start = {} if plan.train is None else initial_of(plan.train)
    dataset = stages.run("prepare", plan.prepare, plan.prepare.output, raw_files(plan.prepare), prepare, progress)
    inputs = {"dataset": dataset.identity}
    if plan.train is None:
        return {"dataset": dataset, "evaluation": _evaluate(stages, plan.evaluate, inputs, progress)}, stages.reused
    _import_training()
    trained_on = {**inputs, **start, **_semantic_ids(plan, stages, inputs, progress)}
    parents, reused = {"dataset": dataset}, list(stages.reused)
    for seed in seeds:
        training, evaluation = plan.seeded(seed)
        own = Stages(plan.output / f"seed_{seed}", of="cell")  # remembers its own work, so that seeds may come and go
        recommender = own.train(training, trained_on, progress)
        measured_on = {**inputs, "recommender": recommender.identity}
        parents[f"evaluation of seed {seed}"] = _evaluate(own, evaluation, measured_on, progress)
        reused += [f"seed {seed}: {stage}" for stage in own.reused]
    return parents, reused


def _semantic_ids(plan: Plan, stages: Stages, inputs: dict[str, str], progress: Progress) -> dict[str, str]:
    """The identity of the semantic IDs, if the cell has any, after the work for them."""
    from genrec.pipeline.embed import embed
    from genrec.pipeline.tokenizer import tokenize

    given = dict(inputs)
    if plan.embed is not None:
        vectors = stages.run("embed", plan.embed, plan.embed.output, inputs, embed, progress)
        given["embeddings"] = vectors.identity
    if plan.tokenize is None:
        return {}
    given |= {**id_files(plan.tokenize), **collaborative_of(plan.tokenize)}
    table = stages.run("tokenize", plan.tokenize, plan.tokenize.output, given, tokenize, progress)
    return {"semantic_ids": table.identity}


def _import_training() -> None:
    """Torch and Lightning take seconds, which a baseline and the ledger can do without."""
    importlib.import_module("genrec.pipeline.train")
    quieten_lightning()


def _evaluate(stages: Stages, config: Any, inputs: dict[str, str], progress: Progress) -> Artifact:
    return stages.run("evaluate", config, config.output, inputs, evaluate, progress)


def _judge(number: Number, plan: Plan, reports: Mapping[str, Any]) -> dict[str, Any]:
    """One published number against what the evaluations say: of one seed over cases, of several over seeds."""
    cells = {role: _measured(report, plan.row, number) for role, report in reports.items()}
    values = [cell["mean"] for cell in cells.values()]
    mean = math.fsum(values) / len(values)
    if len(values) > 1:
        low, high = seed_interval(values, confidence=plan.evaluate.confidence)
    else:
        (only,) = cells.values()
        low, high = only["low"], only["high"]
    # What trains nothing gives the same numbers on the same cases, whatever other cases would have given.
    interval = None if plan.train is None else (low, high)
    judgement = judge(mean, interval, published=number.value, tolerance=number.tolerance)
    return {
        **asdict(number),
        "by_evaluation": {role: cell["mean"] for role, cell in cells.items()},
        "mean": mean,
        "low": low,
        "high": high,
        "interval": f"over {len(values)} seeds" if len(values) > 1 else "over cases",
        **judgement._asdict(),
    }


def _measured(report: Mapping[str, Any], row: str, number: Number) -> dict[str, float]:
    for found in report["rows"]:
        if (found["model"], found["mask"]) == (row, number.mask) and number.metric in found["metrics"]:
            return found["metrics"][number.metric]
    raise DataError(
        "the evaluation lacks a number of the cell", expected=f"{number.metric} of {row}, {number.mask} mask"
    )


def _outcome(found: Mapping[str, Any], plan: Plan, reused: list[str], artifact: Artifact) -> Outcome:
    claim, name = found["claim"], found["cell"]
    level = f"{100 * plan.evaluate.confidence:g} %"
    columns = ("metric", "mask", "published", "tolerance", "here", level, "by seed", "verdict")
    rows = tuple(
        (
            short_metric(row["metric"]),
            row["mask"],
            short(row["value"]),
            f"±{show(row['tolerance'])}",
            short(row["mean"]),
            f"{short(row['low'])}-{short(row['high'])} {row['interval']}",
            ", ".join(map(short, row["by_evaluation"].values())) if plan.train is not None else "-",
            row["verdict"] + ("" if row["is_settled"] else ", not settled"),
        )
        for row in found["numbers"]
    )
    notes = [
        f"{claim['source']} [{claim['trust']}]: {claim['model']}",
        f"there: {claim['protocol']}; here: {found['protocol']}",
        *(f"departs: {line}" for line in claim["deviations"]),
        f"tolerance: {claim['tolerance_reason']}",
        *(f"{stage}: unchanged, used again" for stage in reused),
    ]
    if found["changes"]:
        notes.append(f"not the cell of the ledger: {' '.join(found['changes'])}")
    if not found["is_settled"]:
        notes.append("not settled: the interval reaches beyond the verdict; more seeds tell")
    table = Table(
        f"{name}{', changed' if found['changes'] else ''}: {found['verdict']}",
        columns,
        rows,
        left=("metric", "mask", "verdict"),
        caption=str(artifact.path),
    )
    summary = {**found, "output": str(artifact.path), "identity": artifact.identity, "reused": reused}
    return Outcome(summary, (table,), notes=tuple(notes))
