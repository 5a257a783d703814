"""``genrec report``: artifacts -> one self-contained HTML file; every number in it comes from a file that it names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import genrec
from genrec.artifacts import MANIFEST, Artifact, check_outside_artifacts, load_artifact
from genrec.config.report import ReportConfig
from genrec.errors import ConfigError, LineageError, RunError
from genrec.evaluation.evaluate import KIND as EVALUATION
from genrec.files import read_json, sha256_file, write_text
from genrec.pipeline.compare import KIND as COMPARISON
from genrec.pipeline.report_users import example_users
from genrec.reports import evaluation_sections, run_sections, search_sections
from genrec.reports.html import Html, element, page
from genrec.runs import read_metrics
from genrec.terminal import Outcome, Progress, Table

DRAWN = (".svg",)


class Sources:
    """Every file that was read, with its hash; names are relative to the folder they belong to."""

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []

    def read(self, path: Path, name: str) -> Any:
        return read_json(self.note(path, name))

    def note(self, path: Path, name: str) -> Path:
        entry = (name, sha256_file(path))
        if entry not in self.files:
            self.files.append(entry)
        return path

    def words(self, *names: str) -> list[Any]:
        """What a section says about where its numbers are from."""
        parts: list[Any] = []
        for name, digest in self.files:
            if name in names:
                parts += [", " if parts else None, element("code", name), f" (sha256 {digest[:12]})"]
        return parts


class Pages:
    """What there is to report, opened: sections are added in the order in which they are read."""

    def __init__(self, config: ReportConfig) -> None:
        self.config = config
        self.sources = Sources()
        self.names: dict[str, str] = {}
        self.sections: list[Html] = []

    def add(self, name: str, word: str, content: Html) -> None:
        self.names[name] = word
        self.sections.append(content)


def report(config: ReportConfig, *, progress: Progress) -> Outcome:
    """Reads what was given and what it was made from, and writes the page."""
    if config.output.exists() and not config.overwrite:
        raise RunError("the file is there already", where=config.output, fix="set overwrite=true or another output")
    check_outside_artifacts(config.output)
    evaluation_path = config.evaluation
    if evaluation_path is None and config.run is not None and (config.run / "evaluation" / MANIFEST).is_file():
        evaluation_path = config.run / "evaluation"
    given = [config.run, evaluation_path, config.comparison, config.diagnosis, config.frontier]
    if not any(path is not None for path in given):
        fix = "set run=FOLDER, evaluation=FOLDER or comparison=FOLDER"
        raise ConfigError(
            "nothing to report", expected="a run, an evaluation, a comparison, a diagnosis or a frontier", fix=fix
        )
    pages = Pages(config)
    recommender = None if config.run is None else load_artifact(config.run / "recommender", kind="recommender")
    evaluation = None if evaluation_path is None else load_artifact(evaluation_path, kind=EVALUATION)
    _check_pair(recommender, evaluation)
    row = _row(config, recommender, evaluation)
    progress("report", 1, 4)
    verdicts, cards = _results_first(pages, evaluation, row)
    if config.comparison is not None:
        verdicts = _comparison(pages, load_artifact(config.comparison, kind=COMPARISON))
    if evaluation is not None:
        _results(pages, evaluation, row)
    progress("report", 2, 4)
    if evaluation is not None and row is not None and config.num_users:
        _users(pages, evaluation, row)
    _diagnosis(pages)
    _frontier(pages)
    progress("report", 3, 4)
    lineage_of = recommender or evaluation or load_artifact(next(path for path in given if path is not None))
    if config.run is not None:
        _training(pages, config.run)
    _made_from(pages, lineage_of)
    _lineage(pages, lineage_of)
    if config.run is not None:
        _cost(pages, config.run, recommender, evaluation)
    title = config.title or _title(config, evaluation_path)
    body = element(
        "main",
        run_sections.overview(title, verdicts, cards, pages.names),
        pages.sections,
        run_sections.ends(pages.sources.files, genrec.__version__),
    )
    config.output.parent.mkdir(parents=True, exist_ok=True)
    text = page(title, body)
    write_text(config.output, text)
    progress("report", 4, 4)
    summary = {
        "output": str(config.output),
        "bytes": len(text.encode()),
        "sections": list(pages.names),
        "files": len(pages.sources.files),
    }
    rows = tuple((word, f"#{name}") for name, word in pages.names.items())
    shown = Table(
        f"{config.output}: {len(text.encode()) / 1024:,.0f} KiB",
        ("section", "anchor"),
        rows,
        left=("section", "anchor"),
    )
    return Outcome(summary, (shown,), next=f"open {config.output} in a browser")


def _title(config: ReportConfig, evaluation: Path | None) -> str:
    path = next(
        p for p in (config.run, config.comparison, evaluation, config.diagnosis, config.frontier) if p is not None
    )
    return f"{path.name.replace('_', ' ')}: report"


def _check_pair(recommender: Artifact | None, evaluation: Artifact | None) -> None:
    """Raises LineageError if the evaluation is not one of the run's recommender."""
    if recommender is None or evaluation is None:
        return
    if recommender.identity not in evaluation.parents.values():
        raise LineageError(
            "the evaluation is of other recommenders than that of the run",
            where=evaluation.path,
            expected=f"identity {recommender.identity[:12]} of {recommender.path} among its parents",
            found=", ".join(f"{name} {identity[:12]}" for name, identity in evaluation.parents.items()),
            fix="evaluate the recommender of the run, or leave out run= or evaluation=",
        )


