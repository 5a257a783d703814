"""Rollouts of training requests: candidates of the policy as it is, and what they are rewarded with.

A request is the history before one training target. The model answers it as in a search, with nothing random and
without a gradient; what remembers the training data (`TransitionMemory`) alone is in training mode, because it must not
remember the target of the very row that it is asked about, or every request would be solved already. Knows models and
searches; must not know losses, optimisers or configuration.
"""
# B requests, T items of a history, k candidates, L levels, N items

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.decoding.sampling import (
    Rollouts,
    Sampling,
    beam_rollouts,
    hint_nodes,
    sample_siblings,
    sample_with_replacement,
    stochastic_beam_search,
)
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.decoding.visited import VisitedNodes, score_visited
from genrec.errors import ConfigError
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.path_trees import build_tree_scorer
from genrec.models.value_head import ValueHead
from genrec.seeding import fold_in, generator
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.rewards import Answers, composed_reward

METHODS = ("beam", "sample", "stochastic_beam", "siblings", "value_guided")


class Requests(NamedTuple):
    """Training requests.

    Attributes:
        histories: item_index, oldest first, padded with -1 at the end.
        targets: of each row the item after its last one, at the place of that; -1 elsewhere.
        gaps: the time between events, for models that read it; None for others.
    """

    histories: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]
    gaps: Int64[Tensor, "B T"] | None = None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor]) -> Requests:
        """From a batch of pairs."""
        return cls(batch["items"], torch.where(batch["is_target"], batch["targets"], -1), batch.get("gaps"))

    @property
    def target_items(self) -> Int64[Tensor, " B"]:
        """One a row."""
        return self.targets.amax(dim=1)

    @property
    def lengths(self) -> Int64[Tensor, " B"]:
        return (self.histories >= 0).sum(dim=1)


@dataclass(frozen=True)
class RolloutSettings:
    """Where candidates come from.

    Attributes:
        method: one of `METHODS`.
        num_candidates: k of each request.
        temperature: of what is drawn.
        search: of value_guided.
        hint_share: of the requests, how many get a prefix of their target at the first step.
        hints_over: share of the steps over which this falls to 0, linearly; above 0.
        hint_length: longest hint; None: L - 1.

    Raises:
        ConfigError: unknown method, or a number out of range.
    """

    method: str = "beam"
    num_candidates: int = 16
    temperature: float = 1.0
    search: ValueGuidedSettings = field(default_factory=ValueGuidedSettings)
    hint_share: float = 0.0
    hints_over: float = 0.5
    hint_length: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError("unknown rollouts", expected=", ".join(METHODS), found=repr(self.method))
        if not self.hints_over > 0:
            raise ConfigError("hints have to become rarer over some steps", expected="above 0", found=self.hints_over)
        if self.num_candidates < 2:
            raise ConfigError("too few candidates to compare", expected="2 or more", found=self.num_candidates)


@dataclass(frozen=True, eq=False)
class Experience:
    """What was tried, and how good it was.

    Attributes:
        found: the candidates, with their log-probabilities under the policy that found them.
        targets: of the requests.
        hint_lengths: leading codes that were given.
        rewards: of the candidates, 0 for padding.
        parts: scalars to write down.
    """

    found: Rollouts
    targets: Int64[Tensor, " B"]
    hint_lengths: Int64[Tensor, " B"]
    rewards: Float[Tensor, "B k"]
    parts: dict[str, Float[Tensor, ""]]

    @property
    def is_valid(self) -> Bool[Tensor, "B k"]:
        return self.found.is_valid


def hold_still(model: nn.Module) -> None:
    """Nothing random in the model, yet what remembers the training data does not tell rows their own future."""
    model.eval()
    memory = getattr(model, "memory", None)
    if memory is not None:
        memory.train()


def read_requests(model: Any, requests: Requests) -> Any:
    """What a search starts from; gradients flow through it.

    A hierarchical recommender reads training rows by `read_positions`, whose context its search understands: that is
    what keeps a memory from the row's own target. The other kinds remember no rows, and `encode`.
    """
    gaps = {} if requests.gaps is None else {"gaps": requests.gaps}
    if isinstance(model, HierarchicalRecommender):
        return model.read_positions(requests.histories, requests.targets, **gaps)
    return model.encode(requests.histories, requests.lengths, **gaps)


class Scores(NamedTuple):
    """Of the candidates and the target of each request.

    Attributes:
        log_probs: of each code of the candidates given those before it; 0 where there is none.
        targets: likewise of the target.
        levels: every node on these paths, once, with the log-probabilities of all its children.
    """

    log_probs: Float[Tensor, "B k L"]
    targets: Float[Tensor, "B L"]
    levels: list[VisitedNodes]


def score_candidates(model: Any, context: Any, nodes: Int64[Tensor, "B k L"], targets: Int64[Tensor, " B"]) -> Scores:
    """Candidates and target in one pass, each of their prefixes once; gradients flow.

    Args:
        model: a `Recommender`.
        context: from `read_requests`.
        nodes: of the candidates, -1 where there is none.
        targets: item_index.
    """
    paths = torch.cat([nodes, model.trie.path_nodes(targets).unsqueeze(1)], dim=1)
    levels = score_visited(model, model.trie, context, paths)
    log_probs = torch.stack([level.chosen() for level in levels], dim=2).float()
    log_probs = torch.where(paths >= 0, log_probs, 0.0)
    return Scores(log_probs[:, :-1], log_probs[:, -1], levels)


