"""What to watch while a policy is optimised: hits at several depths, and how varied the lists still are.

Rewards sharpen the top of a list and impoverish what is below it, which one metric at one cut-off does not show. Knows
searches and cases; must not know training.
"""
# C cases, B histories, k candidates, N items, n distinct first codes

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int64

from genrec.baselines.base import best_items
from genrec.data.sequences import Cases, Ragged
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.evaluation.evaluate import score_metrics
from genrec.evaluation.search_ranker import GeneratorRanker

CUTOFFS = (1, 5, 10, 50)


class _Recorder(GeneratorRanker):
    """A ranker that remembers what it has returned."""

    def __init__(self, generator: CatalogueSearch, num_candidates: int) -> None:
        super().__init__(generator, num_candidates)
        self.found: list[np.ndarray] = []  # [B, k] item_index, -1 as padding

    def scores(self, histories: Ragged) -> sp.csr_matrix:
        scores = super().scores(histories)
        self.found.append(best_items(scores, self.num_candidates)[0])
        return scores


def list_panel(
    generator: CatalogueSearch,
    cases: Cases,
    *,
    train_counts: Int64[np.ndarray, " N"],
    first_codes: Int64[np.ndarray, " N"],
    metrics: Sequence[str] = (),
    length: int = max(CUTOFFS),
) -> dict[str, float]:
    """Searches every case once and looks at the lists.

    Args:
        generator: the search.
        cases: what to predict.
        train_counts: training interactions of each item.
        first_codes: the first code of each item, numbered from 0.
        metrics: further metrics, such as "ndcg@10".
        length: of the lists; fewer where the catalogue has fewer items.

    Returns:
        `recall@k` for 1, 5, 10 and 50 as far as the lists reach, and `metrics`. With k the length of the lists, over
        cases with a history: `coverage@k`, the share of the catalogue that is in any list; `level_1_coverage@k`, the
        mean share of all first codes that are in a list; `level_1_recall@k`, how often that of the target is.
    """
    length = min(length, generator.max_candidates, generator.num_items)
    names = [f"recall@{k}" for k in CUTOFFS if k <= length]
    ranker = _Recorder(generator, length)
    wanted = list(dict.fromkeys([*names, *metrics]))
    size = generator.batch_size
    found = score_metrics(ranker, cases, train_counts=train_counts, metrics=wanted, batch_size=size)
    targets = cases.target[cases.histories.lengths > 0]
    return found | _variety(ranker.found, targets, first_codes, length)


def _variety(
    found: Sequence[np.ndarray], targets: Int64[np.ndarray, " C"], first_codes: Int64[np.ndarray, " N"], length: int
) -> dict[str, float]:
    """Of the lists of all cases, batch by batch."""
    is_listed = np.zeros(len(first_codes), dtype=bool)
    has_code = np.zeros((len(targets), int(first_codes.max()) + 1), dtype=bool)
    start = 0
    for batch in found:
        row, place = np.nonzero(batch >= 0)
        item = batch[row, place]
        is_listed[item] = True
        has_code[start + row, first_codes[item]] = True
        start += len(batch)
    is_known = targets >= 0
    hits = has_code[np.arange(len(targets)), first_codes[np.where(is_known, targets, 0)]] & is_known
    num_cases = max(1, len(targets))
    return {
        f"coverage@{length}": float(is_listed.mean()),
        f"level_1_coverage@{length}": float(has_code.mean(axis=1).sum() / num_cases),
        f"level_1_recall@{length}": float(hits.sum() / num_cases),
    }
