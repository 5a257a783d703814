"""``genrec sweep``: the constants of item-kNN, or the settings of a training, chosen on the validation split."""

from __future__ import annotations

from genrec.baselines.base import count_items
from genrec.baselines.tuning import KnnFactory
from genrec.config import schema
from genrec.config.load import to_yaml
from genrec.data.dataset import Dataset
from genrec.evaluation.evaluate import score_model
from genrec.evaluation.metrics import check_cutoffs
from genrec.files import write_json, write_text
from genrec.pipeline.evaluate import short
from genrec.pipeline.sweep_space import PLACES, knn_space, luck_note
from genrec.pipeline.sweep_training import sweep_training
from genrec.runs import RunDirectory
from genrec.terminal import Outcome, Progress, Table
from genrec.tuning import CoordinateSearch, Trial, best_trial


def sweep(config: schema.SweepConfig, *, progress: Progress, resume: bool) -> Outcome:
    """Tunes on validation; every trial is one line of metrics.jsonl, so a killed sweep goes on exactly."""
    if config.target == "train":
        return sweep_training(config, progress=progress, resume=resume)
    return _sweep_item_knn(config, progress=progress, resume=resume)


def _sweep_item_knn(config: schema.SweepConfig, *, progress: Progress, resume: bool) -> Outcome:
    space = knn_space(config)
    dataset = Dataset.load(config.dataset)
    cases, train = dataset.cases("validation"), dataset.train()
    search = CoordinateSearch(space, num_trials=config.num_trials, num_random=config.num_random, seed=config.seed)
    factory = KnnFactory(train, num_items=dataset.num_items, max_window=int(max(space["window"])))
    cutoff, history_length = config.cutoff or 10, config.history_length or 20
    metric = f"{config.metric or 'recall'}@{cutoff}"
    check_cutoffs((cutoff,), dataset.num_items)  # before there is a run folder
    counts = count_items(train, dataset.num_items)
    with RunDirectory.open(
        config.run,
        command="sweep",
        config_text=to_yaml(config),
        inputs=[dataset.artifact],
        resume=resume,
        ignore_keys=PLACES,
    ) as run:
        history: list[Trial] = [(line["params"], line[metric]) for line in run.metrics()]
        while (params := search.propose(history)) is not None:
            model = factory.fit(params, history_length=history_length)
            score = score_model(model, cases, train_counts=counts, metric=metric, exclude_seen=config.exclude_seen)
            run.log_metrics({"trial": len(history), "params": params, metric: score})
            history.append((params, score))
            progress("sweep", len(history), config.num_trials)
        best, score = best_trial(history)
        section = {**best, "history_length": history_length}
        write_json(run.path / "best.json", {"item_knn": section, metric: score, "split": "validation"})
        write_text(run.path / "best.yaml", to_yaml({"item_knn": section}))
    ranked = sorted(((params, score or 0.0) for params, score in history), key=lambda trial: -trial[1])[:10]
    rows = tuple((*(f"{value:g}" for value in params.values()), short(value)) for params, value in ranked)
    mask = "seen items masked" if config.exclude_seen else "no mask"
    title = f"{config.run}: best of {len(history)} trials on {len(cases):,} validation cases, {mask}"
    table = Table(title, (*ranked[0][0], metric), rows)
    follow = f"genrec evaluate {config.run}/best.yaml dataset={config.dataset} output=runs/tuned"
    summary = {"run": str(config.run), "item_knn": section, metric: score, "trials": len(history)}
    note = luck_note(metric, score, num_cases=len(cases), num_trials=len(history))
    return Outcome(summary, (table,), notes=(note,), next=follow)
