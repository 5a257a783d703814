"""What a step of policy optimisation minimises: advantages, policy loss, divergence, and the anchor on the target.

docs/methods.md section 5:

    J_group + alpha J_sibling - beta KL(p || p_ref) - gamma CE(target)

each from a pure function of `losses`, of the scores of candidates under the policy (with a gradient) and under the
reference. Knows rollouts; must not know optimisers or configuration.
"""
# B requests, k candidates, R = B k, L levels

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genrec.errors import ConfigError
from genrec.losses.advantages import (
    ADVANTAGES,
    CandidateTree,
    build_candidate_tree,
    explained_progress,
    sibling_advantages,
    sibling_pairs,
    signal_parts,
    target_potentials,
)
from genrec.losses.likelihood import LossOutput, token_cross_entropy
from genrec.losses.policy import (
    Clipping,
    code_weights,
    exact_kl,
    policy_loss,
    prefix_weights,
    sampled_kl,
    step_preference,
    weighted_sum,
)
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.rollouts import Experience, Scores

KL_ESTIMATORS = ("exact", "sampled")


@dataclass(frozen=True)
class Preference:
    """Step-level DPO instead of the policy gradient.

    Attributes:
        beta: see `step_preference`.
        margin: see `sibling_pairs`.
    """

    beta: float = 0.1
    margin: float = 0.0


@dataclass(frozen=True)
class PolicyObjective:
    """The loss of a batch of requests with their candidates; see the module.

    Attributes:
        advantage: of J_group, one of `ADVANTAGES`.
        advantage_options: its arguments.
        sibling_weight: alpha; 0: without J_sibling.
        clipping: of both.
        preference: stands in for both; None: the policy gradient.
        kl_weight: beta.
        kl: "exact" over the children of all nodes on the paths of candidates and target, or "sampled" (k3).
        anchor_weight: gamma.
        prefixes_over: share of the steps over which the codes come to count, one after the other; 0: all do at once.
        prefix_floor: weight of a code whose time has not come.

    Raises:
        ConfigError: unknown names.
    """

    advantage: str = "group"
    advantage_options: Mapping[str, Any] = field(default_factory=dict)
    sibling_weight: float = 0.0
    clipping: Clipping = field(default_factory=Clipping)
    preference: Preference | None = None
    kl_weight: float = 0.0
    kl: str = "exact"
    anchor_weight: float = 0.0
    prefixes_over: float = 0.0
    prefix_floor: float = 0.0

    def __post_init__(self) -> None:
        if self.advantage not in ADVANTAGES:
            raise ConfigError("unknown advantage", expected=", ".join(ADVANTAGES), found=repr(self.advantage))
        if self.kl not in KL_ESTIMATORS:
            raise ConfigError("unknown estimator", expected=" or ".join(KL_ESTIMATORS), found=repr(self.kl))

    def __call__(
        self,
        experience: Experience,
        scores: Scores,
        reference: Scores,
        trie: SemanticIdTrie,
        *,
        has_rest: bool,
        done: float,
    ) -> LossOutput:
        """The loss.

        Args:
            experience: the candidates and their rewards.
            scores: under the policy.
            reference: under the reference, of the same paths.
            trie: the catalogue.
            has_rest: the children of a node do not have all the probability (normalisation "vocabulary").
            done: share of the steps that are done.

        Returns:
            The loss; parts those of its terms, of `signal_parts`, `kl` and `entropy`.
        """
        found = experience.found
        tree = candidate_tree(experience)
        share = min(1.0, done / self.prefixes_over) if self.prefixes_over else 1.0
        hinted = experience.hint_lengths.repeat_interleave(found.item_index.shape[1])
        levels = prefix_weights(share, trie.num_levels, floor=self.prefix_floor)
        weights = code_weights(found.is_valid.flatten(), levels, hinted)
        divergence = exact_kl(
            [level.log_probs for level in scores.levels],
            [level.log_probs for level in reference.levels],
            [level.is_visited for level in scores.levels],
            has_rest=has_rest,
        )
        terms = [
            (1.0, self._policy(experience, scores, reference, weights, tree, trie)),
            (self.kl_weight if self.kl == "exact" else 0.0, divergence),
            (self.anchor_weight, token_cross_entropy(scores.targets, torch.ones_like(experience.targets).bool())),
        ]
        if self.kl == "sampled":
            estimate = sampled_kl(scores.log_probs.flatten(0, 1), reference.log_probs.flatten(0, 1), weights)
            terms.append((self.kl_weight, LossOutput(estimate.loss, {"kl_sampled": estimate.parts["kl"]})))
        output = weighted_sum(terms)
        signal = signal_parts(experience.rewards.flatten(), tree, std_floor=self._std_floor)
        return LossOutput(output.loss, {**output.parts, **{name: part.float() for name, part in signal.items()}})

    @property
    def _std_floor(self) -> float:
        return self.advantage_options.get("std_floor", 0.0)

    def _policy(
        self,
        experience: Experience,
        scores: Scores,
        reference: Scores,
        weights: Float[Tensor, "R L"],
        tree: CandidateTree,
        trie: SemanticIdTrie,
    ) -> LossOutput:
        rewards, own = experience.rewards.flatten(), scores.log_probs.flatten(0, 1)
        if self.preference is not None:
            pairs = sibling_pairs(rewards, tree, margin=self.preference.margin)
            is_counted = weights[pairs.better, pairs.levels] > 0
            pairs = type(pairs)(*(part[is_counted] for part in pairs))
            return step_preference(own, reference.log_probs.flatten(0, 1), pairs, beta=self.preference.beta)
        siblings = None
        if self.sibling_weight:
            siblings = sibling_advantages(rewards, tree, std_floor=self._std_floor)
        return policy_loss(
            own,
            experience.found.log_probs.flatten(0, 1),
            weights,
            self._advantages(experience, scores, tree, trie),
            siblings=siblings,
            alpha=self.sibling_weight,
            clipping=self.clipping,
        )

    def _advantages(
        self, experience: Experience, scores: Scores, tree: CandidateTree, trie: SemanticIdTrie
    ) -> Float[Tensor, "R L"]:
        rewards, options = experience.rewards.flatten(), dict(self.advantage_options)
        if self.advantage == "potential":
            num = experience.found.item_index.shape[1]
            of_targets = scores.targets.detach().repeat_interleave(num, dim=0)
            paths = trie.path_nodes(experience.targets).repeat_interleave(num, dim=0)
            options["potentials"] = target_potentials(of_targets, experience.found.nodes.flatten(0, 1), paths)
        if self.advantage == "progress":
            options["progress"] = explained_progress(rewards, tree)
        return ADVANTAGES[self.advantage](rewards, tree, **options)


def candidate_tree(experience: Experience) -> CandidateTree:
    """The prefixes that the candidates of each request share."""
    found = experience.found
    batch, num = found.item_index.shape
    request_index = torch.arange(batch, device=found.item_index.device).repeat_interleave(num)
    return build_candidate_tree(found.nodes.flatten(0, 1), request_index, found.is_valid.flatten())
