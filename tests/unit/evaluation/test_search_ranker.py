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
from genrec.evaluation.metrics import count_values, ndcg_at_k, ranks
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


def colliding(seed: int, *, beam_width: int) -> CandidateGenerator:
    """24 items on 9 code tuples, 1 to 6 items each."""
    random = np.random.default_rng(seed)
    codes = np.stack([random.integers(0, 3, size=NUM_ITEMS), random.integers(0, 3, size=NUM_ITEMS)], axis=1)
    trie = SemanticIdTrie.build(codes, (3, 3))
    torch.manual_seed(seed)
    scorer = TableScorer(trie, [torch.randn(5, trie.num_nodes(level), 3) for level in range(2)])
    ids = [str(index) for index in range(NUM_ITEMS)]
    return CandidateGenerator(
        scorer, trie, item_ids=ids, train_counts=np.arange(NUM_ITEMS), beam_width=beam_width, batch_size=3
    )


@pytest.mark.parametrize("k", [1, 4, 8])
def test_where_items_share_their_codes_the_order_of_equals_does_not_count(k: int) -> None:
    """The metrics by the expected rule are means over lists whose equals are shuffled, also those at the end of a list.

    And a semantic ID is found as often as that of the target is among the distinct IDs of the list.
    """
    generator = colliding(3, beam_width=8)
    ranker = GeneratorRanker(generator, 8)
    leaves = generator.trie.item_leaves.numpy()
    assert ranker.codes is not None
    assert (ranker.codes == leaves).all()
    random = np.random.default_rng(4)
    rows = [random.integers(0, NUM_ITEMS, size=random.integers(1, 6)).tolist() for _ in range(6)]
    targets = np.tile(np.arange(NUM_ITEMS), len(rows)).astype(np.int32)
    cases = Cases(np.arange(len(targets)), targets, Ragged.from_lists([row for row in rows for _ in range(NUM_ITEMS)]))
    frame = rank_cases({"search": ranker}, cases, train_counts=np.arange(NUM_ITEMS))
    at = 0
    for history in rows:
        for exclude, suffix in ((False, ""), (True, "_masked")):
            columns = frame.slice(at, NUM_ITEMS)
            counts = [columns[f"{name}{suffix}"].to_numpy() for name in ("num_greater", "num_tied")]
            found = generator.search(Ragged.from_lists([history]), NUM_ITEMS, exclude_seen=exclude)
            items, scores = (part[0].numpy() for part in (found.item_index, found.score))
            items, scores = items[items >= 0], scores[items >= 0]
            hits = np.zeros(NUM_ITEMS)
            for _ in range(1000):
                order = np.lexsort((random.random(len(items)), -scores))
                hits[items[order[:k]]] += 1 / 1000
            expected = count_values(*counts, (k,), "expected")[f"recall@{k}"]
            np.testing.assert_allclose(hits, expected, atol=0.08)
            assert expected.sum() == pytest.approx(min(k, len(items)))
            ids = list(dict.fromkeys(leaves[items].tolist()))
            hidden = set(history) if exclude else set()
            places = [
                NUM_ITEMS if target in hidden or leaves[target] not in ids else ids.index(leaves[target])
                for target in range(NUM_ITEMS)
            ]
            assert columns[f"num_greater{suffix}_id"].to_list() == places
            assert columns[f"num_tied{suffix}_id"].to_list() == [0] * NUM_ITEMS
        at += NUM_ITEMS


def test_figures_of_semantic_ids_stand_beside_those_of_items(generator: CandidateGenerator) -> None:
    random = np.random.default_rng(5)
    rows = [random.integers(0, NUM_ITEMS, size=random.integers(0, 4)).tolist() for _ in range(30)]
    cases = Cases(np.arange(30), random.integers(-1, NUM_ITEMS, size=30).astype(np.int32), Ragged.from_lists(rows))
    report = evaluate_models(
        {"shared": GeneratorRanker(colliding(6, beam_width=9), 9), "own": GeneratorRanker(generator, 9)},
        cases,
        train_counts=np.arange(NUM_ITEMS),
        cutoffs=(1, 5),
        num_resamples=10,
        num_permutations=10,
        reference="own",
    ).report
    rows_of = {name: [row for row in report["rows"] if row["model"] == name] for name in ("shared", "own")}
    assert all("id_level" not in row for row in rows_of["own"])
    for row in rows_of["shared"]:
        assert set(row["id_level"]) == set(row["metrics"])
        for name, bounds in row["tie_bounds"].items():
            assert bounds["pessimistic"] < bounds["expected"] < bounds["optimistic"] <= row["id_level"][name]
    lists = [row for row in report["lists"] if row["model"] == "shared" and row["cutoff"] == 5]
    assert [row["mean_length"] for row in lists] == [5.0, 5.0]
