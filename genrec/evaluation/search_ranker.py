"""A search for candidates as something that evaluation can rank: what it returns has a score, the rest has none.

What is shipped is what is measured. Must not know models.
"""

# B histories, N items, k candidates

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch


class GeneratorRanker:
    """Scores = those of the k candidates of a search; every other item counts as not recommended.

    Where items share their codes, all items of the first k codes are kept: which of equals would be cut off is an
    accident of their numbers, and the figures of semantic IDs need k of them.

    Args:
        generator: searches for candidates.
        num_candidates: k, at most its `max_candidates`.

    Attributes:
        codes: [N] number of each item's code tuple; None where no two items share theirs, or there are no codes.
    """

    def __init__(self, generator: CatalogueSearch, num_candidates: int) -> None:
        self.generator = generator
        self.num_candidates = num_candidates
        self.codes: np.ndarray | None = None
        self._num_searched = num_candidates
        trie = getattr(generator, "trie", None)
        if trie is not None and trie.max_bucket > 1:
            self.codes = trie.item_leaves.cpu().numpy()
            self._num_searched = min(num_candidates * trie.max_bucket, generator.num_items)

    def scores(self, histories: Ragged) -> sp.csr_matrix:
        """[B, N] CSR of the candidates' scores; see `genrec.baselines.base.Ranker`."""
        return self._search(histories, exclude_seen=False)

    def masked_scores(self, histories: Ragged) -> sp.csr_matrix:
        """[B, N] CSR from a search without the items of the history."""
        return self._search(histories, exclude_seen=True)

    def _search(self, histories: Ragged, *, exclude_seen: bool) -> sp.csr_matrix:
        size = self.generator.batch_size
        parts = [
            self.generator.search(
                histories.take(slice(start, start + size)), self._num_searched, exclude_seen=exclude_seen
            )
            for start in range(0, len(histories), size)
        ]
        items = np.concatenate([part.item_index.cpu().numpy() for part in parts])
        scores = np.concatenate([part.score.cpu().double().numpy() for part in parts])
        row, place = np.nonzero(items >= 0)
        column = items[row, place]
        order = np.lexsort((column, row))
        counts = np.bincount(row, minlength=len(items))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        shape = (len(items), self.generator.num_items)
        return sp.csr_matrix((scores[row, place][order], column[order], offsets), shape=shape)
