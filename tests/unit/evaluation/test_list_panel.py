"""The panel of lists against lists that are counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.data.sequences import Cases, Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.evaluation.list_panel import list_panel
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.last_item import LastItemScorer
from oracles.search_oracle import random_tables

CODES = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3).astype(np.int32)
TRIE = SemanticIdTrie.build(CODES, (4, 4, 4))


def test_the_panel_counts_what_is_in_the_lists() -> None:
    scorer = LastItemScorer(TRIE, random_tables(TRIE, "normal", 0, num_tables=5))
    ids = [str(item) for item in range(64)]
    search = CandidateGenerator(scorer, TRIE, item_ids=ids, train_counts=np.ones(64), beam_width=12, batch_size=3)
    rows = [[1], [2, 3], [], [4], [7], [9, 8], [11]]
    targets = np.array([5, 40, 1, -1, 63, 7, 20])
    cases = Cases(np.arange(7), targets, Ragged.from_lists(rows))
    first = CODES[:, 0].astype(np.int64)
    found = list_panel(
        search, cases, train_counts=np.ones(64, np.int64), first_codes=first, metrics=["ndcg@5"], length=12
    )
    served = [place for place, row in enumerate(rows) if row]
    lists = search.search(Ragged.from_lists([rows[place] for place in served]), 12).item_index.tolist()
    assert set(found) == {
        *("recall@1", "recall@5", "recall@10", "ndcg@5"),
        *("coverage@12", "level_1_coverage@12", "level_1_recall@12"),
    }
    hits = [targets[place] in own[:10] for place, own in zip(served, lists, strict=True)]
    assert found["recall@10"] == pytest.approx(sum(hits) / 7)  # the popularity of equal counts hits nothing
    assert found["coverage@12"] == len({item for own in lists for item in own}) / 64
    codes = [{int(first[item]) for item in own} for own in lists]
    assert found["level_1_coverage@12"] == pytest.approx(np.mean([len(own) / 4 for own in codes]))
    known = [targets[p] >= 0 and int(first[targets[p]]) in own for p, own in zip(served, codes, strict=True)]
    assert found["level_1_recall@12"] == pytest.approx(np.mean(known))
