"""What needs a GPU: the same log-probabilities there as on a CPU, compiled and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from genrec.decoding.beam_search import beam_search
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.models.decoder_only import DecoderOnlyRecommender
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.path_trees import build_tree_scorer
from genrec.models.settings import DecoderOnlySettings, EncoderDecoderSettings, HierarchicalSettings, ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES, NUM_ITEMS, LENGTH = (8, 8, 8), 200, 10
SMALL: dict[str, Any] = {"width": 32, "hidden": 48, "num_heads": 4, "history_length": LENGTH}


def _hierarchical(trie: SemanticIdTrie) -> Any:
    return HierarchicalRecommender(trie, HierarchicalSettings(**SMALL, depth_hidden=32, joint_depth=2))


def _encoder_decoder(trie: SemanticIdTrie) -> Any:
    return EncoderDecoderRecommender(trie, EncoderDecoderSettings(**SMALL, encoder_layers=2, decoder_layers=2))


def _decoder_only(trie: SemanticIdTrie) -> Any:
    return DecoderOnlyRecommender(trie, DecoderOnlySettings(**SMALL, num_layers=2))


KINDS: dict[str, Callable[[SemanticIdTrie], Any]] = {
    "hierarchical": _hierarchical,
    "encoder_decoder": _encoder_decoder,
    "decoder_only": _decoder_only,
}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    codes = np.random.default_rng(0).integers(0, SIZES, size=(NUM_ITEMS, 3)).astype(np.int32)
    model = KINDS[kind](SemanticIdTrie.build(codes, SIZES))
    everything = torch.ones(NUM_ITEMS, dtype=torch.bool)
    model.mark_trained(everything, everything)
    return model.eval()


def windows() -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.randint(NUM_ITEMS, (16, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    items[torch.arange(LENGTH + 1) > torch.arange(16).unsqueeze(1) % LENGTH + 1] = -1
    return items[:, :-1].masked_fill(items[:, 1:] < 0, -1), items[:, 1:]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_log_probabilities_and_lists_of_a_cpu(kind: str) -> None:
    model, (histories, targets) = build(kind), windows()
    lengths = (histories >= 0).sum(dim=1)
    with torch.inference_mode():
        expected = model.score_targets(histories, targets).log_probs
        lists = beam_search(model, model.trie, model.encode(histories, lengths), beam_width=20, num_candidates=10)
        model.cuda()
        found = model.score_targets(histories.cuda(), targets.cuda()).log_probs.cpu()
        context = model.encode(histories.cuda(), lengths.cuda())
        again = beam_search(model, model.trie, context, beam_width=20, num_candidates=10)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(again.score.cpu(), lists.score, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_is_eager(kind: str) -> None:
    model, (histories, targets) = build(kind).cuda(), windows()
    histories, targets = histories.cuda(), targets.cuda()
    with torch.no_grad():
        expected = model.score_targets(histories, targets).log_probs
        found = torch.compile(model.score_targets)(histories, targets).log_probs
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_guided_search_on_a_gpu_finds_what_it_finds_on_a_cpu(kind: str) -> None:
    """The budget covers the catalogue, so that rounding decides nothing."""
    model, (histories, _) = build(kind), windows()
    head = ValueHead(model.trie, ValueHeadSettings(width=SMALL["width"])).eval()
    how, found = ValueGuidedSettings(128, 8), []
    for device in ("cpu", "cuda"):
        scorer, shown = build_tree_scorer(model.to(device), head.to(device)), histories.to(device)
        with torch.inference_mode():
            context = scorer.encode(shown, (shown >= 0).sum(dim=1))
            lists, _ = value_guided_search(scorer, model.trie, context, how, num_candidates=NUM_ITEMS)
        items, order = lists.item_index.cpu().sort(dim=1)
        found.append((items, lists.log_prob.cpu().gather(1, order)))
    assert torch.equal(found[0][0], torch.arange(NUM_ITEMS).expand(16, -1))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)
