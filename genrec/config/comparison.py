"""The keys of ``compare``. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.config.fields import key


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Two or more systems on the same cases: is the difference more than luck, and where does it come from?"""

    systems: dict[str, tuple[str, ...] | str] = key(
        "by name, folders of evaluations: systems.apao=runs/apao/evaluation; FOLDER:ROW where the table has several "
        "recommenders, systems.knn=runs/apao/evaluation:item_knn; a list of them: the seeds of one system",
        dict,
    )
    output: Path = key("folder of the comparison to write")
    overwrite: bool = key("replace an existing output", False)
    reference: str | None = key("system that the others are compared with; null: the first", None)
    cutoff: int = key("k of recall and NDCG", 10, minimum=1)
    num_resamples: int = key("bootstrap resamples", 1000, minimum=100)
    num_permutations: int = key("sign patterns of the permutation test", 10_000, minimum=100)
    confidence: float = key("level of intervals and tests", 0.95, minimum=0.5, maximum=0.999)
    seed: int = key("seed of both", 0, minimum=0)
    pair_seeds: bool = key(
        "the i-th seeds of two systems belong together: one was tuned from the other, or both began alike", False
    )
