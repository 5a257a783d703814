"""The first codes decided together: against sums over prefixes written out, and against the search."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from genrec.decoding.beam_search import beam_search
from genrec.decoding.exhaustive import exhaustive_search, score_paths
from genrec.errors import ConfigError
from genrec.models import code_decoder
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.settings import HierarchicalSettings
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles.hierarchical_oracle import code_log_probs, decode, node_vector

SIZES = (3, 4, 2)
SMALL: dict[str, Any] = {"width": 8, "num_layers": 1, "num_heads": 2, "hidden": 16, "depth_hidden": 16}
Codes = list[tuple[int, ...]]


def draw_codes() -> Codes:
    """Most of the 24 possible codes, one of them twice."""
    rng = np.random.default_rng(0)
    drawn = [tuple(map(int, row)) for row in rng.integers(0, SIZES, size=(30, 3))]
    return [*sorted(set(drawn)), drawn[0]]


def build(codes: Codes, depth: int, trained: list[int] | None = None) -> HierarchicalRecommender:
    torch.manual_seed(0)
    trie = SemanticIdTrie.build(np.array(codes, dtype=np.int32), SIZES)
    model = HierarchicalRecommender(trie, HierarchicalSettings(**SMALL, joint_depth=depth, history_length=6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    seen = torch.zeros(len(codes), dtype=torch.bool)
    seen[list(range(len(codes))) if trained is None else trained] = True
    model.mark_trained(seen, seen)
    return model.double().eval()


def requests(num_items: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    histories = torch.randint(num_items, (9, 6), generator=generator)
    return histories, torch.full((9,), 6), torch.randint(num_items, (9,), generator=generator)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_teacher_forcing_and_search_give_the_sums_over_prefixes(depth: int) -> None:
    codes = draw_codes()
    model = build(codes, depth, trained=list(range(0, len(codes), 2)))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    histories, lengths, targets = requests(len(codes))
    last = torch.full_like(histories, -1)
    last[:, -1] = targets
    with torch.no_grad():
        context = model.encode(histories, lengths)
        forced = model.score_targets(histories, last).log_probs[:, -1]
        searched = score_paths(model, model.trie, context, targets.unsqueeze(1)).squeeze(1)
    prefixes = sorted({row[:depth] for row in codes})
    for request, target in enumerate(targets.tolist()):
        user = context.state[request].numpy()
        first = decode(weights, user)
        logits = {}
        for prefix in prefixes:
            output = sum(weights[f"decoder.output_codes.{level}"][code] for level, code in enumerate(prefix))
            logits[prefix] = first @ output + (first + user) @ node_vector(weights, prefix)
        total = sum(map(math.exp, logits.values()))
        expected = []
        for length in range(1, depth + 1):
            own = [value for prefix, value in logits.items() if prefix[:length] == codes[target][:length]]
            expected.append(math.log(sum(map(math.exp, own)) / total))
        conditional = [after - before for before, after in pairwise([0.0, *expected])]
        if depth < len(SIZES):
            rest = code_log_probs(weights, user, codes[target], set(codes), normalisation="trie", temperature=1.0)
            conditional += rest[depth:]
        np.testing.assert_allclose(forced[request].numpy(), conditional, atol=1e-6)
        np.testing.assert_allclose(searched[request].numpy(), np.cumsum(conditional), atol=1e-6)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_wide_beam_search_is_exact(depth: int) -> None:
    codes = draw_codes()
    model = build(codes, depth)
    histories, lengths, _ = requests(len(codes))
    with torch.no_grad():
        context = model.encode(histories, lengths)
        exact = exhaustive_search(model, model.trie, context, num_candidates=10)
        found = beam_search(model, model.trie, context, beam_width=30, num_candidates=10)
    assert torch.equal(found.item_index, exact.item_index)
    assert torch.allclose(found.score, exact.score, atol=1e-9)


@pytest.mark.parametrize("depth", [2, 3])
def test_every_parameter_learns_and_impossible_prefixes_have_no_part(depth: int) -> None:
    codes = draw_codes()
    model = build(codes, depth).train()
    histories, _, targets = requests(len(codes))
    last = torch.full_like(histories, -1)
    last[:, -1] = targets
    log_probs = model.score_targets(histories, last).log_probs
    log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.decoder.node_embeddings.levels[0] == depth - 1
    if depth == len(SIZES):
        assert not len(model.decoder.code_embeddings)


def test_far_less_probable_subtrees_keep_their_order() -> None:
    """Shares are taken relative to the best of the same parent, so nothing underflows before its siblings do."""
    codes = draw_codes()
    model = build(codes, 3).float()
    with torch.no_grad():
        model.decoder.node_embeddings.rows["2"].mul_(2000)
    histories, lengths, targets = requests(len(codes))
    with torch.no_grad():
        paths = score_paths(model, model.trie, model.encode(histories, lengths), targets.unsqueeze(1)).squeeze(1)
    assert torch.isfinite(paths).all()
    assert paths.min() < -200
    assert (paths.diff(dim=1) <= 1e-3).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"joint_depth": 0}, "must be positive"),
        ({"joint_depth": 2, "normalisation": "vocabulary"}, "needs trie normalisation"),
        ({"joint_depth": 2, "node_embeddings": False}, "needs trie normalisation"),
        ({"joint_depth": 4}, r"larger than the number of codes.*model\.joint_depth=3"),
    ],
)
def test_impossible_depths_are_refused(settings: dict[str, Any], message: str) -> None:
    trie = SemanticIdTrie.build(np.array(draw_codes(), dtype=np.int32), SIZES)
    with pytest.raises(ConfigError, match=message):
        HierarchicalRecommender(trie, HierarchicalSettings(**SMALL, **settings))


def test_a_softmax_over_too_many_prefixes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trie = SemanticIdTrie.build(np.array(draw_codes(), dtype=np.int32), SIZES)
    monkeypatch.setattr(code_decoder, "LARGEST_SOFTMAX", trie.num_nodes(2))
    HierarchicalRecommender(trie, HierarchicalSettings(**SMALL, joint_depth=2))
    with pytest.raises(ConfigError, match=r"too many prefixes.*model\.joint_depth=2"):
        HierarchicalRecommender(trie, HierarchicalSettings(**SMALL, joint_depth=3))


@pytest.mark.parametrize("depth", [2, 3])
def test_many_candidates_and_their_means_are_those_of_the_joint_softmax(depth: int) -> None:
    """The alternatives of the first J codes are all prefixes of J codes; they stand at level J of the means."""
    codes = draw_codes()
    model = build(codes, depth)
    histories, lengths, _ = requests(len(codes))
    items = torch.randint(len(codes), (9, 6), generator=torch.Generator().manual_seed(3))
    last = torch.full_like(histories, -1)
    last[:, -1] = 0
    with torch.no_grad():
        found = model.score_items(model.read_positions(histories, last), items, with_means=True)
        expected = score_paths(model, model.trie, model.encode(histories, lengths), items)
        _, state = model.start(model.encode(histories, lengths))
    assert torch.allclose(found.log_probs.cumsum(dim=-1).float(), expected.float(), atol=1e-4)
    assert found.means is not None
    assert (found.means[..., : depth - 1] == 0).all()
    mean = state.joint[depth - 1].mean(dim=1, keepdim=True).expand(9, 6)
    assert torch.allclose(found.means[..., depth - 1], mean, atol=1e-5)
