"""``genrec diagnose``: where the search of a generative recommender keeps and loses targets, over many cases."""
# C cases, L levels, W beams, k items of a list, N items

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from genrec.artifacts import Artifact, write_artifact
from genrec.baselines.base import count_items
from genrec.config.load import to_plain
from genrec.config.search import DiagnoseConfig
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.decoding.value_guided_settings import initial_cost
from genrec.embeddings.store import load_embeddings
from genrec.errors import ConfigError
from genrec.evaluation.search_diagnosis import displaced, near_lists, reliability, rescues
from genrec.files import write_json
from genrec.pipeline.diagnose_cases import Columns, Look, look_at_cases, look_at_trees, nearest_items
from genrec.pipeline.diagnose_tables import diagnosis_notes, diagnosis_tables
from genrec.pipeline.inspect_search import EXACT_ITEMS
from genrec.pipeline.open_recommender import guide_by_value, open_generative
from genrec.pipeline.recommenders import VALUE_WEIGHTS
from genrec.pipeline.search_settings import choose_cases, find_places, mean_intervals, value_guided_searches
from genrec.reports.search_figures import write_diagnosis_figures
from genrec.terminal import Outcome, Progress

KIND = "diagnosis"
FACTS, CASES = "diagnosis.json", "cases.parquet"
VERDICTS = ("found", "lost_by_search", "ranked_low_by_model", "impossible", "excluded")


def diagnose(config: DiagnoseConfig, *, progress: Progress) -> Outcome:
    """Looks at every case, sums up, and writes the artifact with its figures."""
    _check(config)
    dataset = Dataset.load(config.dataset)
    artifact, generator = open_generative(config.recommender, dataset, config.search)
    parents = {"dataset": dataset.artifact, "recommender": artifact}
    neighbours = None
    if config.embeddings is not None:
        parents["embeddings"], vectors = load_embeddings(
            config.embeddings, dataset.artifact, num_items=dataset.num_items
        )
        neighbours = nearest_items(np.asarray(vectors), max(config.neighbours))
    cases, num_left_out = choose_cases(dataset, config.split, config.max_cases, config.seed)
    look = Look(
        generator,
        count_items(dataset.train(), dataset.num_items),
        config.k,
        config.exclude_seen,
        exact=config.exact and dataset.num_items <= EXACT_ITEMS,
    )
    trees = _open_trees(artifact, look, config)
    with write_artifact(config.output, kind=KIND, parents=parents, overwrite=config.overwrite) as writer:
        columns = look_at_cases(look, cases, progress=progress)
        facts = {
            "split": config.split,
            "num_cases": len(cases),
            "num_left_out": num_left_out,
            "num_items": dataset.num_items,
            "beam_width": generator.beam_width,
            "k": config.k,
            "exclude_seen": config.exclude_seen,
            "nodes_per_request": generator.nodes_per_request,
            **_summary(columns, look, config),
            "rescues": _rescues(trees, look, cases, columns["place"] < 0, progress) if trees else None,
            "neighbourhood": None if neighbours is None else _neighbourhood(look, cases, columns, neighbours, config),
        }
        write_json(writer.path(FACTS), {"configuration": to_plain(config), **facts})
        _table_of_cases(columns).write_parquet(writer.path(CASES))
        write_diagnosis_figures(facts, lambda name: writer.path(f"figures/{name}"))
    return _outcome(config, writer.artifact, facts, dataset, columns)


def _check(config: DiagnoseConfig) -> None:
    if config.k > config.search.beam_width:
        raise ConfigError(
            "the list is longer than the beams",
            where="key 'k'",
            expected=f"at most {config.search.beam_width}",
            found=config.k,
            fix=f"set search.beam_width={config.k}",
        )
    if config.search.num_candidates is not None:
        what, fix = "the whole beams are looked at", "leave it out, and set k"
        raise ConfigError(what, where="key 'search.num_candidates'", found=config.search.num_candidates, fix=fix)
    if config.embeddings is not None and not config.neighbours:
        raise ConfigError("no neighbours to look at", where="key 'neighbours'", fix="set neighbours=[1,5,10]")


def _intervals(values: np.ndarray, columns: Columns, config: DiagnoseConfig) -> list[dict[str, float]]:
    """Of the mean of each column [C, M]."""
    keys = {"num_resamples": config.num_resamples, "confidence": config.confidence, "seed": config.seed}
    return mean_intervals(values.astype(np.float64), columns["user_index"], **keys)


