"""What ``frontier`` and ``diagnose`` have in common: which cases, which budgets, what a list is worth, this machine."""
# C cases, k candidates

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.config.training import TreeSection, ValueGuidedSearch
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.value_guided_settings import ValueGuidedSettings, initial_cost
from genrec.errors import DataError
from genrec.evaluation.significance import bootstrap_means, percentile_interval
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

BUDGETS = (64, 128, 256)  # of a search by value, where nobody says which
_CASES = 4  # stream of randomness below one seed


def choose_cases(dataset: Dataset, split: str, max_cases: int | None, seed: int) -> tuple[Cases, int]:
    """Some of the cases of a split that have a history, and how many have none and get the popularity list.

    Raises:
        DataError: no case with a history.
    """
    cases = dataset.cases(split)
    searched = np.flatnonzero((cases.histories.lengths > 0) & (cases.target >= 0))
    num_left_out = len(cases) - len(searched)
    if not len(searched):
        raise DataError(f"no {split} case has a history", where=dataset.artifact.path, fix="prepare a larger dataset")
    if max_cases is not None and max_cases < len(searched):
        searched = np.sort(generator(seed, _CASES).choice(searched, max_cases, replace=False))
    return cases.take(searched), num_left_out


def value_guided_searches(
    budgets: tuple[int, ...] | None, section: TreeSection, trie: SemanticIdTrie, *, has_head: bool, batch_size: int
) -> list[ValueGuidedSearch]:
    """A search by value for each budget; where none are given, those of `BUDGETS` that fit, if there is a head.

    A budget that is too small, or one for a recommender without a head, is refused when the search is opened.
    """
    if budgets is None:
        leaves = ValueGuidedSettings(**asdict(section)).forwards_leaves
        cost = 2 * initial_cost(trie, section.initial_width, forwards_leaves=leaves)
        budgets = tuple(budget for budget in BUDGETS if has_head and cost <= budget)
    return [ValueGuidedSearch(**asdict(section), node_budget=budget, batch_size=batch_size) for budget in budgets]


def find_places(
    search: CatalogueSearch, cases: Cases, k: int, *, exclude_seen: bool, progress: Callable[[int], None]
) -> tuple[np.ndarray, float]:
    """Place of each target in the list of k, from 0, -1 where it is not there; and the seconds of the searches."""
    places, seconds = [], 0.0
    for start in range(0, len(cases), search.batch_size):
        some = cases.take(slice(start, start + search.batch_size))
        begin = time.perf_counter()
        found = search.search(some.histories, k, exclude_seen=exclude_seen).item_index.cpu().numpy()
        seconds += time.perf_counter() - begin
        is_target = found == some.target[:, None]
        places.append(np.where(is_target.any(axis=1), is_target.argmax(axis=1), -1))
        progress(start + len(some))
    return np.concatenate(places), seconds


def mean_intervals(
    values: np.ndarray, users: np.ndarray, *, num_resamples: int, confidence: float, seed: int
) -> list[dict[str, float]]:
    """Mean of each column [C, M] with its bootstrap interval over users."""
    resampled = bootstrap_means(values, users, num_resamples=num_resamples, seed=seed)
    low, high = percentile_interval(resampled, confidence=confidence)
    columns = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [{"mean": mean, "low": least, "high": most} for mean, least, most in columns]


def machine() -> dict[str, Any]:
    """What latencies depend on; no name of the machine or its user."""
    facts = {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": None,
    }
    with suppress(OSError, AttributeError):  # not every system has one
        facts["load_average"] = round(os.getloadavg()[0], 2)
    return facts


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
