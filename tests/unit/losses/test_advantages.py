"""Advantages against dictionaries of prefixes, and what is true of them whatever the candidates are."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from genrec.losses.advantages import (
    ADVANTAGES,
    CandidateTree,
    build_candidate_tree,
    explained_progress,
    find_siblings,
    fork_advantages,
    group_advantages,
    potential_advantages,
    progress_advantages,
    sibling_advantages,
    sibling_pairs,
    signal_parts,
    target_potentials,
    tree_td_advantages,
)
from oracles import advantage_oracle as oracle
from oracles.advantage_oracle import Candidate

PLAIN = ("group", "sibling", "fork", "tree_td")
WITH_SCALES = [(0.0, 1e-6), (0.3, 0.0), (1e-9, 1e-3)]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Candidate | None], int]:
    """Candidates of up to three requests in any order, with duplicates, equal rewards and padding."""
    num_levels = draw(st.integers(1, 4))
    codes = st.tuples(*[st.integers(0, 2)] * num_levels)
    rewards = st.sampled_from([Fraction(number, 4) for number in range(-4, 5)])
    candidate = st.builds(Candidate, st.sampled_from([0, 3, 11]), codes, rewards)
    return draw(st.lists(st.one_of(candidate, candidate, candidate, st.none()), max_size=12)), num_levels


def tensors(candidates: list[Candidate | None], num_levels: int) -> tuple[torch.Tensor, CandidateTree]:
    """What stands in the padding must not matter."""
    rewards = torch.tensor([float(c.reward) if c else torch.nan for c in candidates], dtype=torch.float64)
    codes = torch.tensor([c.codes if c else (-1,) * num_levels for c in candidates]).view(-1, num_levels).long()
    requests = torch.tensor([c.request if c else -1 for c in candidates]).long()
    is_valid = torch.tensor([c is not None for c in candidates], dtype=torch.bool)
    return rewards, build_candidate_tree(codes, requests, is_valid)


def check_table(found: torch.Tensor, expected: list[list[float]]) -> None:
    assert found.flatten().tolist() == pytest.approx([value for row in expected for value in row], abs=1e-9)


@settings(max_examples=examples(60))
@given(batches(), st.sampled_from(WITH_SCALES), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_same_advantages_with_dictionaries(
    batch: tuple[list[Candidate | None], int], scale: tuple[float, float], share: float
) -> None:
    candidates, num_levels = batch
    rewards, tree = tensors(*batch)
    floor, eps = scale
    options = {"std_floor": floor, "eps": eps}
    check_table(group_advantages(rewards, tree, **options), oracle.group(candidates, num_levels, floor, eps))
    check_table(sibling_advantages(rewards, tree, **options), oracle.sibling(candidates, num_levels, floor, eps))
    check_table(tree_td_advantages(rewards, tree, **options), oracle.tree_td(candidates, num_levels, floor, eps))
    expected = oracle.fork(candidates, num_levels, share, floor, eps)
    check_table(fork_advantages(rewards, tree, group_share=share, **options), expected)


@settings(max_examples=examples(25))
@given(batches(), st.integers(0, 99), st.sampled_from([0.2, 10.0]), st.sampled_from([0.4, 10.0]))
def test_shaped_advantages_are_those_of_a_loop(
    batch: tuple[list[Candidate | None], int], seed: int, limit: float, ceiling: float
) -> None:
    candidates, num_levels = batch
    rewards, tree = tensors(*batch)
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(len(candidates), num_levels + 1, generator=generator, dtype=torch.float64)
    found = potential_advantages(rewards, tree, steps, kappa=0.7, limit=limit, ceiling=ceiling, eps=0.0)
    if candidates:
        check_table(found, oracle.potential(candidates, steps.tolist(), 0.7, limit, ceiling))
    group = group_advantages(rewards, tree, eps=0.0)
    is_valid = torch.tensor([c is not None for c in candidates], dtype=torch.bool)
    if (limit, ceiling) == (10.0, 10.0):  # nothing is cut: it telescopes
        shaping = (found - group).sum(dim=1)[is_valid]
        torch.testing.assert_close(shaping, 0.7 * (steps[:, -1] - steps[:, 0])[is_valid])
    progress = (steps - steps[:, :1]) / (steps[:, -1:] - steps[:, :1])
    given_out = progress_advantages(rewards, tree, progress).sum(dim=1)
    torch.testing.assert_close(given_out, torch.where(is_valid, rewards, 0.0))
    centred = progress_advantages(rewards, tree, progress, is_centred=True, eps=0.0)
    torch.testing.assert_close(centred.sum(dim=1), group[:, 0])


@settings(max_examples=examples(40))
@given(batches())
def test_progress_is_the_share_of_the_variance_that_a_prefix_explains(
    batch: tuple[list[Candidate | None], int],
) -> None:
    candidates, num_levels = batch
    found = explained_progress(*tensors(*batch))
    check_table(found, [oracle.explained(candidates, num_levels)] * len(candidates))
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == 1).all()
    assert (found.diff(dim=1) >= -1e-12).all()


@settings(max_examples=examples(25))
@given(batches())
def test_advantages_cancel_where_they_compare(batch: tuple[list[Candidate | None], int]) -> None:
    rewards, tree = tensors(*batch)
    for request in tree.groups[:, 0].unique().tolist():
        rows = tree.rows[tree.groups[:, 0] == request]
        assert group_advantages(rewards, tree)[rows].sum().item() == pytest.approx(0, abs=1e-9)
    own = rewards[tree.rows]
    for level in range(tree.groups.shape[1] - 1):
        through = sibling_advantages(rewards, tree)[tree.rows, level]
        by_parent = torch.zeros(len(own) + 1, dtype=through.dtype).index_add(0, tree.groups[:, level], through)
        assert by_parent.abs().max().item() == pytest.approx(0, abs=1e-9)
        siblings = find_siblings(own, tree, level)
        assert siblings.counts.sum().item() == len(own)
        assert (through[~siblings.is_fork[siblings.of_candidates]] == 0).all()


@settings(max_examples=examples(25))
@given(batches())
def test_fork_is_group_at_one_and_undivided_siblings_at_zero(batch: tuple[list[Candidate | None], int]) -> None:
    rewards, tree = tensors(*batch)
    assert torch.equal(fork_advantages(rewards, tree, group_share=1.0), group_advantages(rewards, tree))
    found = fork_advantages(rewards, tree, group_share=0.0)
    check_table(found, oracle.undivided(batch[0], batch[1], 0.0, 1e-6))


@settings(max_examples=examples(25))
@given(batches(), st.sampled_from(PLAIN), st.randoms())
def test_other_requests_do_not_matter(batch: tuple[list[Candidate | None], int], name: str, random) -> None:
    """A request alone, and the batch in another order, give bit by bit the same numbers."""
    candidates, num_levels = batch
    rewards, tree = tensors(*batch)
    whole = ADVANTAGES[name](rewards, tree)
    for request in {c.request for c in candidates if c}:
        rows = [row for row, c in enumerate(candidates) if c and c.request == request]
        alone = ADVANTAGES[name](*tensors([candidates[row] for row in rows], num_levels))
        assert torch.equal(alone, whole[rows])
    order = list(range(len(candidates)))
    random.shuffle(order)
    shuffled = ADVANTAGES[name](*tensors([candidates[row] for row in order], num_levels))
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-9)


def test_equal_codes_of_two_requests_are_not_siblings() -> None:
    """Pooled, code 0 would have mean 0.5 and code 1 mean 1."""
    codes = torch.tensor([[0], [0], [1]])
    tree = build_candidate_tree(codes, torch.tensor([0, 1, 1]))
    found = sibling_advantages(torch.tensor([1.0, 0.0, 1.0]), tree, eps=0.0)
    assert found.flatten().tolist() == [0.0, -1.0, 1.0]


def test_trie_nodes_do_as_well_as_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 3, (40, 3), generator=generator)
    nodes = torch.stack([codes[:, 0], codes[:, :2] @ torch.tensor([3, 1]), codes @ torch.tensor([9, 3, 1])], dim=1)
    requests, rewards = torch.arange(40) % 3, torch.rand(40, generator=generator)
    for name in PLAIN:
        one, other = (ADVANTAGES[name](rewards, build_candidate_tree(table, requests)) for table in (codes, nodes))
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_contrast_is_exactly_nothing(name: str, dtype: torch.dtype) -> None:
    """Sums of 0.1 round differently for two and for three candidates; means of them must still count as equal."""
    codes = torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [0, 0]])
    requests = torch.tensor([0, 0, 0, 0, 0, 0, 1])
    for value in (0.1, 1 / 3, -0.7, 0.0):
        rewards = torch.full((7,), value, dtype=dtype)
        found = ADVANTAGES[name](rewards, build_candidate_tree(codes, requests), eps=0.0)
        assert found.dtype == dtype
        assert found.shape == (7, 2)
        assert (found == 0).all()
    rewards = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 5.0], dtype=dtype)  # the first codes are alike
    assert (sibling_advantages(rewards, build_candidate_tree(codes, requests))[:, 0] == 0).all()


def test_the_potential_is_the_probability_of_the_rest_of_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.nn.functional.logsigmoid(torch.randn(4, 3, generator=generator, dtype=torch.float64))
    target = torch.tensor([2, 5, 9]).expand(4, -1)
    nodes = torch.tensor([[2, 5, 9], [2, 5, 8], [2, 4, 7], [-1, -1, -1]])
    found = target_potentials(log_probs, nodes, target)
    for row, depth_on_path in enumerate((3, 2, 1, 0)):
        for depth in range(4):
            expected = math.prod(log_probs[row, depth:].exp().tolist()) if depth <= depth_on_path else 0.0
            assert found[row, depth].item() == pytest.approx(expected)


def test_a_floor_keeps_two_siblings_from_always_being_one_apart() -> None:
    tree = build_candidate_tree(torch.tensor([[0], [1]]), torch.tensor([0, 0]))
    rewards = torch.tensor([0.02, 0.0], dtype=torch.float64)
    assert sibling_advantages(rewards, tree, eps=0.0).flatten().tolist() == pytest.approx([1, -1])
    assert sibling_advantages(rewards, tree, std_floor=0.1, eps=0.0).flatten().tolist() == pytest.approx([0.1, -0.1])


@settings(max_examples=examples(25))
@given(batches(), st.sampled_from([0.0, 0.3]))
def test_pairs_are_the_best_sibling_and_each_worse_one(
    batch: tuple[list[Candidate | None], int], margin: float
) -> None:
    candidates, num_levels = batch
    rewards, tree = tensors(*batch)
    found = sibling_pairs(rewards, tree, margin=margin)
    named = []
    for better, worse, level in zip(*(part.tolist() for part in found), strict=True):
        first, second = candidates[better], candidates[worse]
        assert first is not None
        assert second is not None
        assert first.request == second.request
        assert first.codes[:level] == second.codes[:level]
        named.append((first.request, first.codes[:level], first.codes[level], second.codes[level]))
    assert len(set(named)) == len(named)
    assert set(named) == oracle.pairs(candidates, num_levels, margin)


def test_the_record_of_a_step() -> None:
    codes = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0], [0, 0], [1, 0], [9, 9]])
    requests = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5, 0.5, torch.nan], dtype=torch.float64)
    is_valid = torch.tensor([True] * 6 + [False])
    parts = signal_parts(rewards, build_candidate_tree(codes, requests, is_valid), eps=0.0)
    found = {name: part.item() for name, part in parts.items()}
    assert found == pytest.approx(
        {
            "zero_signal_share": 0.5,
            "duplicate_share": 1 / 6,
            "sibling_variance_level_1": 0.5,  # request 0: +1 and -1; request 1: two equal siblings
            "sibling_std_level_1": (2 * (1 / 3) ** 2 / 4) ** 0.5,  # 2/3 and 0; 0.5 and 0.5
            "sibling_variance_level_2": 1.0,
            "sibling_std_level_2": 0.5,
        }
    )
    nothing = signal_parts(rewards, build_candidate_tree(codes, requests, torch.zeros(7, dtype=torch.bool)))
    assert all(part.item() == 0 for part in nothing.values())
