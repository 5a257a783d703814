"""The self-evolving loop of policy optimisation, a step at a time (docs/methods.md section 5).

A step takes requests of training, lets the policy as it is find candidates, rewards them, and moves the policy towards
what was better than its alternatives; a value head learns beside it from the same candidates, and never through it.
What a step does is a function of (seed, step, weights): after a checkpoint it is the same again.

Dropout is off unless asked for: the loss has to see the probabilities that the candidates were found with, so that the
first update of a rollout has ratio 1. Knows models and objectives; must not know configuration or files.
"""
# B requests, k candidates, L levels, N items, E width of the item embeddings

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrec.losses.likelihood import LossOutput
from genrec.losses.policy import weighted_sum
from genrec.losses.value import dense_rewards, level_weights, mean_embeddings, td_loss
from genrec.models.value_head import ValueHead
from genrec.seeding import fold_in
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.policy_objective import PolicyObjective
from genrec.training.rollouts import (
    Experience,
    Requests,
    RolloutSettings,
    draw_hint_lengths,
    find_candidates,
    hold_still,
    judge_candidates,
    last_fork,
    read_requests,
    score_candidates,
)
from genrec.training.scheduled_task import ScheduledTask, shared_output


class Judge:
    """What candidates are rewarded with.

    Args:
        trie: the catalogue.
        rewards: weights by name; see `composed_reward`.
        embeddings: of the items, for similarities and for the dense rewards of a value head; None where neither is.
        gamma: discount of the values.
    """

    def __init__(
        self,
        trie: SemanticIdTrie,
        rewards: Mapping[str, float],
        embeddings: Float[Tensor, "N E"] | None = None,
        *,
        gamma: float = 0.99,
    ) -> None:
        self.trie, self.rewards, self.gamma = trie, dict(rewards), gamma
        self.embeddings = embeddings
        self.means = None if embeddings is None else mean_embeddings(embeddings, trie.item_order, trie.item_offsets)
        self.weights = level_weights(trie.num_levels)

    def to(self, device: torch.device) -> Judge:
        """Itself, with its tensors there."""
        if self.weights.device != device:
            self.trie, self.weights = self.trie.to(device), self.weights.to(device)
            if self.embeddings is not None and self.means is not None:
                self.embeddings = self.embeddings.to(device)
                self.means = tuple(part.to(device) for part in self.means)
        return self

    def value_loss(self, head: ValueHead, states: Float[Tensor, "B D"], experience: Experience) -> LossOutput:
        """TD(0) of the head on the paths of the candidates; no gradient reaches the policy.

        Args:
            head: the value head.
            states: of the requests, from `Recommender.request_states`.
            experience: the candidates.
        """
        assert self.embeddings is not None, "dense rewards need item embeddings"
        assert self.means is not None
        found, num = experience.found, experience.found.item_index.shape[1]
        log_probs = torch.where(found.is_valid.unsqueeze(2), found.log_probs, 0.0)
        values = head.of_items(self.trie, states.detach()[:, None, None], found.item_index, log_probs)
        targets = experience.targets.repeat_interleave(num)
        rewards = dense_rewards(
            found.nodes.flatten(0, 1),
            self.trie.path_nodes(targets),
            self.embeddings[targets.clamp(min=0)],
            self.means,
            self.weights,
        )
        return td_loss(values.flatten(0, 1), rewards, found.is_valid.flatten(), gamma=self.gamma)


@dataclass(frozen=True)
class Schedule:
    """How requests are used.

    Attributes:
        seed: of rollouts and hints.
        updates: consecutive steps on the same requests and candidates; their batches have to be the same.
        refresh_every: steps after which the policy becomes its own reference; None: that is the first one for ever.
        dropout: the model's dropout in the loss.
    """

    seed: int = 0
    updates: int = 1
    refresh_every: int | None = None
    dropout: bool = False


class _RolloutTask(ScheduledTask):
    """What both tasks share: a policy that finds candidates, and a head that learns from them."""

    def __init__(
        self,
        model: Any,
        head: ValueHead | None,
        *,
        rollouts: RolloutSettings,
        judge: Judge,
        seed: int,
        parameter_groups: list[Any],
        **schedule: Any,
    ) -> None:
        super().__init__(parameter_groups, **schedule)
        self.model, self.head = model, head
        self.rollouts, self.judge, self.seed = rollouts, judge, seed

    def explore(self, requests: Requests, context: Any, *, number: int, done: float) -> Experience:
        """Candidates and rewards of rollout `number`, of the policy as it is."""
        judge, seed = self.judge.to(requests.histories.device), fold_in(self.seed, number)
        targets = requests.target_items
        lengths = draw_hint_lengths(
            self.rollouts, judge.trie.num_levels, len(targets), done=done, seed=fold_in(seed, 0)
        )
        hints = torch.minimum(torch.from_numpy(lengths).to(targets.device), last_fork(judge.trie, targets))
        found = find_candidates(
            self.model, self.head, context, targets, self.rollouts, hint_lengths=hints, seed=fold_in(seed, 1)
        )
        with torch.no_grad():
            return judge_candidates(found, targets, hints, judge.trie, judge.rewards, judge.embeddings)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Policy and value head each by their own norm: a head that errs must not make the policy's steps smaller."""
        if gradient_clip_val:
            for module in (self.model, self.head):
                if module is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), gradient_clip_val)


