"""``genrec frontier``: recall on validation against latency on this machine, for every setting of a search."""
# S settings, C cases

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import Artifact, load_artifact, write_artifact
from genrec.config.load import to_plain
from genrec.config.search import FrontierConfig
from genrec.config.training import Search, SearchSection, ValueGuidedSearch
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.generator import CandidateGenerator
from genrec.errors import ConfigError, GateError
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.evaluation.frontier import LatencyTarget, choose, pareto, percentile, time_requests
from genrec.files import write_json
from genrec.models.sasrec import Sasrec
from genrec.pipeline.open_recommender import HYBRID, open_recommender
from genrec.pipeline.recommenders import KIND as RECOMMENDER
from genrec.pipeline.recommenders import VALUE_WEIGHTS
from genrec.pipeline.search_settings import choose_cases, find_places, machine, mean_intervals, value_guided_searches
from genrec.reports.search_figures import write_frontier_figures
from genrec.terminal import Outcome, Progress, Table

KIND = "frontier"
FACTS = "frontier.json"
SPLIT = "validation"  # nothing is ever chosen on the test split
PERCENTS = (50, 90, 99)


@dataclass(frozen=True)
class Setting:
    """One way to search: its name in the table, what kind it is, what makes it, and the search itself."""

    name: str
    kind: str
    section: Search
    search: CatalogueSearch

    def num_candidates(self, k: int) -> int:
        """Of a list of k: as many as there can be."""
        return min(k, self.search.max_candidates)


def frontier(config: FrontierConfig, *, progress: Progress) -> Outcome:
    """Searches the cases with every setting, times requests one by one, and marks what is worth having."""
    target = None if config.target is None else LatencyTarget.parse(config.target, where="key 'target'")
    dataset = Dataset.load(config.dataset)
    artifact, settings = open_settings(config, dataset)
    cases, num_left_out = choose_cases(dataset, SPLIT, config.max_cases, config.seed)
    facts = {
        "k": config.k,
        "split": SPLIT,
        "exclude_seen": config.exclude_seen,
        "num_cases": len(cases),
        "num_left_out": num_left_out,
        "num_requests": min(config.num_requests, len(cases)),
        "batch_size": config.batch_size,
        "target": None if target is None else {"text": config.target, **asdict(target)},
        "latency_percent": 50.0 if target is None else target.percent,
        "machine": machine(),
    }
    parents = {"dataset": dataset.artifact, "recommender": artifact}
    with write_artifact(config.output, kind=KIND, parents=parents, overwrite=config.overwrite) as writer:
        seconds = _time(settings, cases, config, progress)
        facts["settings"] = _mark(_measure(settings, cases, seconds, config, progress), facts)
        write_json(writer.path(FACTS), {"configuration": to_plain(config), **facts})
        write_frontier_figures(facts, writer.path)
    outcome = _outcome(config, writer.artifact, facts)
    if target is not None and not any(setting["is_chosen"] for setting in facts["settings"]):
        fastest = min(facts["settings"], key=lambda setting: setting["seconds"])
        error = GateError(
            f"no setting meets {config.target}",
            where=config.output,
            expected=f"{target.name} of at most {_ms(target.seconds)} ms",
            found=f"{_ms(fastest['seconds'])} ms of {fastest['name']}, the fastest",
            fix="allow more time with target=, or try narrower searches",
        )
        error.evidence = outcome
        raise error
    return outcome


def open_settings(config: FrontierConfig, dataset: Dataset) -> tuple[Artifact, list[Setting]]:
    """The recommender, and every setting of it that is to be tried.

    Raises:
        ConfigError: none; or one that its kind of recommender does not have.
        ArtifactError, LineageError: as `open_recommender`.
    """
    artifact = load_artifact(config.recommender, kind=RECOMMENDER)
    kind = artifact.facts.get("name")
    is_by_value = kind not in (Sasrec.name, HYBRID)
    if config.node_budgets and not is_by_value:
        fix = "leave out node_budgets=, or give a generative recommender"
        raise ConfigError(f"a {kind} recommender is not searched by value", where="key 'node_budgets'", fix=fix)
    if kind == Sasrec.name:
        named = _indexes(config)
    else:
        named = [
            (f"beam {width}", "beam", SearchSection(beam_width=width, batch_size=config.batch_size))
            for width in config.beam_widths
        ]
    opened = [_open(name, kind, section, config.recommender, dataset) for name, kind, section in named]
    if is_by_value:
        opened += _by_value(config, artifact, dataset, opened)
    if not opened:
        keys = "'indexes'" if kind == Sasrec.name else "'beam_widths' and 'node_budgets'"
        raise ConfigError("no setting to try", where=f"key {keys}", expected="one or more", found="none")
    return artifact, opened


