"""What ``genrec train`` puts together before the first step, whatever kind of recommender it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genrec.artifacts import Artifact
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.pipeline.warm_start import WarmStart


@dataclass(frozen=True, eq=False)
class Setup:
    """What is trained, whatever kind it is.

    Attributes:
        model: before the first step.
        objective: what is minimised.
        parents: of the recommender.
        facts: of the recommender, beside the model's own.
        open: the search of the model as it is when this is called.
        watch: more to write down at each validation.
        initial: where the weights come from.
    """

    model: Any
    objective: Any
    parents: dict[str, Artifact]
    facts: dict[str, Any]
    open: Callable[[], CatalogueSearch]
    watch: Callable[[], dict[str, float]]
    initial: WarmStart | None = None
