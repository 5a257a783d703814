"""What everything that is evaluated and served must do, whatever finds the candidates: one class, run on each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.sequences import Cases, Ragged
from genrec.decoding.catalogue_search import CatalogueSearch
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.hybrid import Hybrid
from genrec.decoding.pool import METHODS, HybridSettings
from genrec.decoding.scorer import TableScorer
from genrec.evaluation.baseline_generator import BaselineGenerator
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.evaluation.dense_index import KINDS
from genrec.evaluation.evaluate import rank_cases
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.models.sasrec import Sasrec
from genrec.models.settings import SasrecSettings
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.search_oracle import random_tables

N, K = 40, 8
IDS = [f"sku-{index:02d}" for index in range(N)]
COUNTS = np.arange(N) % 9
RNG = np.random.default_rng(5)
ROWS = [RNG.integers(0, N, size=RNG.integers(0, 7)).tolist() for _ in range(11)] + [[]]


def generative() -> CandidateGenerator:
    codes = np.random.default_rng(0).integers(0, (4, 4, 5), size=(N, 3))
    codes[4] = codes[9]
    trie = SemanticIdTrie.build(codes, (4, 4, 5))
    scorer = TableScorer(trie, random_tables(trie, "normal", 0, num_tables=6))
    return CandidateGenerator(scorer, trie, item_ids=IDS, train_counts=COUNTS, beam_width=K, batch_size=5)


def dense(index: str = "flat") -> DenseGenerator:
    torch.manual_seed(0)
    model = Sasrec(N, SasrecSettings(width=8, hidden=8, history_length=50)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return DenseGenerator(model, item_ids=IDS, train_counts=COUNTS, batch_size=5, index=index)


def baseline() -> BaselineGenerator:
    train = Ragged.from_lists([RNG.integers(0, N, size=9).tolist() for _ in range(60)])
    knn = DirectedItemKnn().fit(train, num_items=N)
    return BaselineGenerator(knn, item_ids=IDS, train_counts=COUNTS, batch_size=5)


SEARCHES = {"beam search": generative}
SEARCHES |= {f"dense, {kind}": lambda kind=kind: dense(kind) for kind in KINDS}
SEARCHES |= {"item-kNN": baseline}
SEARCHES |= {f"hybrid, {m}": lambda m=m: Hybrid(generative(), dense(), HybridSettings(m)) for m in METHODS}
SEARCHES |= {"hybrid with item-kNN": lambda: Hybrid(generative(), baseline(), HybridSettings("mixture"))}


@pytest.fixture(params=SEARCHES.values(), ids=SEARCHES)
def search(request: pytest.FixtureRequest) -> CatalogueSearch:
    return request.param()


class TestCatalogueSearch:
    def test_lists_hold_admissible_items_once_in_order(self, search: CatalogueSearch) -> None:
        generator = torch.Generator().manual_seed(0)
        deny = torch.randint(-1, N, (len(ROWS), 6), generator=generator)
        allow = torch.rand(N, generator=generator) < 0.7
        found = search.search(Ragged.from_lists(ROWS), K, exclude_seen=True, deny=deny, allow=allow)
        assert found.item_index.shape == found.score.shape == found.log_prob.shape == (len(ROWS), K)
        for row, items in enumerate(found.item_index.tolist()):
            kept = [item for item in items if item >= 0]
            assert kept
            assert items == kept + [-1] * (K - len(kept))
            assert len(set(kept)) == len(kept)
            assert not set(kept) & {*ROWS[row], *deny[row].tolist()}
            assert all(bool(allow[item]) for item in kept)
            scores = found.score[row].tolist()
            assert all(np.isfinite(scores[: len(kept)]))
            assert scores[len(kept) :] == [-np.inf] * (K - len(kept))
            pairs = list(zip(scores, kept, strict=False))
            assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))

    def test_requests_do_not_influence_each_other(self, search: CatalogueSearch) -> None:
        whole = search.search(Ragged.from_lists(ROWS), K, exclude_seen=True)
        for row in (0, 3, len(ROWS) - 1):
            alone = search.search(Ragged.from_lists(ROWS[row : row + 1]), K, exclude_seen=True)
            assert torch.equal(alone.item_index[0], whole.item_index[row])
            torch.testing.assert_close(alone.score[0], whole.score[row], rtol=1e-4, atol=1e-5)

    def test_nothing_admissible_gives_nothing(self, search: CatalogueSearch) -> None:
        rows = [ROWS[-1], *ROWS[:2]]
        assert not rows[0]
        found = search.search(Ragged.from_lists(rows), K, allow=torch.zeros(N, dtype=torch.bool))
        assert found.item_index.tolist() == [[-1] * K] * 3

    def test_an_empty_history_gets_the_popular_items(self, search: CatalogueSearch) -> None:
        found = search.recommend([[], ["gone"]], 3, exclude=[[], ["sku-08"]])
        assert found.item_ids == [["sku-08", "sku-17", "sku-26"], ["sku-17", "sku-26", "sku-35"]]
        assert found.scores[0] == [8.0] * 3
        assert (found.num_popular, found.num_unknown_items) == (2, 1)

    def test_its_ranks_in_the_evaluator_are_places_in_its_lists(self, search: CatalogueSearch) -> None:
        rows = [row for row in ROWS if row]
        targets = np.random.default_rng(1).integers(0, N, size=len(rows)).astype(np.int32)
        cases = Cases(np.arange(len(rows), dtype=np.int32), targets, Ragged.from_lists(rows))
        frame = rank_cases({"it": GeneratorRanker(search, K)}, cases, train_counts=COUNTS, batch_size=7)
        for exclude, suffix in ((False, ""), (True, "_masked")):
            lists = search.search(cases.histories, K, exclude_seen=exclude)
            for row, target in enumerate(targets.tolist()):
                scores = dict(zip(lists.item_index[row].tolist(), lists.score[row].tolist(), strict=True))
                ahead = [item for item in scores if item >= 0 and scores[item] > scores.get(target, -np.inf)]
                expected = len(ahead) if target in scores else N
                assert frame[f"num_greater{suffix}"][row] == expected