def _indexes(config: FrontierConfig) -> list[tuple[str, str, SearchSection]]:
    variants: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "flat": ("", (None,)),
        "ivf": ("num_probes", config.num_probes),
        "hnsw": ("num_visited", config.num_visited),
    }
    found = []
    for kind in config.indexes:
        option, values = variants[kind]
        for value in values:
            keywords: dict[str, Any] = {} if value is None else {option: value}
            section = SearchSection(index=kind, batch_size=config.batch_size, **keywords)
            found.append((kind if value is None else f"{kind} {value}", kind, section))
    return found


def _by_value(config: FrontierConfig, artifact: Artifact, dataset: Dataset, opened: list[Setting]) -> list[Setting]:
    """The searches by value of a generative recommender."""
    generative = opened[0].search if opened else open_recommender(config.recommender, dataset, SearchSection())[1]
    assert isinstance(generative, CandidateGenerator)
    sections = value_guided_searches(
        config.node_budgets,
        config.value_guided,
        generative.trie,
        has_head=VALUE_WEIGHTS in artifact.files,
        batch_size=config.batch_size,
    )
    return [
        _open(f"value {section.node_budget}", "value", section, config.recommender, dataset) for section in sections
    ]


def _open(name: str, kind: str, section: Search, path: Path, dataset: Dataset) -> Setting:
    return Setting(name, kind, section, open_recommender(path, dataset, section)[1])


def _time(settings: list[Setting], cases: Cases, config: FrontierConfig, progress: Progress) -> np.ndarray:
    """Seconds [S, R] of requests, one at a time."""
    num_requests = min(config.num_requests, len(cases))

    def serve(setting: Setting, number: int) -> list[list[int]]:
        history = cases.histories.take(slice(number, number + 1))
        length = setting.num_candidates(config.k)
        return setting.search.search(history, length, exclude_seen=config.exclude_seen).item_index.tolist()

    return time_requests(
        [lambda number, setting=setting: serve(setting, number) for setting in settings],
        num_requests,
        warm_up=config.warm_up,
        progress=lambda done: progress("time", done, num_requests),
    )


def _measure(
    settings: list[Setting], cases: Cases, seconds: np.ndarray, config: FrontierConfig, progress: Progress
) -> list[dict[str, Any]]:
    """The facts of each setting, but for what they are compared with each other."""
    lines, hits = [], []
    for number, setting in enumerate(settings):
        found, spent = find_places(
            setting.search,
            cases,
            setting.num_candidates(config.k),
            exclude_seen=config.exclude_seen,
            progress=lambda done, name=setting.name: progress(f"search {name}", done, len(cases)),
        )
        hits.append(found >= 0)
        lines.append(
            {
                "name": setting.name,
                "kind": setting.kind,
                "search": to_plain(setting.section),
                "num_candidates": setting.num_candidates(config.k),
                "latency": {
                    **{f"p{percent}": percentile(seconds[number], percent) for percent in PERCENTS},
                    "mean": float(seconds[number].mean()),
                    "max": float(seconds[number].max()),
                },
                "requests_per_second": len(cases) / spent,
                "nodes_per_request": getattr(setting.search, "nodes_per_request", None),
                "recall_of_flat": _recall_of_flat(setting.search, cases, config.k),
            }
        )
    interval = {"num_resamples": config.num_resamples, "confidence": config.confidence, "seed": config.seed}
    values = np.stack(hits, axis=1).astype(np.float64)
    best = values[:, [int(values.mean(axis=0).argmax())]]
    recalls = mean_intervals(np.concatenate([values, values - best], axis=1), cases.user_index, **interval)
    percent = 50.0 if config.target is None else LatencyTarget.parse(config.target).percent
    return [
        {**line, "recall": recall, "behind_best": behind, "seconds": percentile(own, percent)}
        for line, recall, behind, own in zip(lines, recalls[: len(lines)], recalls[len(lines) :], seconds, strict=True)
    ]