def _summary(columns: Columns, look: Look, config: DiagnoseConfig) -> dict[str, Any]:
    """All that follows from the columns alone."""
    place, verdicts, k = columns["place"], columns["verdict"], config.k
    is_hit, in_beam = (place >= 0) & (place < k), place >= 0
    recall, in_beams = _intervals(np.stack([is_hit, in_beam], axis=1), columns, config)
    return {
        "recall": recall,
        "recall_of_beams": in_beams,
        "verdicts": {name: int((verdicts == name).sum()) for name in VERDICTS},
        "survival": _survival(columns, config),
        "displaced": displaced(*(columns[name] for name in ("lost_at", "gap", "shared", "rival_count", "own_count"))),
        "faults": {name: int(columns[name].sum()) for name in ("invalid", "duplicate", "empty")},
        "calibration": {
            "top": reliability(columns["top_prob"], place == 0, config.num_bins),
            "list": reliability(columns["list_prob"], is_hit, config.num_bins),
        },
        "exact": _exact(columns, config) if look.exact else None,
        "unseen": _unseen(columns, look),
    }


def _survival(columns: Columns, config: DiagnoseConfig) -> list[dict[str, Any]]:
    """Share of targets whose prefix is kept at each level, and that of those that were kept at the level before."""
    is_kept = columns["level_place"] >= 0
    shares = _intervals(is_kept, columns, config)
    lines, before = [], len(is_kept)
    for level, share in enumerate(shares):
        kept = int(is_kept[:, level].sum())
        lines.append(
            {"level": level + 1, **share, "num_kept": kept, "of_kept_before": kept / before if before else None}
        )
        before = kept
    return lines


def _exact(columns: Columns, config: DiagnoseConfig) -> dict[str, Any]:
    """The list against the exact one, exact recall, and how many targets wider beams would surely keep."""
    exact_place, width = columns["exact_place"], columns["sufficient_width"]
    is_hit = (exact_place >= 0) & (exact_place < config.k)
    names = ("mass", "log_prob", "top", "overlap", "is_same")
    values = np.stack([is_hit, *(columns[f"regret_{name}"] for name in names)], axis=1)
    means = _intervals(values, columns, config)
    widths = [config.search.beam_width * 2**power for power in range(6)]
    is_lost = columns["verdict"] == "lost_by_search"
    return {
        "recall": means[0],
        **dict(zip(names, means[1:], strict=True)),
        "num_missing": int(columns["regret_num_missing"].sum()),
        "kept_by_width": [
            {
                "beam_width": wide,
                "share": float(((width > 0) & (width <= wide)).mean()),
                "of_lost": float((width[is_lost] <= wide).mean()) if is_lost.any() else None,
            }
            for wide in widths
        ],
    }


def _unseen(columns: Columns, look: Look) -> dict[str, Any]:
    """Targets without training interactions: are they reached through prefixes that they share with trained items?

    num_listed: distinct items of that kind in the lists. Of each level: num_shared, targets whose prefix a trained item
    has too, and the share of these that is kept; the share kept of all unseen targets, and of the others.
    """
    is_unseen = look.counts[columns["target"]] == 0
    is_kept, trained = columns["level_place"] >= 0, columns["trained"]
    lines = []
    for level in range(is_kept.shape[1]):
        kept, is_shared = is_kept[:, level], is_unseen & trained[:, level]
        lines.append(
            {
                "level": level + 1,
                "kept": _share(kept, is_unseen),
                "num_shared": int(is_shared.sum()),
                "kept_of_shared": _share(kept, is_shared),
                "kept_of_seen": _share(kept, ~is_unseen),
            }
        )
    place, lists = columns["place"], columns["lists"]
    is_hit, listed = (place >= 0) & (place < look.k), lists[lists >= 0]
    is_new = look.counts[listed] == 0
    return {
        "num_targets": int(is_unseen.sum()),
        "num_items": int((look.counts == 0).sum()),
        "recall": _share(is_hit, is_unseen),
        "recall_of_seen": _share(is_hit, ~is_unseen),
        "num_listed": len(np.unique(listed[is_new])),
        "share_of_lists": float(is_new.mean()) if len(listed) else 0.0,
        "levels": lines,
    }


def _share(flags: np.ndarray, among: np.ndarray) -> float | None:
    return float(flags[among].mean()) if among.any() else None


