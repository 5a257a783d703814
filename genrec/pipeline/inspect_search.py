"""``genrec inspect search``: what a recommender's search does for one user, and where it keeps or loses the target.

Runs the search that is evaluated and served; trains and writes nothing.
"""
# L levels, N items

from __future__ import annotations

import shlex
from typing import Any

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
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.errors import DataError
from genrec.pipeline.inspect import find_case, find_row, history_events
from genrec.pipeline.open_recommender import open_generative
from genrec.pipeline.search_tables import search_tables, verdict_note
from genrec.pipeline.search_tree_facts import tree_facts, tree_note
from genrec.pipeline.search_words import Words, finite
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
    _, generator = open_generative(config.recommender, dataset, config.search)
    words = Words.of(dataset, generator.trie, count_items(dataset.train(), dataset.num_items))
    events = history_events(dataset, int(case.user_index[0]), case.histories[0])
    for event, item in zip(events, case.histories[0].tolist(), strict=True):
        event["semantic_id"] = words.codes[item].tolist()
    facts: dict[str, Any] = {
        "user_id": config.user,
        "user_index": int(case.user_index[0]),
        "split": config.split,
        "exclude_seen": config.exclude_seen,
        "history": events,
    }
    more = [f"{num_cases} {config.split} targets, the first is looked at"] if num_cases > 1 else []
    if generator.trie.num_items > EXACT_ITEMS:
        more.append(f"no exact places: the catalogue has more than {EXACT_ITEMS:,} items")
    if isinstance(generator, ValueGuidedGenerator):
        facts |= _look_at_tree(generator, case.histories, target, words, config)
        note, follow = tree_note(facts), ""
    else:
        facts |= _look_at_beams(generator, case.histories, target, words, config)
        note, follow = verdict_note(facts), _next_command(config, facts)
    tables = search_tables(facts, history_length=generator.max_history)
    return Outcome(facts, tables, notes=(note, *more), next=follow)


def _look_at_beams(
    generator: CandidateGenerator, histories: Ragged, target: int, words: Words, config: InspectSearchConfig
) -> dict[str, Any]:
    diagnosis, exact = _diagnose(generator, histories, target, config)
    return {
        "beam_width": config.search.beam_width,
        "num_candidates": diagnosis.candidates.item_index.shape[1],
        "target": _target_facts(words, diagnosis, exact),
        "levels": [_level_facts(words, diagnosis, exact, depth, config.prefixes) for depth in range(words.num_levels)],
        "recommendations": words.recommendations(diagnosis.candidates, target, config.k),
    }


@torch.inference_mode()
def _look_at_tree(
    generator: ValueGuidedGenerator, histories: Ragged, target: int, words: Words, config: InspectSearchConfig
) -> dict[str, Any]:
    length = config.search.num_candidates or config.search.beam_width
    found, trace = generator.grow(histories, length, exclude_seen=config.exclude_seen)
    exact = None
    if generator.trie.num_items <= EXACT_ITEMS:
        context, constraint, _ = generator.read(histories, exclude_seen=config.exclude_seen)
        targets = torch.tensor([target], device=generator.trie.device)
        exact = _place(exact_places(generator.scorer, generator.trie, context, targets, constraint=constraint).items)
    is_excluded = config.exclude_seen and target in histories[0].tolist()
    return {
        "num_candidates": length,
        "num_prefixes": config.prefixes,
        **tree_facts(words, trace, found, target, is_excluded=is_excluded, exact_place=exact),
        "recommendations": words.recommendations(found, target, config.k),
    }


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


def _target_facts(words: Words, diagnosis: SearchDiagnosis, exact: ExactPlaces | None) -> dict[str, Any]:
    lost_at = int(diagnosis.lost_at[0])
    return {
        **words.item(int(diagnosis.targets[0])),
        "log_prob": finite(float(diagnosis.target_log_prob[0])),
        "place": _place(diagnosis.target_place),
        "exact_place": None if exact is None else _place(exact.items),
        "verdict": judge(diagnosis, exact)[0],
        "lost_at_level": lost_at + 1 if lost_at >= 0 else None,
        "sufficient_beam_width": None if exact is None else int(exact.sufficient_width[0]) or None,
    }


def _level_facts(
    words: Words, diagnosis: SearchDiagnosis, exact: ExactPlaces | None, depth: int, num_prefixes: int
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


def _beam(words: Words, level: LevelDiagnosis, depth: int, place: int) -> dict[str, Any]:
    node, log_prob = int(level.nodes[0, place]), float(level.log_prob[0, place])
    return {
        **words.prefix(depth + 1, node, log_prob, place + 1),
        "is_target": node == int(level.target_node[0]),
    }


def _place(places: torch.Tensor) -> int | None:
    """From [1], counted from 0 with -1 for none, to one that is counted from 1."""
    return int(places[0]) + 1 or None


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
