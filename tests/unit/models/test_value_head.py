"""The value head, and recommenders as scorers of trees: what one call for all depths gives is what paths give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from genrec.decoding.exhaustive import exhaustive_search, score_items, score_prefixes
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.errors import ConfigError, LineageError
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.hierarchical_trees import HierarchicalTreeScorer
from genrec.models.path_trees import PathTreeScorer
from genrec.models.settings import HierarchicalSettings, MemorySettings, ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES = (3, 4, 3)
SMALL: dict[str, Any] = {"width": 8, "num_heads": 2, "hidden": 12, "depth_hidden": 10, "history_length": 5}
KINDS: dict[str, dict[str, Any]] = {
    "trie": {},
    "vocabulary": {"normalisation": "vocabulary"},
    "without nodes": {"node_embeddings": False},
    "memory": {"memory": MemorySettings(followers=9)},
    "joint depth 2": {"joint_depth": 2},
    "joint depth 3": {"joint_depth": 3, "memory": MemorySettings(followers=9)},
}


def draw_trie(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> SemanticIdTrie:
    codes = np.random.default_rng(seed).integers(0, sizes, size=(18, len(sizes)))
    return SemanticIdTrie.build(codes, sizes)


def draw_head(trie: SemanticIdTrie, **settings: Any) -> ValueHead:
    """With large random weights everywhere."""
    sizes: dict[str, Any] = {"width": 8, "hidden": 12}
    head = ValueHead(trie, ValueHeadSettings(**(sizes | settings)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(generator=generator)
    return head.eval()


def build(kind: str) -> HierarchicalTreeScorer:
    torch.manual_seed(0)
    trie = draw_trie()
    model = HierarchicalRecommender(trie, HierarchicalSettings(**(SMALL | KINDS[kind])))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        if model.memory is not None:
            model.memory.neighbours.copy_(torch.arange(9).expand(18, -1))
            model.memory.weights.uniform_()
    everything = torch.ones(18, dtype=torch.bool)
    model.mark_trained(everything, everything)
    return HierarchicalTreeScorer(model.eval(), draw_head(trie))


HISTORIES = torch.tensor([[3, 1, 4, 17], [5, 9, -1, -1], [-1, -1, -1, -1]])
LENGTHS = torch.tensor([4, 2, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_of_all_depths_in_one_call_are_what_paths_give(kind: str) -> None:
    """The whole trie level by level, then everything below the root in one call of mixed depths."""
    scorer = build(kind)
    trie, batch = scorer.model.trie, len(HISTORIES)
    context = scorer.encode(HISTORIES, LENGTHS)
    with torch.no_grad():
        totals = [torch.zeros(batch, 1), *score_prefixes(scorer.model, trie, context)]
        counts = [trie.num_nodes(depth) for depth in range(trie.num_levels + 1)]
        starts = np.cumsum([0, *counts])
        _, values, state = scorer.open(context, int(starts[-1]) + 1)
        of_roots = values[:, 0]
        for depth in range(1, trie.num_levels + 1):
            rows = torch.arange(int(starts[depth]), int(starts[depth + 1])).expand(batch, -1)
            parents = (starts[depth - 1] + trie.parents[depth - 1]).expand(batch, -1)
            nodes = torch.arange(counts[depth]).expand(batch, -1)
            scorer.forward(state, rows, parents, torch.full_like(rows, depth), nodes, totals[depth])
        order = torch.randperm(int(starts[-1]) - 1, generator=torch.Generator().manual_seed(0)) + 1
        depths = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[order]
        nodes = torch.cat([torch.arange(count) for count in counts])[order]
        above = torch.cat(
            [torch.zeros(1).long(), *(start + own for start, own in zip(starts, trie.parents, strict=False))]
        )
        nowhere = torch.full_like(order, int(starts[-1])).expand(batch, -1)
        rest = (above[order], depths, nodes)
        dead = torch.tensor([False, True, False]).unsqueeze(1) & (torch.arange(len(order)) % 2 == 0)
        parents, depths, nodes = (part.expand(batch, -1) for part in rest)
        of_prefixes = torch.cat(totals, dim=1)[:, order]
        log_probs, values = scorer.forward(state, nowhere, parents, depths, nodes.masked_fill(dead, -1), of_prefixes)
        everything = torch.arange(trie.num_items).expand(batch, -1)
        of_codes = scorer.model.score_items(context, everything).log_probs
        paths = torch.cat([torch.zeros(batch, 18, 1).long(), trie.path_nodes(everything)], dim=2)
        expected = scorer.head.of_items(trie, context.state.view(batch, 1, 1, -1), everything, of_codes)
    for place, (depth, node) in enumerate(zip(depths[0].tolist(), nodes[0].tolist(), strict=True)):
        item = int((paths[0, :, depth] == node).nonzero()[0])
        is_alive = ~dead[:, place]
        torch.testing.assert_close(values[is_alive, place], expected[is_alive, item, depth])
        if depth < trie.num_levels:
            first, end = (int(trie.child_offsets[depth][node + more]) for more in (0, 1))
            own = totals[depth + 1][:, first:end] - totals[depth][:, node : node + 1]
            torch.testing.assert_close(log_probs[is_alive, place, : end - first], own[is_alive])
    torch.testing.assert_close(of_roots, expected[:, 0, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_with_budget_enough_is_exhaustive(kind: str) -> None:
    scorer = build(kind)
    trie = scorer.model.trie
    with torch.inference_mode():
        context = scorer.encode(HISTORIES, LENGTHS)
        found, _ = value_guided_search(scorer, trie, context, ValueGuidedSettings(60, 4), num_candidates=18)
        expected = exhaustive_search(scorer.model, trie, context, num_candidates=18)
        some, _ = value_guided_search(scorer, trie, context, ValueGuidedSettings(12, 2), num_candidates=18)
        scores = score_items(scorer.model, trie, context, some.item_index)
    torch.testing.assert_close(found.log_prob, expected.log_prob)
    torch.testing.assert_close(some.log_prob, scores)
    assert [set(row) for row in found.item_index.tolist()] == [set(range(18))] * 3
    assert bool((some.item_index >= 0).any(dim=1).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_trees_as_by_the_steps_of_a_beam_search(kind: str) -> None:
    fast = build(kind)
    trie, slow = fast.model.trie, PathTreeScorer(fast.model, fast.head)
    with torch.inference_mode():
        context = fast.encode(HISTORIES, LENGTHS)
        how = ValueGuidedSettings(20, 2, rank_by="mixture")
        traces = [value_guided_search(one, trie, context, how, num_candidates=5)[1] for one in (fast, slow)]
    assert torch.equal(traces[0].nodes, traces[1].nodes)
    assert torch.equal(traces[0].visits, traces[1].visits)
    torch.testing.assert_close(traces[0].values, traces[1].values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traces[0].log_probs, traces[1].log_probs)


@pytest.mark.parametrize("scorer_of", [HierarchicalTreeScorer, PathTreeScorer])
def test_nothing_admissible_and_half_precision(scorer_of: Any) -> None:
    model, head = build("trie").model, build("trie").head
    scorer, trie = scorer_of(model, head), model.trie
    how = ValueGuidedSettings(12, 2, rank_by="value")
    for is_half in (False, True):
        allow = torch.zeros(3, 18, dtype=torch.bool)
        allow[1, 4] = is_half
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            context = scorer.encode(HISTORIES, LENGTHS)
            constraint = Constraint.build(trie, allow=allow)
            found, _ = value_guided_search(scorer, trie, context, how, num_candidates=2, constraint=constraint)
            lists, _ = value_guided_search(scorer, trie, context, how, num_candidates=2)
        assert found.item_index.tolist() == [[-1, -1], [4 if is_half else -1, -1], [-1, -1]]
        assert bool((lists.item_index[:, 0] >= 0).all())
        assert lists.log_prob.dtype == torch.float32


def test_values_equal_the_formula() -> None:
    trie = draw_trie()
    head = draw_head(trie, num_layers=1)
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    states, items = torch.randn(2, 1, 1, 8, generator=generator), torch.tensor([[4, 0, 7], [1, 1, 16]])
    log_probs = -torch.rand(2, 3, 3, generator=generator)
    with torch.no_grad():
        found = head.of_items(trie, states, items, log_probs)
    assert found.shape == (2, 3, 4)
    codes = trie.prefix_codes(3)[trie.item_leaves].tolist()
    for position in range(2):
        for candidate, item in enumerate(items[position].tolist()):
            for depth in range(4):
                total = log_probs[position, candidate, :depth].double().sum().item()
                x = states[position, 0, 0].double().numpy() + weights["depths"][depth]
                x = x + total / 10 * weights["surprise"][depth]
                for level, code in enumerate(codes[item][:depth]):
                    x = x + weights[f"codes.{level}"][code]
                inner = torch.nn.functional.gelu(
                    torch.tensor(
                        rms(x, weights["layers.0.norm.weight"]) @ weights["layers.0.feed_forward.inner.weight"].T
                    )
                )
                x = x + inner.numpy() @ weights["layers.0.feed_forward.outer.weight"].T
                value = rms(x, weights["norm.weight"]) @ weights["weight"] + weights["bias"][depth]
                assert found[position, candidate, depth].item() == pytest.approx(value, rel=1e-4, abs=1e-4)


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2) + 1e-6) * weight


def test_a_value_does_not_know_what_comes_after_its_prefix() -> None:
    trie = draw_trie()
    head = draw_head(trie)
    states = torch.randn(1, 1, 1, 8)
    items = torch.arange(18).unsqueeze(0)
    log_probs = -torch.rand(1, 18, 3)
    paths = trie.path_nodes(items)[0]
    for depth in range(1, 4):  # items with a prefix in common, and log-probabilities that differ behind it
        shared = torch.where(torch.arange(3) < depth, -torch.arange(1.0, 4.0), log_probs)
        with torch.no_grad():
            values = head.of_items(trie, states, items, shared)[0]
        for node in paths[:, depth - 1].unique().tolist():
            own = values[paths[:, depth - 1] == node, : depth + 1]
            assert torch.equal(own, own[:1].expand_as(own))
    assert len(values[:, 3].unique()) > 5


def test_no_gradient_leaves_it_and_it_begins_with_nothing() -> None:
    trie = draw_trie()
    head = ValueHead(trie, ValueHeadSettings(width=8, hidden=12))
    states, log_probs = torch.randn(1, 1, 1, 8, requires_grad=True), torch.zeros(1, 18, 3, requires_grad=True)
    items = torch.arange(18).unsqueeze(0)
    values = head.of_items(trie, states, items, log_probs)
    assert values.eq(0).all()
    (values - 1).square().sum().backward()
    assert states.grad is None
    assert log_probs.grad is None
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


def test_it_learns_what_a_prefix_is_worth() -> None:
    """A reward for the first code that depends on the user."""
    torch.manual_seed(0)
    trie = draw_trie()
    head = ValueHead(trie, ValueHeadSettings(width=8, hidden=64, reads_log_prob=False))
    users = torch.randn(32, 8)
    items = torch.arange(18).expand(32, -1)
    codes = trie.prefix_codes(3)[trie.item_leaves].long()
    rewards = (users[:, codes[:, 0]] > 0).double()  # [32, 18]: a feature of the user for each first code
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-2)
    for _ in range(100):
        values = head.of_items(trie, users.view(32, 1, 1, 8), items, torch.zeros(32, 18, 3))[..., 1]
        loss = (values - rewards).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05  # of a variance of 0.25


def test_facts_bring_it_back() -> None:
    trie = draw_trie()
    head = draw_head(trie, reads_log_prob=False, num_layers=2)
    again = ValueHead.from_facts(head.facts, draw_trie(seed=1))  # another catalogue of the same levels
    again.load_state_dict(head.state_dict())
    assert again.facts == head.facts
    with pytest.raises(LineageError, match=r"expected codebook sizes \[3, 4, 3\]"):
        ValueHead.from_facts(head.facts, draw_trie(sizes=(3, 4, 4)))
    with pytest.raises(ConfigError, match="unknown keys"):
        ValueHead.from_facts({**head.facts, "depth": 3}, trie)
    with pytest.raises(ConfigError, match="num_layers of the value head must be positive"):
        ValueHeadSettings(num_layers=0)
    with pytest.raises(ConfigError, match=r"states of another width \(expected 8, found 16\)"):
        HierarchicalTreeScorer(build("trie").model, ValueHead(trie, ValueHeadSettings(width=16)))