def _row(config: ReportConfig, recommender: Artifact | None, evaluation: Artifact | None) -> str | None:
    """The row in question: as configured, else that of the run, else the best recommender, else the best of all."""
    if evaluation is None:
        return None
    facts = read_json(evaluation.file("report.json"))
    if config.row is not None:
        if config.row not in facts["models"]:
            expected = f"one of {', '.join(facts['models'])}"
            raise ConfigError(
                "the evaluation has no such row", where="key 'row'", expected=expected, found=repr(config.row)
            )
        return config.row
    of_run = (
        []
        if recommender is None
        else [
            name.removeprefix("recommender ")
            for name, identity in evaluation.parents.items()
            if identity == recommender.identity
        ]
    )
    trained = [name for name in facts["models"] if f"recommender {name}" in evaluation.parents]
    choice = of_run or trained or facts["models"]
    metric = f"recall@{facts['protocol']['primary_cutoff']}"
    means = {row["model"]: row["metrics"][metric]["mean"] for row in facts["rows"] if row["mask"] == "none"}
    return max(choice, key=lambda name: means[name])


def _results_first(
    pages: Pages, evaluation: Artifact | None, row: str | None
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """The sentence and the numbers at the head of the page."""
    if evaluation is None or row is None:
        return [], []
    facts = pages.sources.read(evaluation.file("report.json"), "evaluation/report.json")
    cutoff, reference = facts["protocol"]["primary_cutoff"], facts["protocol"]["reference"]
    cards = []
    for mask, word in run_sections.MASK_WORDS.items():
        (own,) = (entry for entry in facts["rows"] if (entry["model"], entry["mask"]) == (row, mask))
        for name in (f"recall@{cutoff}", f"ndcg@{cutoff}"):
            value = own["metrics"][name]
            cards.append((f"{name}, {word}", f"{value['mean']:.4f}", f"{value['low']:.4f} to {value['high']:.4f}"))
    found = [
        entry
        for entry in facts["comparisons"]
        if (entry["model"], entry["mask"], entry["metric"]) == (row, "none", f"recall@{cutoff}")
    ]
    verdicts = []
    if found and reference:
        (own,) = found
        word = "differs from" if own["is_significant"] else "cannot be told from"
        verdicts.append(
            f"{row} {word} {reference} in recall@{cutoff} without mask: {own['difference']:+.4f} "
            f"[{own['low']:+.4f}, {own['high']:+.4f}], p = {own['p_holm']:.3f} after Holm."
        )
    return verdicts, cards


def _results(pages: Pages, evaluation: Artifact, row: str | None) -> None:
    name = "evaluation/report.json"
    facts = pages.sources.read(evaluation.file("report.json"), name)
    source = pages.sources.words(name)
    pages.add("results", "Results", evaluation_sections.metrics(facts, source))
    if row is not None:
        pages.add("slices", "Slices", evaluation_sections.slices(facts, row, source))


def _comparison(pages: Pages, artifact: Artifact) -> list[str]:
    name = "comparison/report.json"
    facts = pages.sources.read(artifact.file("report.json"), name)
    pages.add("comparison", "Comparison", evaluation_sections.comparison(facts, pages.sources.words(name)))
    return [f"{entry['text']} (no mask)." for entry in facts["verdicts"] if entry["mask"] == "none"]


def _users(pages: Pages, evaluation: Artifact, row: str) -> None:
    name = "evaluation/cases.parquet"
    pages.sources.note(evaluation.file("cases.parquet"), name)
    found = example_users(evaluation, row, num_users=pages.config.num_users, k=pages.config.k)
    if isinstance(found, str):
        content = run_sections.missing("Example users", "users", found, "genrec evaluate recommenders.NAME=FOLDER")
    else:
        words = [*pages.sources.words(name), f"; lists of the row {row}, searched again for this page"]
        content = evaluation_sections.users(found, pages.config.k, words)
    pages.add("users", "Users", content)


def _diagnosis(pages: Pages) -> None:
    if pages.config.diagnosis is not None:
        artifact, name = load_artifact(pages.config.diagnosis, kind="diagnosis"), "diagnosis/diagnosis.json"
        facts = pages.sources.read(artifact.file("diagnosis.json"), name)
        pages.add("diagnosis", "Search", search_sections.diagnosis(facts, pages.sources.words(name)))


def _frontier(pages: Pages) -> None:
    if pages.config.frontier is not None:
        artifact, name = load_artifact(pages.config.frontier, kind="frontier"), "frontier/frontier.json"
        facts = pages.sources.read(artifact.file("frontier.json"), name)
        pages.add("frontier", "Frontier", search_sections.frontier(facts, pages.sources.words(name)))


def _training(pages: Pages, run: Path) -> None:
    path, name = run / "metrics.jsonl", "run/metrics.jsonl"
    if not path.is_file():
        content = run_sections.missing("Training", "training", "The run has no records yet.", "genrec train")
        pages.add("training", "Training", content)
        return
    pages.sources.note(path, name)
    records = read_metrics(run)
    status = pages.sources.read(run / "status.json", "run/status.json")
    artifact = load_artifact(run / "recommender", verify=False)
    metrics = sorted({key for record in records for key in record if "@" in key and not key.startswith("train_")})
    shown = [key for key in metrics if key.split("@")[0] in ("recall", "ndcg")]
    source = pages.sources.words(name, "run/status.json")
    if status["command"] == "finetune":
        pages.add("policy", "Policy", run_sections.policy(records, source))
    else:
        pages.add("training", "Training", run_sections.training(records, shown, artifact.facts.get("step"), source))


def _made_from(pages: Pages, artifact: Artifact) -> None:
    """Data and semantic IDs, where they still are where they were."""
    parents = _parents(artifact)
    dataset = next((parent for _, parent in parents if parent.kind == "dataset"), None)
    identifiers = next((parent for _, parent in parents if parent.kind == "semantic_ids"), None)
    if identifiers is not None and "health.json" in identifiers.files:
        name = "semantic_ids/health.json"
        health = pages.sources.read(identifiers.file("health.json"), name)
        drawings = [
            (Path(file).stem, pages.sources.note(identifiers.file(file), f"semantic_ids/{file}").read_bytes())
            for file in identifiers.files
            if file.endswith(DRAWN)
        ]
        pages.add("semantic-ids", "Semantic IDs", run_sections.identifiers(health, drawings, pages.sources.words(name)))
    if dataset is not None:
        name = "dataset/audit.json"
        audit = pages.sources.read(dataset.file("audit.json"), name)
        pages.add("data", "Data", run_sections.data(audit, pages.sources.words(name)))


def _parents(artifact: Artifact) -> list[tuple[str, Artifact]]:
    """All ancestors that can be found and are what they were, nearest first, each once."""
    found: list[tuple[str, Artifact]] = []
    waiting = [artifact]
    while waiting:
        child = waiting.pop(0)
        for role, identity in child.parents.items():
            path = Path(child.parent_paths.get(role, ""))
            if not (path / MANIFEST).is_file() or any(known.identity == identity for _, known in found):
                continue
            parent = load_artifact(path, verify=False)
            if parent.identity == identity:
                found.append((role, parent))
                waiting.append(parent)
    return found


def _lineage(pages: Pages, artifact: Artifact) -> None:
    run = pages.config.run
    environment: dict[str, Any] = {}
    status: dict[str, Any] = {}
    configuration, names = "", []
    if run is not None:
        names = ["run/environment.json", "run/status.json", "run/config.yaml"]
        environment = pages.sources.read(run / "environment.json", names[0])
        status = pages.sources.read(run / "status.json", names[1])
        configuration = pages.sources.note(run / "config.yaml", names[2]).read_text(encoding="utf-8")
    pages.sources.note(artifact.path / MANIFEST, f"{artifact.kind}/{MANIFEST}")
    parents = [(f"this {artifact.kind}", artifact.kind, artifact.identity)]
    known = {parent.identity: parent.kind for _, parent in _parents(artifact)}
    parents += [(role, known.get(identity, "not found"), identity) for role, identity in artifact.parents.items()]
    parents += [
        (f"{role} of the {kind}", parent.kind, parent.identity) for kind, role, parent in _grand_parents(artifact)
    ]
    source = pages.sources.words(*names, f"{artifact.kind}/{MANIFEST}")
    pages.add("lineage", "Lineage", run_sections.lineage(environment, status, configuration, parents, source))


def _grand_parents(artifact: Artifact) -> list[tuple[str, str, Artifact]]:
    direct = set(artifact.parents.values())
    lines = []
    for _, parent in _parents(artifact):
        if parent.identity in direct:
            lines += [
                (parent.kind, role, own)
                for role, own in _parents(parent)
                if role in parent.parents and own.identity not in direct
            ]
    seen: set[str] = set()
    return [line for line in lines if not (line[2].identity in seen or seen.add(line[2].identity))]


def _cost(pages: Pages, run: Path, recommender: Artifact | None, evaluation: Artifact | None) -> None:
    status = pages.sources.read(run / "status.json", "run/status.json")
    records = read_metrics(run)
    speeds = [record["targets_per_second"] for record in records if "targets_per_second" in record]
    seconds = (datetime.fromisoformat(status["updated"]) - datetime.fromisoformat(status["started"])).total_seconds()
    weights = None if recommender is None else recommender.files.get("weights.safetensors")
    nodes = {}
    if evaluation is not None:
        nodes = read_json(evaluation.file("report.json")).get("nodes_per_request", {})
    pairs: Sequence[tuple[str, str | None]] = [
        (
            "from start to last write",
            f"{seconds / 60:,.1f} minutes" + (" (resumed in between)" if status["num_resumed"] else ""),
        ),
        ("steps", f"{status['step']:,}"),
        ("targets a second, median of the stretches", f"{sorted(speeds)[len(speeds) // 2]:,.0f}" if speeds else None),
        ("weights", None if weights is None else f"{weights['size'] / 2**20:.1f} MiB"),
        *((f"prefixes read for a request, {name}", f"{value:,.1f}") for name, value in nodes.items()),
    ]
    pages.add("cost", "Cost", run_sections.cost(pairs, pages.sources.words("run/status.json", "run/metrics.jsonl")))
