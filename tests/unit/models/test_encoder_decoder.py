"""What the contract of all recommenders does not say of the encoder-decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.settings import EncoderDecoderSettings
from genrec.semantic_ids.trie import SemanticIdTrie

# Under (0, 0) nothing is to choose, under (0, 1) there is, but not at once.
CODES = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])


def build(normalisation: str) -> EncoderDecoderRecommender:
    torch.manual_seed(0)
    settings = EncoderDecoderSettings(
        normalisation=normalisation, width=8, num_heads=2, head_width=4, hidden=12, encoder_layers=1, decoder_layers=2
    )
    return EncoderDecoderRecommender(SemanticIdTrie.build(CODES, (2, 2, 2, 2)), settings).eval()


@pytest.mark.parametrize(("normalisation", "expected"), [("trie", [9, 12, 15]), ("vocabulary", [9, 15, 21])])
@torch.no_grad()
def test_a_search_reads_only_beams_that_have_something_to_choose(normalisation: str, expected: list[int]) -> None:
    model = build(normalisation)
    histories = torch.tensor([[0, 1, -1], [2, -1, -1], [3, 4, 0]])
    _, state = model.start(model.encode(histories, torch.tensor([2, 1, 3])))
    # Three beams each: codes (0) and (1); (0, 0) and (0, 1); (0, 0, 0) and (0, 1, 0); and one that is dead.
    nodes, parents = torch.tensor([0, 1, -1]).expand(3, -1), torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 2]])
    found = []
    for level in (1, 2, 3):
        codes = model.trie.child_codes[level - 1][nodes.clamp(min=0)].long() * (nodes >= 0)
        log_probs, state = model.step(level, state, parents[level - 1].expand(3, -1), codes, nodes)
        found.append(len(state.own[0].keys))  # the roots are three more
    assert found == expected
    of_only_child = log_probs[:, 0, 0]
    assert bool((of_only_child == 0).all() if normalisation == "trie" else (of_only_child < 0).all())