def draw_hint_lengths(
    settings: RolloutSettings, num_levels: int, num_requests: int, *, done: float, seed: int
) -> np.ndarray:
    """Codes of its target that each request is given, [B]; 0: none. A function of the seed.

    Args:
        settings: share, schedule and longest hint.
        num_levels: L; a hint leaves at least one code free.
        num_requests: B.
        done: share of the steps that are done.
        seed: of this rollout.
    """
    longest = num_levels - 1 if settings.hint_length is None else min(settings.hint_length, num_levels - 1)
    share = settings.hint_share * max(0.0, 1 - done / settings.hints_over)
    if not longest or not share:
        return np.zeros(num_requests, dtype=np.int64)
    random = generator(seed)
    is_hinted = random.random(num_requests) < share
    return is_hinted * random.integers(1, longest + 1, num_requests)


def last_fork(trie: SemanticIdTrie, targets: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Codes of each target after which another item is still possible: a longer hint leaves nothing to learn.

    >>> trie = SemanticIdTrie.build(np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0]]), (2, 1, 2))
    >>> last_fork(trie, torch.tensor([1, 2])).tolist()
    [2, 0]
    """
    paths = trie.path_nodes(targets).unbind(dim=1)
    ranges = (trie.item_ranges(depth, nodes) for depth, nodes in enumerate(paths, start=1))
    return torch.stack([end - first > 1 for first, end in ranges]).sum(dim=0)


@torch.no_grad()
def find_candidates(
    model: Any,
    head: ValueHead | None,
    context: Any,
    targets: Int64[Tensor, " B"],
    settings: RolloutSettings,
    *,
    hint_lengths: Int64[Tensor, " B"],
    seed: int,
) -> Rollouts:
    """k candidates of each request.

    Args:
        model: the policy.
        head: its value head; value_guided needs one.
        context: from `read_requests`.
        targets: item_index; only hints show them.
        settings: how.
        hint_lengths: codes of the target that are given.
        seed: of all that is drawn.
    """
    trie, num = model.trie, settings.num_candidates
    hints = hint_nodes(trie, targets, hint_lengths) if bool(hint_lengths.any()) else None
    if settings.method == "beam":
        return beam_rollouts(model, trie, context, num_candidates=num, hints=hints)
    if settings.method == "value_guided":
        assert head is not None, "value_guided rollouts need a value head"
        constraint = None if hints is None else Constraint.build(trie, allow=items_below(trie, hints))
        items = value_guided_search(
            build_tree_scorer(model, head),
            trie,
            context,
            settings.search,
            num_candidates=num,
            seed=seed,
            constraint=constraint,
        )[0].item_index
        scores = score_candidates(model, context, trie.path_nodes(items), targets)
        return Rollouts.of_items(trie, items, scores.log_probs)
    requests = torch.arange(len(targets), device=targets.device)
    sampling = Sampling(fold_in(seed, 1), requests, settings.temperature)
    if settings.method == "siblings":
        drawn = torch.from_numpy(generator(seed, 2).integers(0, trie.num_levels, len(targets)))
        depths = torch.where(hint_lengths > 0, hint_lengths, drawn.to(hint_lengths.device))
        return sample_siblings(model, trie, context, sampling, num_candidates=num, depths=depths, hints=hints)
    sample = {"sample": sample_with_replacement, "stochastic_beam": stochastic_beam_search}[settings.method]
    return sample(model, trie, context, sampling, num_candidates=num, hints=hints)


def items_below(trie: SemanticIdTrie, hints: Int64[Tensor, "B L"]) -> Bool[Tensor, "B N"]:
    """The items that a hint leaves: those whose path has its nodes wherever it is not -1."""
    paths = trie.path_nodes(torch.arange(trie.num_items, device=hints.device))
    return torch.stack([(row == paths) | (row < 0) for row in hints]).all(dim=2)


def judge_candidates(
    found: Rollouts,
    targets: Int64[Tensor, " B"],
    hint_lengths: Int64[Tensor, " B"],
    trie: SemanticIdTrie,
    weights: Mapping[str, float],
    embeddings: Float[Tensor, "N E"] | None,
) -> Experience:
    """The rewards of candidates; see `composed_reward`."""
    answers = Answers(found.item_index, found.log_probs.sum(dim=2), targets, trie, embeddings)
    rewards, parts = composed_reward(answers, weights)
    num_valid = found.is_valid.sum().clamp(min=1)
    parts |= {
        "reward": rewards.sum() / num_valid,
        "hit_share": answers.is_hit.any(dim=1).float().mean(),
        "hint_share": (hint_lengths > 0).float().mean(),
        "num_candidates": found.is_valid.sum(dim=1).float().mean(),
    }
    return Experience(found, targets, hint_lengths, rewards, parts)
