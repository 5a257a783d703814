"""``genrec inspect search``: what a recommender's search does for one user, and where it keeps or loses the target.

Runs the search that is evaluated and served; trains and writes nothing.
"""
# L levels, N items

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genrec.baselines.base import count_items
from genrec.config.schema import InspectSearchConfig
from genrec.data.dataset import Dataset
from genrec.data.sequences import Ragged
from genrec.decoding.diagnosis import (
    ExactPlaces,
    LevelDiagnosis,
    SearchDiagnosis,
    diagnose_search,
    exact_places,
    judge,
)
from genrec.decoding.generator import CandidateGenerator
from genrec.errors import DataError
from genrec.pipeline.inspect import find_case, find_row, history_events
from genrec.pipeline.recommenders import build_generator, load_recommender
from genrec.pipeline.search_tables import search_tables, verdict_note
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.terminal import Outcome, Progress

EXACT_ITEMS = 50_000  # largest catalogue that is scored as a whole


def inspect_search(config: InspectSearchConfig, *, progress: Progress) -> Outcome:
    """The beams of every level, the way of the target through them, and its place in the list and by exact scoring."""
    dataset = Dataset.load(config.dataset)
    case, num_cases = find_case(dataset, config.user, config.split, where=config.dataset)
    target = int(case.target[0])
    if config.target is not None:
        target = find_row(config.target, dataset.items, "item_id", config.dataset)
    if not len(case.histories[0]):
        raise DataError(
            f"user {config.user!r} has no history before the {config.split} target and gets the popularity list",
            where=config.dataset,
            fix="choose a user with a history: there is no search to look at",
        )
    _, model = load_recommender(config.recommender, dataset)
    counts = count_items(dataset.train(), dataset.num_items)
    generator = build_generator(
        model, dataset, counts, beam_width=config.search.beam_width, batch_size=config.search.batch_size
    )
    diagnosis, exact = _diagnose(generator, case.histories, target, config)
    words = _Words(dataset, generator.trie, counts, _codes(generator.trie))
    events = history_events(dataset, int(case.user_index[0]), case.histories[0])
    for event, item in zip(events, case.histories[0].tolist(), strict=True):
        event["semantic_id"] = words.codes[item].tolist()
    facts: dict[str, Any] = {
        "user_id": config.user,
        "user_index": int(case.user_index[0]),
        "split": config.split,
        "exclude_seen": config.exclude_seen,
        "beam_width": config.search.beam_width,
        "num_candidates": diagnosis.candidates.item_index.shape[1],
        "history": events,
        "target": _target_facts(words, diagnosis, exact),
        "levels": [_level_facts(words, diagnosis, exact, depth, config.prefixes) for depth in range(words.num_levels)],
        "recommendations": _recommendations(words, diagnosis, config.k),
    }
    more = [f"{num_cases} {config.split} targets, the first is looked at"] if num_cases > 1 else []
    if exact is None:
        more.append(f"no exact places: the catalogue has more than {EXACT_ITEMS:,} items")
    tables = search_tables(facts, history_length=generator.max_history)
    return Outcome(facts, tables, notes=(verdict_note(facts), *more), next=_next_command(config, facts))


@torch.inference_mode()
def _diagnose(
    generator: CandidateGenerator, histories: Ragged, target: int, config: InspectSearchConfig
) -> tuple[SearchDiagnosis, ExactPlaces | None]:
    """The generator's own search of one history, looked at; exact places where the catalogue is small enough."""
    context, constraint, _ = generator.read(histories, exclude_seen=config.exclude_seen)
    targets = torch.tensor([target], device=generator.trie.device)
    where = (generator.scorer, generator.trie, context, targets)
    diagnosis = diagnose_search(
        *where,
        beam_width=generator.beam_width,
        num_candidates=config.search.num_candidates or generator.beam_width,
        constraint=constraint,
    )
    is_small = generator.trie.num_items <= EXACT_ITEMS
    return diagnosis, exact_places(*where, constraint=constraint) if is_small else None


