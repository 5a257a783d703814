"""A dense recommender as it is served: the user's ids in and out, against sorting inner products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data.sequences import Cases, Ragged
from genrec.errors import ConfigError, DataError
from genrec.evaluation.dense_generator import DenseGenerator
from genrec.evaluation.evaluate import rank_cases
from genrec.evaluation.search_ranker import GeneratorRanker
from genrec.models.sasrec import Sasrec
from genrec.models.settings import SasrecSettings

N = 30
IDS = [f"sku-{index:02d}" for index in range(N)]
COUNTS = np.arange(N) % 7


def make(batch_size: int = 4, index: str = "flat") -> DenseGenerator:
    torch.manual_seed(0)
    model = Sasrec(N, SasrecSettings(width=8, hidden=8, history_length=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return DenseGenerator(model, item_ids=IDS, train_counts=COUNTS, max_history=3, batch_size=batch_size, index=index)


def brute_force(generator: DenseGenerator, history: list[str]) -> list[tuple[str, float]]:
    rows = torch.tensor([[IDS.index(item) for item in history][-3:]])
    with torch.no_grad():
        query = generator.model.encode(rows, torch.tensor([rows.shape[1]]))[0]
        scores = (generator.model.item_vectors() * query).sum(dim=1).tolist()
    return sorted(zip(IDS, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))


HISTORIES = [["sku-03", "sku-11"], ["sku-29"], ["sku-00", "sku-05", "sku-08", "sku-09"], ["sku-17"]]


def test_lists_are_those_of_brute_force_under_any_mask() -> None:
    generator = make()
    exclude = [[item for item, _ in brute_force(generator, history)[:5]] for history in HISTORIES]
    allow = [item for item in IDS if item[-1] in "0123456"]
    found = generator.recommend(HISTORIES, 7, exclude=exclude, exclude_seen=True, allow=[*allow, "gone"])
    for row, history in enumerate(HISTORIES):
        banned = {*exclude[row], *history}
        pairs = [pair for pair in brute_force(generator, history) if pair[0] in allow and pair[0] not in banned][:7]
        assert found.item_ids[row] == [item for item, _ in pairs]
        assert found.scores[row] == pytest.approx([score for _, score in pairs], abs=1e-5)
    assert (found.num_unknown_items, found.num_popular) == (1, 0)


def test_without_a_known_history_the_popular_items_come() -> None:
    found = make().recommend([[], ["gone"], ["sku-01"]], 4)
    assert found.item_ids[0] == found.item_ids[1] == ["sku-06", "sku-13", "sku-20", "sku-27"]
    assert found.scores[0] == [6.0] * 4
    assert found.num_popular == 2
    masked = make().recommend([[]], 2, exclude=[["sku-06"]], allow=["sku-06", "sku-20", "sku-01"])
    assert masked.item_ids == [["sku-20", "sku-01"]]


def test_the_batch_does_not_matter() -> None:
    histories = [IDS[start : start + 3] for start in range(0, 27)] + [[]]
    one, many = make(1).recommend(histories, 6), make(64).recommend(histories, 6)
    assert one.item_ids == many.item_ids
    assert np.concatenate(one.scores) == pytest.approx(np.concatenate(many.scores), rel=1e-4)


def test_lists_longer_than_the_catalogue_end_with_padding() -> None:
    generator = make()
    found = generator.search(Ragged.from_lists([[3], []]), N + 2, exclude_seen=True)
    assert found.item_index.shape == (2, N + 2)
    assert sorted(found.item_index[0].tolist()) == sorted([-1] * 3 + [item for item in range(N) if item != 3])
    assert sorted(found.item_index[1].tolist()) == [-1] * 2 + list(range(N))
    assert generator.max_candidates == N


def test_in_the_evaluator_its_ranks_are_those_of_all_scores() -> None:
    generator = make()
    random = np.random.default_rng(2)
    rows = [random.integers(0, N, size=random.integers(1, 6)).tolist() for _ in range(20)]
    targets = random.integers(0, N, size=20).astype(np.int32)
    cases = Cases(np.arange(20, dtype=np.int32), targets, Ragged.from_lists(rows))
    frame = rank_cases({"dense": GeneratorRanker(generator, N)}, cases, train_counts=COUNTS, batch_size=7)
    scores = generator.item_scores(cases.histories)
    expected = (scores > scores[torch.arange(20), torch.from_numpy(targets).long()].unsqueeze(1)).sum(dim=1)
    assert frame["num_greater"].to_list() == expected.tolist()


def test_an_approximate_index_says_how_much_it_finds() -> None:
    rows = Ragged.from_lists([[1, 2], [3], [4, 5]])
    assert make().index_recall(rows, 5) == 1
    assert 0 < make(index="ivf").index_recall(rows, 5) <= 1


def test_bad_requests_are_refused() -> None:
    generator = make()
    with pytest.raises(ConfigError, match="wrong number of candidates"):
        generator.recommend([["sku-01"]], 0)
    with pytest.raises(DataError, match="29 item ids"):
        DenseGenerator(generator.model, item_ids=IDS[1:], train_counts=COUNTS[1:])
