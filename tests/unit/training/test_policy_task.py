"""Policy optimisation of a small recommender, step by step: against its parts, and through the loop."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.losses.advantages import group_advantages, sibling_advantages
from genrec.losses.policy import policy_loss
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.settings import HierarchicalSettings, MemorySettings, ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.runs import RunDirectory
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.loop import FitOptions, fit
from genrec.training.policy_objective import PolicyObjective, Preference, candidate_tree
from genrec.training.policy_task import Judge, PolicyTask, Schedule, ValueTask, value_groups
from genrec.training.rollouts import (
    METHODS,
    Requests,
    RolloutSettings,
    draw_hint_lengths,
    find_candidates,
    hold_still,
    read_requests,
    score_candidates,
)

CODES = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3).astype(np.int32)
TRIE = SemanticIdTrie.build(CODES, (3, 3, 3))
ROWS = [[(5 * user + 7 * place * (user % 3 + 1)) % 27 for place in range(3 + user % 4)] for user in range(24)]
HISTORIES = Ragged.from_lists(ROWS)
REWARDS = {"exact_hit": 1.0, "prefix_depth": 1.0}
EMBEDDINGS = torch.from_numpy(np.random.default_rng(0).standard_normal((27, 4)).astype(np.float32))


def build_model(*, memory: bool = True, normalisation: str = "trie") -> HierarchicalRecommender:
    torch.manual_seed(1)
    settings = HierarchicalSettings(
        width=16,
        hidden=16,
        depth_hidden=16,
        num_heads=2,
        num_layers=1,
        history_length=8,
        normalisation=normalisation,
        memory=MemorySettings(followers=8 if memory else 0),
    )
    model = HierarchicalRecommender(TRIE, settings)
    model.mark_trained(torch.ones(27, dtype=torch.bool), torch.ones(27, dtype=torch.bool))
    if memory:
        model.remember(DirectedItemKnn().fit(HISTORIES, num_items=27).similarity_, count_items(HISTORIES, 27))
    for table in model.node_embeddings.parameters():
        torch.nn.init.normal_(table, std=0.3)
    return model


def build_head() -> ValueHead:
    torch.manual_seed(2)
    head = ValueHead(TRIE, ValueHeadSettings(width=16, hidden=16))
    torch.nn.init.normal_(head.weight, std=0.3)
    return head


def requests(size: int = 12) -> Requests:
    stream = BatchStream(HISTORIES, batch_size=size, max_length=8, seed=1, pairs=True)
    batch = next(iter(stream.epoch(0)))
    names = ("items", "targets", "is_target")
    return Requests.of_batch({name: torch.from_numpy(getattr(batch, name)) for name in names})


def build_task(
    objective: PolicyObjective,
    *,
    model: Any = None,
    head: ValueHead | None = None,
    rollouts: RolloutSettings | None = None,
    **schedule: Any,
) -> PolicyTask:
    model = build_model() if model is None else model
    groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]
    return PolicyTask(
        model,
        head,
        objective=objective,
        rollouts=RolloutSettings(num_candidates=6) if rollouts is None else rollouts,
        judge=Judge(TRIE, REWARDS, EMBEDDINGS),
        schedule=Schedule(seed=3, **schedule),
        parameter_groups=groups + ([] if head is None else value_groups(head, learning_rate=1e-2)),
        learning_rate=3e-3,
        total_steps=100,
    )


def gradients(task: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    task.zero_grad()
    loss.backward()
    return {name: own.grad.clone() for name, own in task.named_parameters() if own.grad is not None}


def test_a_step_is_its_parts_written_out() -> None:
    objective = PolicyObjective(sibling_weight=0.5, kl_weight=0.3, anchor_weight=0.2)
    task, batch = build_task(objective), requests()
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    output = task.minimise(batch, step=0)
    assert task.experience is not None
    experience = task.experience[1]
    assert experience.is_valid.all()
    found, num = experience.found, experience.found.item_index.shape[1]
    assert output.parts["mean_ratio"] == pytest.approx(1, abs=1e-4)
    model, first = task.model, task.reference
    items = torch.cat([found.item_index, experience.targets.unsqueeze(1)], dim=1)
    own = model.score_items(read_requests(model, batch), items).log_probs
    tree = candidate_tree(experience)
    rewards = experience.rewards.flatten()
    for row, target in enumerate(experience.targets.tolist()):
        depth = (TRIE.path_nodes(found.item_index[row]) == TRIE.path_nodes(torch.tensor(target))).float().mean(dim=1)
        expected = ((found.item_index[row] == target).float() + depth) / 2
        torch.testing.assert_close(experience.rewards[row], expected)
    policy = policy_loss(
        own[:, :num].flatten(0, 1),
        found.log_probs.flatten(0, 1),
        torch.ones(len(rewards), 3),
        group_advantages(rewards, tree),
        siblings=sibling_advantages(rewards, tree),
        alpha=0.5,
    )
    everything = torch.arange(27).expand(len(items), -1)
    both = [each.score_items(read_requests(each, batch), everything).log_probs for each in (model, first)]
    divergence, num_nodes = torch.zeros(()), 0
    for row in range(len(items)):
        paths = TRIE.path_nodes(items[row])
        for level in range(3):
            above = paths[:, level - 1].unique() if level else torch.zeros(1, dtype=torch.int64)
            for node in above.tolist():
                start, end = (int(TRIE.child_offsets[level][node + at]) for at in (0, 1))
                for child in range(start, end):
                    item = int((TRIE.path_nodes(torch.arange(27))[:, level] == child).nonzero()[0])
                    p, q = (scores[row, item, level] for scores in both)
                    divergence = divergence + p.exp() * (p - q)
                num_nodes += 1
    divergence = divergence / num_nodes
    assert output.parts["kl"] == pytest.approx(divergence.item(), rel=1e-3)
    assert output.parts["kl"] > 1e-4
    expected = policy.loss + 0.3 * divergence - 0.2 * own[:, num].mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)
    before, after = gradients(task, output.loss), gradients(task, expected)
    for name, gradient in before.items():
        torch.testing.assert_close(gradient, after[name], rtol=1e-3, atol=1e-5)


def test_a_memory_does_not_tell_requests_of_training_their_answer() -> None:
    model, batch = build_model(), requests()
    hold_still(model)
    with torch.no_grad():
        nodes = TRIE.path_nodes(batch.target_items).unsqueeze(1)
        hidden = score_candidates(model, read_requests(model, batch), nodes, batch.target_items)
        told = model.eval().score_items(read_requests(model, batch), batch.target_items.unsqueeze(1)).log_probs
        first = score_candidates(model, model.encode(batch.histories, batch.lengths), nodes, batch.target_items)
    torch.testing.assert_close(hidden.log_probs[:, 0], hidden.targets)
    torch.testing.assert_close(first.targets, told[:, 0], rtol=1e-4, atol=1e-4)
    assert hidden.targets.sum() < told.sum() - 1


def test_without_contrast_only_the_anchors_pull() -> None:
    task, batch = build_task(PolicyObjective(sibling_weight=1.0)), requests()
    task.minimise(batch, step=0)
    assert task.experience is not None
    equal = deepcopy(task.experience[1])
    equal.rewards.fill_(0.25)
    task.experience = 0, equal
    output = task.minimise(batch, step=0)
    assert output.parts["zero_signal_share"] == 1
    assert all(not gradient.any() for gradient in gradients(task, output.loss).values())
    anchored = build_task(PolicyObjective(anchor_weight=0.5))
    anchored.experience = 0, equal
    own = gradients(anchored, anchored.minimise(batch, step=0).loss)
    scores = anchored.model.score_items(read_requests(anchored.model, batch), batch.target_items.unsqueeze(1))
    expected = gradients(anchored, -0.5 * scores.log_probs.mean())
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_values_are_learnt_and_never_move_the_policy() -> None:
    objective, batch = PolicyObjective(kl_weight=0.1, anchor_weight=0.1), requests()
    without, beside = build_task(objective), build_task(objective, head=build_head())
    loss, more = without.minimise(batch, step=0), beside.minimise(batch, step=0)
    assert more.loss.item() > loss.loss.item()
    expected, found = gradients(without, loss.loss), gradients(beside, more.loss)
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name])
    assert any(found[name].any() for name in found if name.startswith("head."))
    for module in (beside.model, beside.head):
        assert module is not None
    beside.configure_gradient_clipping(beside.build_optimizer(), 1e-3)
    assert beside.head is not None
    for module in (beside.model, beside.head):
        norm = torch.stack([own.grad.norm() for own in module.parameters() if own.grad is not None]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-2)


def test_candidates_are_kept_for_several_updates() -> None:
    task = build_task(PolicyObjective(), updates=3)
    batch, optimizer, ratios, found = requests(), task.build_optimizer(), [], []
    for step in range(6):
        output = task.minimise(batch, step=step)
        ratios.append(float(output.parts["max_ratio"]))
        assert task.experience is not None
        found.append(task.experience[1].found)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert found[0] is found[1] is found[2] is not found[3]
    assert ratios[0] == pytest.approx(1, abs=1e-4)
    assert ratios[3] == pytest.approx(1, abs=1e-4)
    assert min(ratios[1], ratios[2], ratios[4]) > 1.001


def test_a_step_is_a_function_of_seed_step_and_weights() -> None:
    settings = RolloutSettings("sample", 6, hint_share=0.5)
    steps = (7, 7, 8)
    losses = [build_task(PolicyObjective(), rollouts=settings).minimise(requests(), step=step).loss for step in steps]
    assert losses[0] == losses[1] != losses[2]


def test_a_reference_is_refreshed() -> None:
    task = build_task(PolicyObjective(kl_weight=1.0), refresh_every=2)
    with torch.no_grad():
        task.model.decoder.output_codes[0][0] += 1.0
    values = requests()
    batch = {"items": values.histories, "targets": values.targets, "is_target": values.targets >= 0}
    batch["share"] = torch.tensor(1.0)
    kl = [float(task.training_step({**batch, "step": torch.tensor(step)}, 0)["kl"]) for step in (0, 1, 2)]
    assert kl[0] == kl[1]
    assert abs(kl[2]) < 1e-6 < 1e-3 < kl[0]


@pytest.mark.parametrize("method", METHODS)
def test_hinted_candidates_begin_as_the_target_does(method: str) -> None:
    model, batch = build_model(), requests()
    hold_still(model)
    lengths = torch.arange(len(batch.targets)) % 3
    with torch.no_grad():
        found = find_candidates(
            model,
            build_head(),
            read_requests(model, batch),
            batch.target_items,
            RolloutSettings(method, 4),
            hint_lengths=lengths,
            seed=5,
        )
        scores = score_candidates(model, read_requests(model, batch), found.nodes, batch.target_items)
    assert found.is_valid.any(dim=1).all()
    targets = TRIE.path_nodes(batch.target_items)
    for row, length in enumerate(lengths.tolist()):
        own = found.nodes[row][found.is_valid[row]]
        assert (own[:, :length] == targets[row, :length]).all()
    log_probs = found.log_probs.masked_fill(~found.is_valid.unsqueeze(2), 0.0)
    torch.testing.assert_close(scores.log_probs, log_probs, rtol=1e-4, atol=1e-4)


def test_hints_become_rare() -> None:
    settings = RolloutSettings(hint_share=0.8, hints_over=0.5, hint_length=2)
    shares = []
    for done in (0.0, 0.25, 0.5, 0.9):
        lengths = draw_hint_lengths(settings, 4, 4000, done=done, seed=1)
        assert lengths.max() <= 2
        shares.append(float((lengths > 0).mean()))
    assert shares == pytest.approx([0.8, 0.4, 0, 0], abs=0.03)
    assert draw_hint_lengths(RolloutSettings(hint_share=1.0), 4, 100, done=0, seed=1).max() == 3
    assert not draw_hint_lengths(RolloutSettings(hint_share=1.0), 1, 100, done=0, seed=1).any()


OBJECTIVES = {
    "group": PolicyObjective(),
    "sibling": PolicyObjective("sibling"),
    "fork": PolicyObjective("fork", {"group_share": 0.3, "std_floor": 0.1}),
    "tree_td": PolicyObjective("tree_td"),
    "potential": PolicyObjective("potential", {"kappa": 0.5}),
    "progress": PolicyObjective("progress", {"is_centred": True}),
    "preference": PolicyObjective(preference=Preference(beta=1.0)),
    "sampled": PolicyObjective(kl_weight=0.1, kl="sampled"),
    "prefixes": PolicyObjective(prefixes_over=0.5),
    "dropout": PolicyObjective(anchor_weight=0.3),
}


QUICK = (("group", "vocabulary"),)
CASES = [
    pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.slow)
    for name in OBJECTIVES
    for kind in ("trie", "vocabulary")
]


@pytest.mark.parametrize(("name", "normalisation"), CASES)
def test_the_reward_rises(name: str, normalisation: str) -> None:
    """On the same requests again and again, whatever the objective."""
    model = build_model(memory=False, normalisation=normalisation)
    settings = RolloutSettings("sample", 8)
    task = build_task(OBJECTIVES[name], model=model, rollouts=settings, dropout=name == "dropout")
    optimizer, batch, rewards = torch.optim.Adam(model.parameters(), lr=1e-2), requests(24), []
    for step in range(40):
        output = task.minimise(batch, step=step)
        rewards.append(float(output.parts["reward"]))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1


def test_a_value_head_alone_learns_and_the_policy_stays() -> None:
    model, head = build_model(), build_head()
    before = deepcopy(model.state_dict())
    task = ValueTask(
        model,
        head,
        rollouts=RolloutSettings(num_candidates=8),
        judge=Judge(TRIE, REWARDS, EMBEDDINGS),
        seed=1,
        parameter_groups=value_groups(head, learning_rate=1e-2),
        learning_rate=1e-2,
        total_steps=60,
    )
    optimizer, losses = task.build_optimizer(), []
    told = task.eval().minimise(requests(), number=0, done=0.0).parts
    hidden = task.train().minimise(requests(), number=0, done=0.0).parts
    assert told["hit_share"] > hidden["hit_share"], "a memory tells held-out requests all it knows"
    for step in range(60):
        output = task.minimise(requests(), number=step, done=0.0)
        losses.append(output.loss.item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Killed(Exception):
    """Stands for the end of a process."""


def run(folder: Path, *, kill: int | None = None, resume: bool = False) -> PolicyTask:
    objective = PolicyObjective(sibling_weight=1.0, kl_weight=0.1, anchor_weight=0.1, prefixes_over=0.5)
    settings = RolloutSettings("value_guided", 6, hint_share=0.5)
    task = build_task(objective, head=build_head(), rollouts=settings, updates=2, refresh_every=4)
    step = task.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        if int(batch["step"]) == kill:
            raise Killed
        return step(batch, batch_idx)

    task.training_step = training_step
    stream = BatchStream(HISTORIES, batch_size=16, max_length=8, seed=1, pairs="last").repeated(2)
    options = FitOptions(max_epochs=3, validate_every=4, accelerator="cpu", validate_first=True, seed=2)
    options = FitOptions(**{**vars(options), "metric": "m", "shown": ("reward", "kl")})
    with RunDirectory.open(folder, command="finetune", config_text="a: 1\n", resume=resume) as opened:
        fit(task, stream, lambda: {"m": float(task.model.empty_history.sum())}, run=opened, options=options)
    return task


def test_a_killed_run_goes_on_bit_equal(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill=7)
    resumed = run(tmp_path / "killed", resume=True)
    expected, found = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    records = [[json.loads(line) for line in each] for each in lines]
    assert [record["step"] for record in records[0]] == [0, 4, 8, 12]
    for first, second in zip(*records, strict=True):
        assert {**first, "targets_per_second": 0} == {**second, "targets_per_second": 0}
    last = records[0][-1]
    assert {"train_reward", "train_kl", "train_entropy", "train_zero_signal_share", "train_duplicate_share"} <= set(
        last
    )
