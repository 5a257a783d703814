"""Hybrids of a table scorer and given dense scores: their limits, brute force over the catalogue, masks, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genrec.data.sequences import Ragged
from genrec.decoding.catalogue_search import CatalogueSearch, pad_rows
from genrec.decoding.exhaustive import score_catalogue
from genrec.decoding.fusion import fuse_ranks
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.hybrid import Hybrid
from genrec.decoding.pool import METHODS, HybridSettings
from genrec.decoding.scorer import Candidates, TableScorer
from genrec.decoding.selection import rank_items
from genrec.errors import ConfigError, DataError
from genrec.semantic_ids.constraints import mask_of_items
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.search_oracle import random_tables

N, WIDTH = 30, 6
IDS = [f"sku-{index:02d}" for index in range(N)]
COUNTS = np.arange(N) % 7
ROWS = Ragged.from_lists([[3, 11], [29], [0, 5, 8], [17]])


class GivenScores(CatalogueSearch):
    """Dense scores that are a table, by the last item of the history."""

    def __init__(self) -> None:
        super().__init__(IDS, COUNTS, batch_size=4, device=torch.device("cpu"))
        self.table = 2 * torch.randn(N, N, generator=torch.Generator().manual_seed(9))

    @property
    def max_candidates(self) -> int:
        return N

    def item_log_probs(self, histories: Ragged) -> torch.Tensor:
        last = [int(row[-1]) if len(row) else 0 for row in histories]
        return self.table[last].log_softmax(dim=1)

    def search(self, histories: Ragged, k: int, *, exclude_seen=False, deny=None, allow=None) -> Candidates:
        scores = self.item_log_probs(histories)
        if allow is not None:
            scores = scores.masked_fill(~allow, -torch.inf)
        for denied in (deny, pad_rows(histories, self.device)[0] if exclude_seen else None):
            if denied is not None:
                scores = scores.masked_fill(mask_of_items(denied, N), -torch.inf)
        items, scores = rank_items(torch.arange(N).expand(scores.shape), scores, k)
        return Candidates(items, torch.full_like(scores, -torch.inf), scores)


def make(beam_width: int = WIDTH, **settings: Any) -> Hybrid:
    codes = np.random.default_rng(0).integers(0, (3, 4, 5), size=(N, 3))
    codes[4] = codes[9]
    trie = SemanticIdTrie.build(codes, (3, 4, 5))
    scorer = TableScorer(trie, random_tables(trie, "normal", 0, num_tables=6))
    generator = CandidateGenerator(scorer, trie, item_ids=IDS, train_counts=COUNTS, beam_width=beam_width, batch_size=4)
    return Hybrid(generator, GivenScores(), HybridSettings(**settings))


def mixture(hybrid: Hybrid, rows: Ragged, weight: float) -> torch.Tensor:
    """The score of every item [B, N]."""
    generator = hybrid.generative
    log_p = score_catalogue(generator.scorer, generator.trie, generator.read(rows).context)
    return log_p + weight * hybrid.dense.item_log_probs(rows)


def best_of(scores: torch.Tensor, k: int, allowed: torch.Tensor | None = None) -> list[list[int]]:
    lists = []
    for row, values in enumerate(scores.tolist()):
        items = [item for item in range(N) if allowed is None or bool(allowed[row, item])]
        lists.append(sorted(items, key=lambda item: (-values[item], item))[:k])
    return lists


@pytest.mark.parametrize("method", METHODS)
def test_at_weight_zero_the_list_is_the_generated_one(method: str) -> None:
    hybrid = make(method=method, weight=0.0)
    found = hybrid.search(ROWS, WIDTH, exclude_seen=True)
    assert torch.equal(found.item_index, hybrid.generative.search(ROWS, WIDTH, exclude_seen=True).item_index)


def test_at_a_huge_weight_candidates_are_in_the_order_of_the_dense_side() -> None:
    hybrid = make(method="rescoring", weight=1e5)
    generated = hybrid.generative.search(ROWS, WIDTH * hybrid.generative.trie.max_bucket)
    log_q = hybrid.dense.item_log_probs(ROWS)
    found = hybrid.search(ROWS, WIDTH)
    for row, items in enumerate(generated.item_index.tolist()):
        items = [item for item in items if item >= 0]
        assert found.item_index[row].tolist() == sorted(items, key=lambda item: -float(log_q[row, item]))[:WIDTH]
    dense = hybrid.dense.search(ROWS, WIDTH).item_index
    for method in ("mixture", "in_beam", "rank_fusion"):
        # the best prefixes by the best item below them are those of the best items, so the beam loses none of these
        found = make(method=method, weight=1e5, prefix_value="max").search(ROWS, WIDTH)
        assert torch.equal(found.item_index, dense)


@pytest.mark.parametrize("weight", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("prefix_value", ["sum", "max"])
@pytest.mark.parametrize("masked", [False, True])
def test_with_beams_for_every_prefix_the_list_is_the_exhaustive_mixture(
    weight: float, prefix_value: str, masked: bool
) -> None:
    hybrid = make(N, method="in_beam", weight=weight, prefix_value=prefix_value)
    options: dict[str, Any] = {}
    allowed = None
    if masked:
        deny, allow = torch.tensor([[1, 2], [4, -1], [7, 7], [-1, -1]]), torch.arange(N) % 4 > 0
        options = {"deny": deny, "allow": allow, "exclude_seen": True}
        allowed = allow & ~mask_of_items(deny, N) & ~mask_of_items(pad_rows(ROWS, deny.device)[0], N)
    found = hybrid.search(ROWS, 10, **options)
    scores = mixture(hybrid, ROWS, weight)
    assert found.item_index.tolist() == best_of(scores, 10, allowed)
    torch.testing.assert_close(found.score, scores.gather(1, found.item_index), atol=1e-5, rtol=1e-5)
    log_p = mixture(hybrid, ROWS, 0.0).gather(1, found.item_index)
    torch.testing.assert_close(found.log_prob, log_p, atol=1e-5, rtol=1e-5)


def test_a_narrow_beam_finds_more_of_the_mixture_with_the_dense_side_in_it() -> None:
    scores = mixture(make(), ROWS, 2.0)
    best = [set(row) for row in best_of(scores, WIDTH)]
    lists = {m: make(method=m, weight=2.0).search(ROWS, WIDTH).item_index.tolist() for m in ("rescoring", "in_beam")}
    shared = {m: sum(len(set(a) & b) for a, b in zip(rows, best, strict=True)) for m, rows in lists.items()}
    assert shared["in_beam"] > shared["rescoring"]


def test_the_mixture_ranks_the_items_of_both_lists() -> None:
    hybrid = make(method="mixture", weight=0.8)
    generated = hybrid.generative.search(ROWS, WIDTH).item_index
    retrieved = hybrid.dense.search(ROWS, WIDTH).item_index
    both = mask_of_items(torch.cat([generated, retrieved], dim=1), N)
    found = hybrid.search(ROWS, WIDTH)
    assert found.item_index.tolist() == best_of(mixture(hybrid, ROWS, 0.8), WIDTH, both)


def test_rank_fusion_is_that_of_both_lists() -> None:
    hybrid = make(method="rank_fusion", weight=0.5, constant=3.0)
    lists = (hybrid.generative.search(ROWS, WIDTH).item_index, hybrid.dense.search(ROWS, WIDTH).item_index)
    items, scores = fuse_ranks(*lists, 4, weight=0.5, constant=3.0)
    found = hybrid.search(ROWS, 4)
    assert torch.equal(found.item_index, items)
    assert torch.equal(found.score, scores)


@pytest.mark.parametrize("method", METHODS)
def test_masks_hold_and_users_without_a_history_get_the_popular_items(method: str) -> None:
    hybrid = make(method=method, weight=1.0)
    found = hybrid.recommend([[], ["gone"], ["sku-03"]], 4, exclude=[["sku-06"], [], []], exclude_seen=True)
    assert found.item_ids[0] == ["sku-13", "sku-20", "sku-27", "sku-05"]
    assert found.item_ids[1] == ["sku-06", "sku-13", "sku-20", "sku-27"]
    assert (found.num_popular, found.num_unknown_items) == (2, 1)
    assert "sku-03" not in found.item_ids[2]
    only = hybrid.recommend([["sku-03"]], 4, allow=["sku-03", "sku-08", "sku-21"], exclude_seen=True)
    assert sorted(only.item_ids[0]) == ["sku-08", "sku-21"]


def test_pools_that_are_kept_change_no_list() -> None:
    pools: dict[Any, Any] = {}
    plain = make()
    for method in METHODS:
        for weight, value in ((0.0, "sum"), (0.5, "sum"), (0.5, "max"), (2.0, "sum")):
            settings = HybridSettings(method, weight, 5.0, value)  # type: ignore[arg-type]
            kept = Hybrid(plain.generative, plain.dense, settings, pools=pools)
            alone = Hybrid(plain.generative, plain.dense, settings)
            for exclude in (False, True):
                for rows in (ROWS, ROWS.take(slice(1, 3))):
                    found = kept.search(rows, WIDTH, exclude_seen=exclude)
                    expected = alone.search(rows, WIDTH, exclude_seen=exclude)
                    assert torch.equal(found.item_index, expected.item_index)
                    assert torch.equal(found.score, expected.score)
            deny = torch.arange(8).expand(4, -1)
            assert torch.equal(kept.search(ROWS, 3, deny=deny).item_index, alone.search(ROWS, 3, deny=deny).item_index)
    assert len(pools) == 4 * (3 + 4), "two masks of two batches: for each method, and for each setting in the beam"


@pytest.mark.parametrize("margin", [0.02, 0.05])
def test_firm_lists_do_not_change_when_scores_are_a_little_off(margin: float) -> None:
    hybrid = make(method="rank_fusion", weight=0.7, constant=1.0)
    rows = Ragged.from_lists([[item] for item in range(N)])
    is_firm = hybrid.is_firm(rows, margin)
    expected = hybrid.search(rows, WIDTH)
    has_changed = torch.zeros_like(is_firm)
    for seed in range(20):
        other = GivenScores()
        noise = torch.rand(N, N, generator=torch.Generator().manual_seed(seed)) - 0.5
        other.table = other.table + 0.9 * margin * noise
        found = Hybrid(hybrid.generative, other, hybrid.settings).search(rows, WIDTH)
        has_changed |= (found.item_index != expected.item_index).any(dim=1)
    assert is_firm.any()
    assert not (has_changed & is_firm).any()
    assert (has_changed & ~is_firm).any(), "noise changes some of the others"
    assert make(method="mixture").is_firm(rows, margin).all(), "no ranks are fused"
    assert hybrid.is_firm(Ragged.from_lists([[]]), 1e9).all(), "the popular items are no matter of rounding"


def test_equal_scores_are_firm() -> None:
    hybrid, dense = make(method="rank_fusion"), GivenScores()
    dense.table = dense.table.round()
    hybrid.dense = dense
    rows = Ragged.from_lists([[item] for item in range(N)])
    lists = dense.search(rows, WIDTH + 1).score
    assert (lists.diff(dim=1) == 0).any(dim=1).all(), "ties in every list"
    assert hybrid.is_firm(rows, 1e-6).all()


def test_what_cannot_be_is_refused() -> None:
    hybrid = make()
    with pytest.raises(ConfigError, match="1 to 6, the beam width"):
        hybrid.search(ROWS, WIDTH + 1)
    other = GivenScores()
    other.item_ids = IDS[::-1]
    with pytest.raises(DataError, match="different items"):
        Hybrid(hybrid.generative, other, HybridSettings())
    for wrong in ({"method": "vote"}, {"weight": -1.0}, {"weight": float("nan")}):
        with pytest.raises(ConfigError):
            HybridSettings(**wrong)  # type: ignore[arg-type]