def _open_trees(artifact: Artifact, look: Look, config: DiagnoseConfig) -> list[ValueGuidedGenerator]:
    """The searches by value whose rescues are counted; none without a head, where no budgets are asked for."""
    sections = value_guided_searches(
        config.node_budgets,
        config.value_guided,
        look.trie,
        has_head=VALUE_WEIGHTS in artifact.files,
        batch_size=look.generator.batch_size,
    )
    return [guide_by_value(look.generator, artifact, each) for each in sections]


def _rescues(
    trees: list[ValueGuidedGenerator], look: Look, cases: Cases, is_lost: np.ndarray, progress: Progress
) -> dict[str, Any]:
    """What trees of growing budgets hold, and beams that read as many prefixes, against the trees' own first beams."""
    width = trees[0].settings.initial_width
    first, cost = _leaves_of(look, cases, width), initial_cost(look.trie, width)
    facts = {"initial_width": width, "initial_nodes": cost, "initial_found": float(first.mean())}
    lines = []
    for search in trees:
        found, forwarded = look_at_trees(search, cases, exclude_seen=look.exclude_seen, progress=progress)
        budget, nodes = search.settings.node_budget, float(forwarded.mean())
        width = widest_within(look, budget)
        beams, beam_nodes = _leaves_of(look, cases, width), initial_cost(look.trie, width)
        lines.append(
            {
                "node_budget": budget,
                "nodes": nodes,
                **rescues(first, found, nodes - cost),
                "found_of_lost": _share(found, is_lost),
                "beam": {"beam_width": width, "nodes": beam_nodes, **rescues(first, beams, beam_nodes - cost)},
            }
        )
    return {**facts, "num_lost": int(is_lost.sum()), "budgets": lines}


def widest_within(look: Look, budget: int) -> int:
    """The most beams whose search reads no more prefixes than the budget."""
    width = 1
    while width < look.trie.num_items and initial_cost(look.trie, width + 1) <= budget:
        width += 1
    return width


def _leaves_of(look: Look, cases: Cases, width: int) -> np.ndarray:
    """Whether the beams of a search of another width hold the target at the end; [C] bool."""
    search = look.generator.of_width(width)
    length = width * look.trie.max_bucket
    quiet = {"exclude_seen": look.exclude_seen, "progress": lambda done: None}
    return find_places(search, cases, length, **quiet)[0] >= 0


def _neighbourhood(
    look: Look, cases: Cases, columns: Columns, neighbours: np.ndarray, config: DiagnoseConfig
) -> list[dict[str, Any]]:
    """Targets near a generated item, against as many items of a longer list of the same search."""
    longest = config.k * (1 + max(config.neighbours))
    wide = look.generator.of_width(max(longest, look.generator.beam_width))
    length = min(longest, look.trie.num_items)
    place, _ = find_places(wide, cases, length, exclude_seen=config.exclude_seen, progress=lambda done: None)
    denied = [set(row.tolist()) if config.exclude_seen else set() for row in cases.histories]
    lines = []
    for num_near in config.neighbours:
        sizes, hits = near_lists(columns["lists"], neighbours, columns["target"], denied, num_near)
        in_longer = (place >= 0) & (place < sizes)
        values = np.stack([hits, in_longer, hits.astype(float) - in_longer], axis=1)
        near, longer, difference = _intervals(values, columns, config)
        line = {"neighbours": num_near, "num_items": float(sizes.mean()), "near": near, "longer": longer}
        lines.append({**line, "difference": difference})
    return lines


def _table_of_cases(columns: Columns) -> pl.DataFrame:
    """One row a case; what has a level or a place of its own in a column of lists."""
    flat = {name: values if values.ndim == 1 else values.tolist() for name, values in columns.items()}
    return pl.DataFrame(flat)


def _outcome(
    config: DiagnoseConfig, artifact: Artifact, facts: dict[str, Any], dataset: Dataset, columns: Columns
) -> Outcome:
    summary = {"output": str(config.output), "identity": artifact.identity, **facts}
    notes = list(diagnosis_notes(facts))
    if config.exact and facts["exact"] is None:
        notes.append(f"nothing exact: the catalogue has more than {EXACT_ITEMS:,} items")
    follow = ""
    lost = np.flatnonzero(columns["verdict"] == "lost_by_search")
    if len(lost):
        user = dataset.user_ids[int(columns["user_index"][lost[0]])]
        words = f"dataset={config.dataset} recommender={config.recommender} user={user} split={config.split}"
        seen = str(config.exclude_seen).lower()
        follow = f"genrec inspect search {words} exclude_seen={seen} search.beam_width={config.search.beam_width}"
    return Outcome(summary, diagnosis_tables(facts), notes=tuple(notes), next=follow)
