"""``genrec finetune``: a trained recommender -> one that was rewarded for what it recommends, or its value head."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from genrec.artifacts import Artifact
from genrec.baselines.base import count_items
from genrec.config.finetune import FinetuneConfig
from genrec.config.load import to_plain, to_yaml
from genrec.data.dataset import Dataset
from genrec.data.sequences import Cases
from genrec.decoding.catalogue_search import pad_gaps, pad_rows
from genrec.evaluation.list_panel import list_panel
from genrec.files import write_json
from genrec.pipeline.evaluate import short
from genrec.pipeline.recommenders import WEIGHTS, build_generator, save_recommender
from genrec.pipeline.train import validation_cases
from genrec.pipeline.tuning import Tuned, prepare_tuning
from genrec.runs import RunDirectory
from genrec.seeding import fold_in
from genrec.terminal import Outcome, Progress, Table
from genrec.training.averaging import interpolate
from genrec.training.loop import FitOptions, TrainingState, fit
from genrec.training.policy_task import ValueTask
from genrec.training.rollouts import Requests

logger = logging.getLogger(__name__)

VALUE_METRIC = "value_fit"
MOST_VALUE_CASES = 1000
WATCHED = ("reward", "hit_share", "zero_signal_share", "kl", "entropy", "clip_share", "value", "targets_per_second")


class Mixture(NamedTuple):
    """Weights between the initial and the tuned ones.

    Attributes:
        share: of the tuned ones that was best; 0 keeps the initial recommender.
        metrics: on validation, by share.
    """

    share: float
    metrics: dict[float, dict[str, float]]


def finetune(config: FinetuneConfig, *, progress: Progress, resume: bool) -> Outcome:
    """Tunes a recommender in a run folder; the best on validation becomes the artifact, even if it is the initial one.

    All training requests are answered, rewarded and learnt from; see `training.policy_task`.
    """
    dataset = Dataset.load(config.dataset)
    tuned = prepare_tuning(config, dataset)
    metric = VALUE_METRIC if config.mode == "value" else f"{config.stopping.metric}@{config.stopping.cutoff}"
    validate = _value_validation(config, tuned, dataset) if config.mode == "value" else _panel(config, tuned, dataset)
    with RunDirectory.open(
        config.run,
        command="finetune",
        config_text=to_yaml(config),
        inputs=tuned.inputs,
        resume=resume,
        ignore_keys=("run", "dataset", "initial", "embeddings"),
    ) as run:
        state = fit(
            tuned.task.train(),
            tuned.stream,
            validate,
            run=run,
            options=_fit_options(config, metric),
            progress=progress,
        )
        records = run.metrics()
        mixture = None
        if config.mode == "policy" and config.interpolation and state.best_step:
            mixture = _mix(config, tuned, validate, records, state, metric, progress)
            lines = [{"share": share, **found} for share, found in mixture.metrics.items()]
            write_json(config.run / "interpolation.json", {"metric": metric, "share": mixture.share, "shares": lines})
        # The head of the start is one that has learnt nothing, unless the recommender came with it.
        head = tuned.head if tuned.head is not None and state.best_step else tuned.kept
        best = state.best_metric if mixture is None else mixture.metrics[mixture.share][metric]
        facts = {
            **tuned.model.facts,
            "semantic_ids": tuned.semantic_ids,
            "mode": config.mode,
            metric: best,
            "step": state.best_step,
            "tuned_share": float(state.best_step > 0) if mixture is None else mixture.share,
        }
        path = config.run / "recommender"
        artifact = save_recommender(path, tuned.model, facts=facts, parents=tuned.parents, value_head=head)
    outcome = _outcome(config, artifact, state, records, metric, mixture)
    if tuned.head is None or head is not None:
        return outcome
    note = "the value head of the best weights has learnt nothing yet and is left out; train one with mode=value"
    return replace(outcome, notes=(*outcome.notes, note))


def _fit_options(config: FinetuneConfig, metric: str) -> FitOptions:
    return FitOptions(
        max_epochs=config.stopping.max_epochs,
        validate_every=config.stopping.validate_every,
        patience=config.stopping.patience,
        metric=metric,
        precision=config.precision,
        accelerator=config.accelerator,
        clip_norm=config.optimizer.clip_norm,
        seed=fold_in(config.seed, 2),
        validate_first=True,
        average=config.optimizer.average,
        shown=("value",) if config.mode == "value" else ("reward", "kl"),
        keep=config.stopping.keep,
    )


def _panel(config: FinetuneConfig, tuned: Tuned, dataset: Dataset) -> Callable[[], dict[str, float]]:
    """The lists of the search that will be shipped, of the model as it is when it is called."""
    cases, counts = validation_cases(config, dataset), count_items(dataset.train(), dataset.num_items)
    model, section = tuned.model, config.stopping
    width = max(section.beam_width, section.cutoff)
    first_codes = model.trie.path_nodes(torch.arange(dataset.num_items, device=model.trie.device))[:, 0].cpu().numpy()

    def validate() -> dict[str, float]:
        generator = build_generator(model, dataset, counts, beam_width=width, batch_size=256)
        metrics = (f"{section.metric}@{section.cutoff}",)
        where = {"train_counts": counts, "first_codes": first_codes}
        return list_panel(generator, cases, **where, metrics=metrics, length=width)

    return validate


def _value_validation(config: FinetuneConfig, tuned: Tuned, dataset: Dataset) -> Callable[[], dict[str, float]]:
    """How well the head foretells the rewards of the beams of validation: minus its TD error."""
    cases = validation_cases(config, dataset)
    cases = cases.take(np.flatnonzero((cases.histories.lengths > 0) & (cases.target >= 0))[:MOST_VALUE_CASES])
    task = tuned.task
    assert isinstance(task, ValueTask)

    def validate() -> dict[str, float]:
        total = 0.0
        for number, start in enumerate(range(0, len(cases), 256)):
            batch = cases.take(slice(start, start + 256))
            output = task.minimise(_requests(batch, tuned.model), number=number, done=1.0)
            total += float(output.loss) * len(batch)
        return {VALUE_METRIC: -total / max(1, len(cases))}

    return validate


def _requests(cases: Cases, model: Any) -> Requests:
    """Held-out cases as requests."""
    shown, device = cases.histories.tail(model.settings.history_length), model.trie.device
    items, lengths = pad_rows(shown, device)
    targets = torch.full_like(items, -1)
    own = torch.from_numpy(cases.target.astype(np.int64)).to(items.device)
    targets = targets.scatter(1, lengths.unsqueeze(1) - 1, own.unsqueeze(1))
    return Requests(items, targets, **pad_gaps(shown, device, reader=model))


def _mix(
    config: FinetuneConfig,
    tuned: Tuned,
    validate: Callable[[], dict[str, float]],
    records: list[dict[str, Any]],
    state: TrainingState,
    metric: str,
    progress: Progress,
) -> Mixture:
    """Loads the best weights between the initial and the tuned ones into the model; of equal ones the more initial."""
    model = tuned.model.cpu().eval()
    first = load_file(tuned.parents["initial"].file(WEIGHTS))
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    known = {0.0: _metrics_at(records, 0), 1.0: _metrics_at(records, state.best_step)}
    found: dict[float, dict[str, float]] = {}
    shares = sorted(set(config.interpolation))
    for number, share in enumerate(shares, start=1):
        if share not in known:
            model.load_state_dict(interpolate(first, last, share))
            with torch.inference_mode():
                known[share] = validate()
        found[share] = known[share]
        progress("interpolate", number, len(shares))
    best = max(shares, key=lambda share: found[share][metric])
    model.load_state_dict(first if best == 0 else last if best == 1 else interpolate(first, last, best))
    return Mixture(best, found)


def _metrics_at(records: list[dict[str, Any]], step: int) -> dict[str, float]:
    (record,) = (record for record in records if record["step"] == step)
    return {name: value for name, value in record.items() if "@" in name}


def _outcome(
    config: FinetuneConfig,
    artifact: Artifact,
    state: TrainingState,
    records: list[dict[str, Any]],
    metric: str,
    mixture: Mixture | None,
) -> Outcome:
    summary = {
        "recommender": str(config.run / "recommender"),
        "identity": artifact.identity,
        metric: artifact.facts[metric],
        "initial": {metric: records[0][metric]},
        "best_step": state.best_step,
        "last_step": state.step,
        "tuned_share": artifact.facts["tuned_share"],
        "interpolation": {} if mixture is None else {str(share): found for share, found in mixture.metrics.items()},
        "configuration": to_plain(config),
    }
    panel = [name for name in records[0] if "@" in name or name == VALUE_METRIC]
    title = f"{config.run}: validation {metric} {artifact.facts[metric]:.4f}, {records[0][metric]:.4f} before"
    shown = {record["step"]: record for record in (*records[:: max(1, len(records) // 10)], records[-1])}
    tables = [_table(title, "step", panel, shown)]
    means = {
        step: {name.removeprefix("train_"): value for name, value in shown[step].items()} for step in shown if step
    }
    watched = [name for name in WATCHED if all(name in record for record in means.values())]
    tables.append(_table("means of the steps between two validations", "step", watched, means))
    if mixture is not None:
        title = "validation between the initial (0) and the tuned weights (1)"
        tables.append(_table(title, "share", panel, mixture.metrics))
    follow = (
        f"genrec evaluate dataset={config.dataset} recommenders.initial={config.initial} "
        f"recommenders.tuned={config.run}/recommender output={config.run}/evaluation"
    )
    return Outcome(summary, tuple(tables), notes=_notes(config, state, metric, mixture), next=follow)


def _notes(config: FinetuneConfig, state: TrainingState, metric: str, mixture: Mixture | None) -> tuple[str, ...]:
    notes = []
    if config.mode == "policy" and (not state.best_step or (mixture is not None and not mixture.share)):
        notes.append(f"the initial recommender has the best validation {metric}, so its weights are kept")
    elif mixture is not None:
        notes.append(f"the recommender is {mixture.share:g} of the way from the initial to the tuned weights")
    if config.mode == "policy" and config.kl.estimator == "sampled" and config.rollout.method != "sample":
        notes.append("kl.estimator=sampled is an estimate for rollout.method=sample alone")
    return tuple(notes)


def _table(title: str, first: str, columns: Sequence[str], records: Mapping[Any, Mapping[str, float]]) -> Table:
    """A row a record, of which the keys are the first column."""
    rows = tuple((f"{key:g}", *(_cell(name, record[name]) for name in columns)) for key, record in records.items())
    return Table(title, (first, *(name.replace("recall", "R").replace("ndcg", "N") for name in columns)), rows)


def _cell(name: str, value: float) -> str:
    if name == "targets_per_second":
        return f"{value:,.0f}"
    return short(value) if "@" in name else f"{value:.4f}"