@dataclass(frozen=True)
class _Words:
    """How items and prefixes are shown: ids, titles, codes [N, L], and the training counts [N] that choose examples."""

    dataset: Dataset
    trie: SemanticIdTrie
    counts: np.ndarray
    codes: np.ndarray

    @property
    def num_levels(self) -> int:
        return self.trie.num_levels

    def item(self, index: int) -> dict[str, Any]:
        return {
            "item_index": index,
            "item_id": self.dataset.item_ids[index],
            "title": self.dataset.items["title"][index],
            "semantic_id": self.codes[index].tolist(),
        }

    def prefix(self, depth: int, node: int, log_prob: float, place: int | None) -> dict[str, Any]:
        """A prefix of `depth` codes; its example is the item below it with the most training interactions."""
        first, end = (int(position) for position in self.trie.item_ranges(depth, torch.tensor(node)))
        items = self.trie.item_order[first:end].numpy()
        example = int(items[np.argmax(self.counts[items])])
        return {
            "place": place,
            "prefix": self.codes[example, :depth].tolist(),
            "log_prob": _finite(log_prob),
            "num_items": end - first,
            "example": {"item_id": self.dataset.item_ids[example], "title": self.dataset.items["title"][example]},
        }


def _codes(trie: SemanticIdTrie) -> np.ndarray:
    """int32 [N, L]."""
    return trie.prefix_codes(trie.num_levels)[trie.item_leaves].numpy()


def _target_facts(words: _Words, diagnosis: SearchDiagnosis, exact: ExactPlaces | None) -> dict[str, Any]:
    lost_at = int(diagnosis.lost_at[0])
    return {
        **words.item(int(diagnosis.targets[0])),
        "log_prob": _finite(float(diagnosis.target_log_prob[0])),
        "place": _place(diagnosis.target_place),
        "exact_place": None if exact is None else _place(exact.items),
        "verdict": judge(diagnosis, exact)[0],
        "lost_at_level": lost_at + 1 if lost_at >= 0 else None,
        "sufficient_beam_width": None if exact is None else int(exact.sufficient_width[0]) or None,
    }


def _level_facts(
    words: _Words, diagnosis: SearchDiagnosis, exact: ExactPlaces | None, depth: int, num_prefixes: int
) -> dict[str, Any]:
    level = diagnosis.levels[depth]
    num_live, place = int(level.num_live[0]), _place(level.target_place)
    beams = [_beam(words, level, depth, each) for each in range(min(num_prefixes, num_live))]
    target = words.prefix(depth + 1, int(level.target_node[0]), float(level.target_log_prob[0]), place)
    is_displaced = int(diagnosis.lost_at[0]) == depth and int(diagnosis.rivals[0]) >= 0
    last = _beam(words, level, depth, num_live - 1) if num_live else None
    return {
        "level": depth + 1,
        "num_prefixes": words.trie.num_nodes(depth + 1),
        "num_beams": num_live,
        "beams": beams,
        "last_log_prob": None if last is None else last["log_prob"],
        "target": {**target, "exact_place": None if exact is None else _place(exact.prefixes[:, depth])},
        "rival": last if is_displaced else None,
    }


def _beam(words: _Words, level: LevelDiagnosis, depth: int, place: int) -> dict[str, Any]:
    node, log_prob = int(level.nodes[0, place]), float(level.log_prob[0, place])
    return {
        **words.prefix(depth + 1, node, log_prob, place + 1),
        "is_target": node == int(level.target_node[0]),
    }


def _recommendations(words: _Words, diagnosis: SearchDiagnosis, k: int) -> list[dict[str, Any]]:
    found = diagnosis.candidates
    pairs = zip(found.item_index[0, :k].tolist(), found.score[0, :k].tolist(), strict=True)
    target = int(diagnosis.targets[0])
    return [
        {"place": place, **words.item(item), "score": score, "is_target": item == target}
        for place, (item, score) in enumerate(pairs, 1)
        if item >= 0
    ]


def _place(places: torch.Tensor) -> int | None:
    """From [1], counted from 0 with -1 for none, to one that is counted from 1."""
    return int(places[0]) + 1 or None


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _next_command(config: InspectSearchConfig, facts: dict[str, Any]) -> str:
    """The same look with beams enough, where that would help."""
    target = facts["target"]
    if target["verdict"] != "lost_by_search" or target["sufficient_beam_width"] is None:
        return ""
    words = [f"dataset={config.dataset}", f"recommender={config.recommender}", f"user={config.user}"]
    words += [f"split={config.split}"] if config.split != "test" else []
    words += [f"target={config.target}"] if config.target is not None else []
    words += [] if config.exclude_seen else ["exclude_seen=false"]
    words.append(f"search.beam_width={target['sufficient_beam_width']}")
    return shlex.join(["genrec", "inspect", "search", *words])
