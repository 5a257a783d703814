"""``genrec recommend``: what a recommender or a bundle recommends. A bundle needs no torch, so none is loaded here."""

from __future__ import annotations

from genrec.config.training import RecommendConfig
from genrec.pipeline.recommend_source import check_source
from genrec.terminal import Outcome, Progress


def recommend(config: RecommendConfig, *, progress: Progress) -> Outcome:
    """One row a user and recommended item, best first."""
    check_source(config)
    if config.bundle is not None:
        from genrec.pipeline.recommend_in_parts import recommend_in_parts

        return recommend_in_parts(config, progress=progress)
    from genrec.pipeline.recommend_histories import recommend_histories

    return recommend_histories(config, progress=progress)
