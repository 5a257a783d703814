"""From the sections of ``finetune`` to what its steps are made of: value head, rewards, rollouts, objective, task."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from genrec.artifacts import Artifact
from genrec.config import finetune as sections
from genrec.data.batches import BatchStream
from genrec.data.dataset import Dataset
from genrec.decoding.value_guided_settings import ValueGuidedSettings, check_budget
from genrec.embeddings.store import load_embeddings
from genrec.errors import ConfigError
from genrec.losses.policy import Clipping
from genrec.models.settings import ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.pipeline.recommenders import load_recommender, load_value_head
from genrec.seeding import fold_in
from genrec.semantic_ids.table import load_semantic_ids
from genrec.training.policy_objective import PolicyObjective, Preference
from genrec.training.policy_task import Judge, PolicyTask, Schedule, ValueTask, value_groups
from genrec.training.rollouts import RolloutSettings


class Tuned(NamedTuple):
    """What is tuned, before the first step.

    Attributes:
        model: the policy.
        head: the value head that is trained; None: none is.
        kept: the value head that the recommender had; None: it had none.
        inputs: artifacts that the run reads.
        parents: those of them that the recommender is made from.
        semantic_ids: identity of the table.
        stream: the requests.
        task: what a step does.
    """

    model: Any
    head: ValueHead | None
    kept: ValueHead | None
    inputs: list[Artifact]
    parents: dict[str, Artifact]
    semantic_ids: str
    stream: BatchStream
    task: PolicyTask | ValueTask


def prepare_tuning(config: sections.FinetuneConfig, dataset: Dataset) -> Tuned:
    """Reads the recommender and what it learns from, and builds the task.

    Raises:
        ArtifactError, LineageError: as `load_recommender` and `load_embeddings`.
        ConfigError: keys that do not go together.
    """
    _check(config)
    initial, model = load_recommender(config.initial, dataset)
    table, ids = load_semantic_ids(initial.parent_paths["semantic_ids"], dataset.artifact)
    parents = {"dataset": dataset.artifact, "semantic_ids": table, "initial": initial}
    rollouts = _rollouts(config)
    if rollouts.method == "value_guided":
        check_budget(model.trie, rollouts.search)
    kept = load_value_head(initial, model.trie)
    trains_head = config.mode == "value" or config.value.train or rollouts.method == "value_guided"
    head = _build_head(config, model, kept) if trains_head else None
    inputs, embeddings = list(parents.values()), None
    if config.embeddings is not None:
        artifact, vectors = load_embeddings(config.embeddings, dataset.artifact, num_items=dataset.num_items)
        inputs.append(artifact)
        embeddings = torch.from_numpy(vectors.copy())
    judge = Judge(model.trie, _rewards(config), embeddings, gamma=config.value.gamma)
    stream = BatchStream(
        dataset.train(),
        batch_size=config.optimizer.batch_size,
        max_length=model.settings.history_length,
        seed=fold_in(config.seed, 1),
        pairs="last" if config.targets == "last" else True,
        gaps=getattr(model, "uses_gaps", False),
    ).repeated(config.rollout.updates)
    task = _build_task(config, model, head, rollouts=rollouts, judge=judge, stream=stream)
    return Tuned(model, head, kept, inputs, parents, ids.identity, stream, task)


def _check(config: sections.FinetuneConfig) -> None:
    """Raises ConfigError for keys that do not go together."""
    updates, every = config.rollout.updates, config.stopping.validate_every
    if every is not None and every % updates:
        raise ConfigError(
            "a validation would fall between two updates on the same candidates",
            where="key 'stopping.validate_every'",
            expected=f"a multiple of rollout.updates={updates}",
            found=every,
            fix=f"stopping.validate_every={-(-every // updates) * updates}",
        )
    if config.mode == "value" and updates > 1:
        raise ConfigError(
            "the policy does not change, so its candidates need not be kept for several updates",
            where="key 'rollout.updates'",
            found=updates,
            fix="rollout.updates=1",
        )
    if not any(asdict(config.rewards).values()):
        raise ConfigError("no reward has a weight", where="key 'rewards'", fix="rewards.exact_hit=1")
    needs = {
        "mode=value": config.mode == "value",
        "value.train=true": config.value.train,
        "rollout.method=value_guided": config.rollout.method == "value_guided",
        f"rewards.embedding_similarity={config.rewards.embedding_similarity}": config.rewards.embedding_similarity > 0,
    }
    wanting = [name for name, is_needed in needs.items() if is_needed]
    if config.embeddings is None and wanting:
        raise ConfigError(
            f"{' and '.join(wanting)} need item embeddings",
            where="key 'embeddings'",
            expected="a folder that embed wrote",
            found="null",
            fix="embeddings=runs/mine/embeddings, say those that the semantic IDs are made of",
        )
    if config.mode == "value" and config.rollout.method == "value_guided":
        raise ConfigError(
            "a value head is trained on candidates that do not depend on it",
            where="key 'rollout.method'",
            expected="beam, sample, stochastic_beam or siblings",
            found=config.rollout.method,
            fix="rollout.method=beam",
        )


def _build_head(config: sections.FinetuneConfig, model: Any, kept: ValueHead | None) -> ValueHead:
    if kept is not None:
        return kept
    torch.manual_seed(fold_in(config.seed, 3))
    section = config.value
    settings = ValueHeadSettings(
        width=_state_width(model),
        hidden=section.hidden,
        num_layers=section.num_layers,
        reads_log_prob=section.reads_log_prob,
    )
    return ValueHead(model.trie, settings)


@torch.inference_mode()
def _state_width(model: Any) -> int:
    one = torch.zeros(1, 1, dtype=torch.int64, device=model.trie.device)
    return model.eval().request_states(model.encode(one, one[:, 0] + 1)).shape[1]


def _rewards(config: sections.FinetuneConfig) -> dict[str, float]:
    """All of them, those without a weight too, which are written down; similarity where there are embeddings."""
    weights = asdict(config.rewards)
    if config.embeddings is None:
        del weights["embedding_similarity"]
    return weights


def _rollouts(config: sections.FinetuneConfig) -> RolloutSettings:
    section, hints = config.rollout, config.hints
    return RolloutSettings(
        method=section.method,
        num_candidates=section.num_candidates,
        temperature=section.temperature,
        search=ValueGuidedSettings(**asdict(section.value_guided)),
        hint_share=hints.share,
        hints_over=hints.over,
        hint_length=hints.max_length,
    )


def build_objective(config: sections.FinetuneConfig) -> PolicyObjective:
    """What the policy minimises; ConfigError for a clipping that does not exist."""
    section, options = config.objective, asdict(config.advantage)
    shared: dict[str, Any] = {
        "advantage": options.pop("name"),
        "advantage_options": options,
        "kl_weight": config.kl.weight,
        "kl": config.kl.estimator,
        "anchor_weight": config.anchor,
        "prefixes_over": config.prefixes.over,
        "prefix_floor": config.prefixes.floor,
    }
    if isinstance(section, sections.StepPreference):
        return PolicyObjective(**shared, preference=Preference(section.beta, section.margin))
    clipping = Clipping(section.ratio, section.clipping, section.low, section.high, section.delta)
    return PolicyObjective(**shared, sibling_weight=section.sibling_weight, clipping=clipping)


def _build_task(
    config: sections.FinetuneConfig,
    model: Any,
    head: ValueHead | None,
    *,
    rollouts: RolloutSettings,
    judge: Judge,
    stream: BatchStream,
) -> PolicyTask | ValueTask:
    optimizer, seed = config.optimizer, fold_in(config.seed, 4)
    groups = [] if head is None else value_groups(head, learning_rate=config.value.learning_rate)
    if config.mode == "policy":
        groups = [
            *model.parameter_groups(
                weight_decay=optimizer.weight_decay,
                node_weight_decay=optimizer.node_weight_decay,
                item_weight_decay=optimizer.item_weight_decay,
            ),
            *groups,
        ]
    shared: dict[str, Any] = {
        "rollouts": rollouts,
        "judge": judge,
        "parameter_groups": groups,
        "learning_rate": optimizer.learning_rate,
        "total_steps": config.stopping.max_epochs * stream.num_batches,
        "warmup": optimizer.warmup,
        "final_rate": optimizer.final_rate,
    }
    if config.mode == "value":
        assert head is not None
        return ValueTask(model, head, seed=seed, **shared)
    schedule = Schedule(seed, config.rollout.updates, config.kl.refresh_every, config.dropout)
    return PolicyTask(model, head, objective=build_objective(config), schedule=schedule, **shared)
