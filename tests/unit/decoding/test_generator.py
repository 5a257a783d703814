"""The candidate generator: the user's ids in and out, against the exhaustive answer of a table scorer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data.sequences import Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.trie import SemanticIdTrie

NUM_ITEMS = 30
IDS = [f"sku-{index:02d}" for index in range(NUM_ITEMS)]
COUNTS = np.arange(NUM_ITEMS) % 7


def make(beam_width: int = NUM_ITEMS, batch_size: int = 4) -> tuple[CandidateGenerator, TableScorer, SemanticIdTrie]:
    random = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(random.permutation(60)[:NUM_ITEMS], (3, 4, 5)), axis=1)
    trie = SemanticIdTrie.build(codes, (3, 4, 5))
    torch.manual_seed(0)
    tables = [torch.randn(6, trie.num_nodes(level), size) for level, size in enumerate((3, 4, 5))]
    scorer = TableScorer(trie, tables)
    generator = CandidateGenerator(
        scorer, trie, item_ids=IDS, train_counts=COUNTS, beam_width=beam_width, batch_size=batch_size
    )
    return generator, scorer, trie


def brute_force(scorer: TableScorer, trie: SemanticIdTrie, last: int) -> list[tuple[str, float]]:
    """All items by (log-probability descending, index ascending), each path walked one node at a time."""
    found = []
    for item in range(NUM_ITEMS):
        total, node = 0.0, 0
        for level, child in enumerate(trie.path_nodes(torch.tensor([item]))[0].tolist()):
            place = child - int(trie.child_offsets[level][node])
            total += float(scorer.log_probs[level][last % 6, node, place])
            node = child
        found.append((IDS[item], total))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def test_lists_are_those_of_brute_force() -> None:
    generator, scorer, trie = make()
    histories = [["sku-03", "sku-11"], ["sku-29"], ["sku-00", "sku-05", "sku-08"], ["sku-17"], ["sku-02"]]
    found = generator.recommend(histories, 7)
    for row, history in enumerate(histories):
        expected = brute_force(scorer, trie, IDS.index(history[-1]))[:7]
        assert found.item_ids[row] == [item for item, _ in expected]
        assert found.scores[row] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert found.num_unknown_items == found.num_popular == 0


def test_unknown_items_are_skipped_and_counted() -> None:
    generator, _, _ = make()
    found = generator.recommend([["gone", "sku-04", "what"], ["sku-04"]], 5)
    assert found.item_ids[0] == found.item_ids[1]
    assert found.num_unknown_items == 2
    assert found.num_popular == 0


def test_without_a_known_history_the_popular_items_come() -> None:
    generator, _, _ = make()
    found = generator.recommend([[], ["gone"], ["sku-01"]], 4)
    assert found.item_ids[0] == found.item_ids[1] == ["sku-06", "sku-13", "sku-20", "sku-27"]
    assert found.scores[0] == [6.0] * 4
    assert found.num_popular == 2
    assert generator.recommend([[]], 2, exclude=[["sku-06"]]).item_ids == [["sku-13", "sku-20"]]


def test_constraints_hold_exactly() -> None:
    generator, scorer, trie = make()
    histories = [["sku-03", "sku-11"], ["sku-29"]]
    exclude = [[item for item, _ in brute_force(scorer, trie, 11)[:5]], ["gone"]]
    found = generator.recommend(histories, 10, exclude=exclude, exclude_seen=True)
    for row, history in enumerate(histories):
        banned = {*history, *exclude[row]}
        expected = [item for item, _ in brute_force(scorer, trie, IDS.index(history[-1])) if item not in banned]
        assert found.item_ids[row] == expected[:10]
    allowed = ["sku-01", "sku-02", "sku-29", "none"]
    only = generator.recommend(histories, 10, allow=allowed, exclude_seen=True)
    assert [sorted(row) for row in only.item_ids] == [["sku-01", "sku-02", "sku-29"], ["sku-01", "sku-02"]]
    assert only.num_unknown_items == 1


def test_the_batch_does_not_matter() -> None:
    one, _, _ = make(beam_width=6, batch_size=1)
    many, _, _ = make(beam_width=6, batch_size=64)
    histories = [IDS[start : start + 3] for start in range(0, 27)] + [[]]
    assert one.recommend(histories, 6) == many.recommend(histories, 6)


def test_only_the_last_items_are_read_but_all_are_excluded() -> None:
    generator, scorer, trie = make()
    generator.max_history = 1
    history = [*(item for item, _ in brute_force(scorer, trie, 8)[:3]), "sku-08"]
    found = generator.search(Ragged.from_lists([[IDS.index(item) for item in history]]), 5, exclude_seen=True)
    expected = [item for item, _ in brute_force(scorer, trie, 8) if item not in history][:5]
    assert [IDS[item] for item in found.item_index[0].tolist()] == expected


def test_bad_requests_are_refused() -> None:
    generator, scorer, trie = make(beam_width=5)
    with pytest.raises(ConfigError, match="cannot return that many"):
        generator.recommend([["sku-01"]], 6)
    with pytest.raises(ConfigError, match="one list of excluded items a history"):
        generator.recommend([["sku-01"]], 5, exclude=[])
    with pytest.raises(DataError, match="29 item ids"):
        CandidateGenerator(scorer, trie, item_ids=IDS[1:], train_counts=COUNTS)
