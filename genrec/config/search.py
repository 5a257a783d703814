"""The keys of ``frontier`` and ``diagnose``, which look at how recommenders search. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genrec.config.fields import key
from genrec.config.training import SearchSection, TreeSection


@dataclass(frozen=True, kw_only=True)
class FrontierConfig:
    """Recommender -> what each setting of its search finds on validation, and how long it takes on this machine."""

    dataset: Path = key("folder of the prepared dataset that the recommender was trained on")
    recommender: Path = key("folder of a recommender: generative, dense or a hybrid")
    output: Path = key("folder of the frontier to write")
    overwrite: bool = key("replace an existing output", False)
    k: int = key("items of a list; a narrower beam gives a shorter one", 10, minimum=1)
    exclude_seen: bool = key("leave out the items of the history", False)
    beam_widths: tuple[int, ...] = key("generative or hybrid: beams to try", (5, 10, 20, 50, 100), minimum=1)
    node_budgets: tuple[int, ...] | None = key(
        "generative with a value head: budgets of a search by value to try; null: 64, 128 and 256 where the beginning "
        "fits in, none without a head; []: none",
        None,
        minimum=1,
    )
    value_guided: TreeSection = key("how a search by value spends its budgets", TreeSection)
    indexes: tuple[Literal["flat", "ivf", "hnsw"], ...] = key("dense: indexes to try", ("flat", "ivf", "hnsw"))
    num_probes: tuple[int, ...] = key("index ivf: lists looked through, to try", (1, 4, 16), minimum=1)
    num_visited: tuple[int, ...] = key("index hnsw: nodes kept while it searches, to try", (16, 64, 256), minimum=1)
    target: str | None = key(
        "latency to meet, p99:30ms or p50:500us say: the setting that finds most within it is chosen, and none is a "
        "failed gate (exit code 4)",
        None,
    )
    max_cases: int | None = key("validation cases searched; null: all", 2000, minimum=1)
    num_requests: int = key("of these cases, timed one by one; p99 needs 100 or more", 300, minimum=1)
    warm_up: int = key("requests of each setting before the timed ones", 20, minimum=0)
    batch_size: int = key("requests searched at once, for the throughput", 64, minimum=1)
    confidence: float = key("level of the intervals", 0.95, minimum=0.5, maximum=0.999)
    num_resamples: int = key("bootstrap resamples", 1000, minimum=100)
    seed: int = key("seed of the choice of cases and of the bootstrap", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Generative recommender -> where its search keeps and loses targets, against exact scoring of everything."""

    dataset: Path = key("folder of the prepared dataset that the recommender was trained on")
    recommender: Path = key("folder of a generative recommender")
    output: Path = key("folder of the diagnosis to write")
    overwrite: bool = key("replace an existing output", False)
    split: Literal["validation", "test"] = key("which cases", "validation")
    max_cases: int | None = key("cases looked at; null: all", 500, minimum=1)
    k: int = key("items of a list, at most the beams", 10, minimum=1)
    exclude_seen: bool = key("leave out the items of the history", False)
    search: SearchSection = key("the beam search that is looked at", SearchSection)
    exact: bool = key("compare with scoring all items; costs the model every prefix of the catalogue a case", True)
    num_bins: int = key("bins of the reliability tables, of equally many cases", 10, minimum=1)
    node_budgets: tuple[int, ...] | None = key(
        "with a value head: budgets of a search by value whose rescues are counted; null: 64, 128 and 256 where the "
        "beginning fits in, none without a head; []: none",
        None,
        minimum=1,
    )
    value_guided: TreeSection = key("how a search by value spends its budgets", TreeSection)
    embeddings: Path | None = key("folder of item vectors, for neighbours of what is generated; null: no look", None)
    neighbours: tuple[int, ...] = key("nearest items of each generated one", (1, 5, 10), minimum=1)
    confidence: float = key("level of the intervals", 0.95, minimum=0.5, maximum=0.999)
    num_resamples: int = key("bootstrap resamples", 1000, minimum=100)
    seed: int = key("seed of the choice of cases and of the bootstrap", 0, minimum=0)
