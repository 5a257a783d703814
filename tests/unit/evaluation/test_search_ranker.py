"""A search in the evaluator: its ranks are the places in its lists, with a search of its own under the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data.sequences import Cases, Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.scorer import TableScorer
from genrec.errors import ConfigError
from genrec.evaluation.evaluate import evaluate_models, rank_cases, score_metrics, score_model
from genrec.evaluation.metrics import ndcg_at_k, ranks
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.semantic_ids.trie import SemanticIdTrie

NUM_ITEMS = 24


@pytest.fixture(scope="module")
def generator() -> CandidateGenerator:
    random = np.random.default_rng(1)
    codes = np.stack(np.unravel_index(random.permutation(40)[:NUM_ITEMS], (4, 10)), axis=1)
    trie = SemanticIdTrie.build(codes, (4, 10))
    torch.manual_seed(1)
    scorer = TableScorer(trie, [torch.randn(5, trie.num_nodes(level), size) for level, size in enumerate((4, 10))])
    ids = [str(index) for index in range(NUM_ITEMS)]
    return CandidateGenerator(
        scorer, trie, item_ids=ids, train_counts=np.arange(NUM_ITEMS), beam_width=12, batch_size=3
    )


def test_ranks_are_places_in_the_lists(generator: CandidateGenerator) -> None:
    random = np.random.default_rng(2)
    rows = [random.integers(0, NUM_ITEMS, size=random.integers(0, 6)).tolist() for _ in range(40)]
    targets = random.integers(0, NUM_ITEMS, size=40).astype(np.int32)
    cases = Cases(np.arange(40, dtype=np.int32), targets, Ragged.from_lists(rows))
    counts = np.arange(NUM_ITEMS)
    frame = rank_cases({"search": GeneratorRanker(generator, 8)}, cases, train_counts=counts, batch_size=7)
    for row, (history, target) in enumerate(zip(rows, targets.tolist(), strict=True)):
        if not history:
            continue  # served by popularity, for every model
        for exclude, column in ((False, "num_greater"), (True, "num_greater_masked")):
            found = generator.search(Ragged.from_lists([history]), 8, exclude_seen=exclude).item_index[0].tolist()
            expected = found.index(target) if target in found else NUM_ITEMS
            assert frame[column][row] == expected


def test_cut_offs_above_the_candidates_are_refused(generator: CandidateGenerator) -> None:
    cases = Cases(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32), Ragged.from_lists([[1]]))
    with pytest.raises(ConfigError, match=r"cut-off 10 is above.*; set search\.beam_width=10 search\.num_cand"):
        evaluate_models(
            {"search": GeneratorRanker(generator, 8)},
            cases,
            train_counts=np.arange(NUM_ITEMS),
            cutoffs=(1, 10),
            reference=None,
        )


class Counting(GeneratorRanker):
    """Writes down which searches are run."""

    def __init__(self, generator: CandidateGenerator, num_candidates: int) -> None:
        super().__init__(generator, num_candidates)
        self.searches: list[bool] = []

    def _search(self, histories: Ragged, *, exclude_seen: bool):
        self.searches.append(exclude_seen)
        return super()._search(histories, exclude_seen=exclude_seen)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_only_the_search_that_is_asked_for_is_run(generator: CandidateGenerator, exclude_seen: bool) -> None:
    random = np.random.default_rng(4)
    rows = [random.integers(0, NUM_ITEMS, size=3).tolist() for _ in range(12)]
    cases = Cases(np.arange(12), random.integers(0, NUM_ITEMS, size=12).astype(np.int32), Ragged.from_lists(rows))
    counts = np.arange(NUM_ITEMS)
    ranker = Counting(generator, 8)
    names = ("recall@1", "ndcg@8")
    values = score_metrics(ranker, cases, train_counts=counts, metrics=names, exclude_seen=exclude_seen, batch_size=6)
    assert ranker.searches == [exclude_seen] * 2
    frame = rank_cases({"search": ranker}, cases, train_counts=counts)
    suffix = "_masked" if exclude_seen else ""
    rank = ranks(frame[f"num_greater{suffix}"].to_numpy(), frame[f"num_tied{suffix}"].to_numpy())
    assert values["ndcg@8"] == ndcg_at_k(rank, 8).mean()
    ranker.searches.clear()
    score_model(ranker, cases, train_counts=counts, metric="recall@8", exclude_seen=exclude_seen)
    assert ranker.searches == [exclude_seen]
    with pytest.raises(ConfigError, match="cut-off 9 is above the number of candidates"):
        score_model(ranker, cases, train_counts=counts, metric="recall@9")