class PolicyTask(_RolloutTask):
    """Policy optimisation of a recommender; see the module.

    Args:
        model: the policy, a `Recommender` that is a torch module.
        head: its value head, trained beside it; None: none.
        objective: what the policy minimises.
        rollouts: where candidates come from.
        judge: rewards.
        schedule: how requests are used.
        **optimisation: see `ScheduledTask`.
    """

    def __init__(
        self,
        model: Any,
        head: ValueHead | None,
        *,
        objective: PolicyObjective,
        rollouts: RolloutSettings,
        judge: Judge,
        schedule: Schedule,
        **optimisation: Any,
    ) -> None:
        super().__init__(model, head, rollouts=rollouts, judge=judge, seed=schedule.seed, **optimisation)
        self.objective, self.schedule = objective, schedule
        self.reference = deepcopy(model).requires_grad_(False)
        self.experience: tuple[int, Experience] | None = None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The loss and its parts; TrainingError if it is not finite."""
        step = int(batch["step"])
        if self.schedule.refresh_every and step and step % self.schedule.refresh_every == 0:
            self.reference.load_state_dict(self.model.state_dict())
        output = self.minimise(Requests.of_batch(batch), step=step)
        return shared_output(output, batch, batch_idx)

    def minimise(self, requests: Requests, *, step: int) -> LossOutput:
        """The loss of step `step` on these requests."""
        hold_still(self.model)
        hold_still(self.reference)
        number, done = step // self.schedule.updates, step / self.total_steps
        context = read_requests(self.model, requests)
        if self.experience is None or self.experience[0] != number:
            self.experience = number, self.explore(requests, context, number=number, done=done)
        experience = self.experience[1]
        with torch.no_grad():
            read = read_requests(self.reference, requests)
            reference = score_candidates(self.reference, read, experience.found.nodes, experience.targets)
        states = self.model.request_states(context)  # those that the candidates were found from
        if self.schedule.dropout:
            self.model.train()
            context = read_requests(self.model, requests)
        scores = score_candidates(self.model, context, experience.found.nodes, experience.targets)
        loss = self.objective(
            experience,
            scores,
            reference,
            self.judge.trie,
            has_rest=self.model.normalisation == "vocabulary",
            done=done,
        )
        terms = [(1.0, loss), (0.0, LossOutput(loss.loss, experience.parts))]
        if self.head is not None:
            terms.append((1.0, self.judge.value_loss(self.head, states, experience)))
        return weighted_sum(terms)


class ValueTask(_RolloutTask):
    """A value head alone, on the candidates of a policy that does not change.

    Args:
        model: the policy.
        head: its value head.
        rollouts: where candidates come from.
        judge: rewards.
        seed: of rollouts.
        **optimisation: see `ScheduledTask`; the parameter groups are those of the head.
    """

    def __init__(self, model: Any, head: ValueHead, **arguments: Any) -> None:
        super().__init__(model.requires_grad_(False), head, **arguments)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The loss and its parts; TrainingError if it is not finite."""
        step = int(batch["step"])
        output = self.minimise(Requests.of_batch(batch), number=step, done=step / self.total_steps)
        return shared_output(output, batch, batch_idx)

    def minimise(self, requests: Requests, *, number: int, done: float) -> LossOutput:
        """The loss of the head on rollout `number` of requests: of training, or in evaluation mode of held-out ones."""
        assert self.head is not None
        if self.training:
            hold_still(self.model)
        with torch.no_grad():
            context = read_requests(self.model, requests)
        experience = self.explore(requests, context, number=number, done=done)
        value = self.judge.value_loss(self.head, self.model.request_states(context), experience)
        return weighted_sum([(1.0, value), (0.0, LossOutput(value.loss, experience.parts))])


def value_groups(head: ValueHead, *, learning_rate: float) -> list[dict[str, Any]]:
    """Parameters of a head for an optimiser, at a rate of their own and without weight decay."""
    parameters = list(head.parameters())
    return [{"name": "value", "params": parameters, "weight_decay": 0.0, "learning_rate": learning_rate}]