def _recall_of_flat(search: CatalogueSearch, cases: Cases, k: int) -> float | None:
    """How much of the exact list an index finds."""
    return search.index_recall(cases.histories, k) if isinstance(search, DenseGenerator) else None


def _mark(lines: list[dict[str, Any]], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Which settings no other beats in recall and latency, and the one that is chosen for the target."""
    cost = np.array([line["seconds"] for line in lines])
    gain = np.array([line["recall"]["mean"] for line in lines])
    chosen = None if facts["target"] is None else choose(cost, gain, facts["target"]["seconds"])
    is_best = pareto(cost, gain).tolist()
    return [
        {**line, "is_on_frontier": is_best[number], "is_chosen": number == chosen} for number, line in enumerate(lines)
    ]


def _outcome(config: FrontierConfig, artifact: Artifact, facts: dict[str, Any]) -> Outcome:
    summary = {"output": str(config.output), "identity": artifact.identity, **facts}
    chosen = next((setting for setting in facts["settings"] if setting["is_chosen"]), None)
    summary["chosen"] = None if chosen is None else chosen["name"]
    here, notes = facts["machine"], []
    if chosen is not None:
        notes.append(f"{chosen['name']} finds most within {config.target}")
    notes.append(f"{here['processor']}, {here['threads']} threads; the load average was {here['load_average']}")
    if facts["num_requests"] < 100:
        notes.append(f"p99 of {facts['num_requests']} requests is their slowest; set num_requests=100 or more")
    if facts["num_left_out"]:
        notes.append(f"{facts['num_left_out']:,} validation cases without a history are left out: nothing is searched")
    follow = ""
    if chosen is not None:
        words = [f"dataset={config.dataset}", f"recommenders.chosen={config.recommender}", *_words(chosen["search"])]
        words += [f"cutoffs=[{chosen['num_candidates']}]", f"output={config.output}_evaluation"]
        follow = shlex.join(["genrec", "evaluate", *words])
    return Outcome(summary, (_table(config, facts),), notes=tuple(notes), next=follow)


def _words(search: dict[str, Any]) -> list[str]:
    """What makes the command line search in a chosen way."""
    if search["name"] == ValueGuidedSearch.name:
        names: tuple[str, ...] = ("name", "node_budget", "initial_width", "rank_by")
    else:
        names = {"flat": ("beam_width",), "ivf": ("index", "num_probes"), "hnsw": ("index", "num_visited")}[
            search["index"]
        ]
    return [f"search.{name}={search[name]}" for name in names]


def _table(config: FrontierConfig, facts: dict[str, Any]) -> Table:
    has_nodes, has_flat = (
        any(setting[name] is not None for setting in facts["settings"])
        for name in ("nodes_per_request", "recall_of_flat")
    )
    columns = ["setting", f"R@{config.k}", "interval", "behind the best", *(f"p{at} ms" for at in PERCENTS)]
    columns += ["requests/s"] + ["nodes"] * has_nodes + ["of flat"] * has_flat
    rows = []
    for setting in facts["settings"]:
        recall, latency, nodes = setting["recall"], setting["latency"], setting["nodes_per_request"]
        behind = setting["behind_best"]
        row = [setting["name"], f"{recall['mean']:.4f}", f"{recall['low']:.4f} to {recall['high']:.4f}"]
        row += ["" if not (behind["low"] or behind["high"]) else f"{behind['low']:+.4f} to {behind['high']:+.4f}"]
        row += [_ms(latency[f"p{at}"]) for at in PERCENTS] + [f"{setting['requests_per_second']:,.0f}"]
        row += ["" if nodes is None else f"{nodes:,.1f}"] * has_nodes
        row += ["" if setting["recall_of_flat"] is None else f"{setting['recall_of_flat']:.1%}"] * has_flat
        mark = "chosen" if setting["is_chosen"] else "frontier" if setting["is_on_frontier"] else ""
        rows.append((*row, mark))
    title = f"{config.recommender}: {facts['num_cases']:,} validation cases, {facts['num_requests']:,} timed requests"
    caption = f"frontier: no other finds as much in less time (p{facts['latency_percent']:g}); "
    caption += f"behind the best: paired, {config.confidence:.0%}; requests/s: {facts['batch_size']} at once"
    return Table(title, (*columns, ""), tuple(rows), left=("setting", ""), caption=caption)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"
