"""The keys of ``fuse``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genrec.config.fields import key
from genrec.config.schema import ItemKnnSection
from genrec.config.training import SearchSection


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """A generative and a dense recommender -> their hybrid, whose constants are the best on validation."""

    dataset: Path = key("folder of the prepared dataset that both were trained on")
    generative: Path = key("folder of a generative recommender")
    dense: Path | None = key("folder of a dense one (model=sasrec); null: item-kNN", None)
    output: Path = key("folder of the hybrid to write")
    overwrite: bool = key("replace an existing output", False)
    method: Literal["rank_fusion", "mixture", "rescoring", "in_beam"] = key(
        "reciprocal ranks of both lists; log-probabilities of both models, over both lists or the generated one; "
        "or also for every prefix of the search",
        "mixture",
    )
    weights: tuple[float, ...] = key(
        "weights of the dense side to try; at 0 the list is the generated one",
        (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
        minimum=0,
    )
    constants: tuple[float, ...] = key("of rank fusion, added to the ranks, to try", (1.0, 10.0, 60.0), minimum=0)
    prefix_value: Literal["sum", "max"] = key("of in_beam: what the items below a prefix are worth together", "sum")
    item_knn: ItemKnnSection = key("item-kNN, where it is the dense side", ItemKnnSection)
    search: SearchSection = key("how both search while the constants are chosen", SearchSection)
    metric: Literal["recall", "ndcg"] = key("what is maximised on validation", "recall")
    cutoff: int = key("its k", 10, minimum=1)
    exclude_seen: bool = key("leave out the items of the history while the constants are chosen", False)
    max_cases: int | None = key("validation cases looked at; null: all", 5000, minimum=1)
    seed: int = key("seed of their choice", 0, minimum=0)
