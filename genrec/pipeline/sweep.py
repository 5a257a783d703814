"""``genrec sweep``: the constants of item-kNN, chosen on the validation split."""

from __future__ import annotations

from dataclasses import asdict

from genrec.baselines.base import count_items
from genrec.baselines.tuning import KnnFactory, KnnSearch, best_trial
from genrec.config import schema
from genrec.config.load import to_yaml
from genrec.data.dataset import Dataset
from genrec.evaluation.evaluate import score_model
from genrec.evaluation.metrics import check_cutoffs
from genrec.files import write_json, write_text
from genrec.pipeline.evaluate import short
from genrec.runs import RunDirectory
from genrec.terminal import Outcome, Progress, Table


def sweep(config: schema.SweepConfig, *, progress: Progress, resume: bool) -> Outcome:
    """Tunes item-kNN on validation; every trial is one line of metrics.jsonl, so a killed sweep goes on exactly."""
    dataset = Dataset.load(config.dataset)
    cases, train = dataset.cases("validation"), dataset.train()
    space = {name: tuple(values) for name, values in asdict(config.space).items()}
    search = KnnSearch(space, num_trials=config.num_trials, num_random=config.num_random, seed=config.seed)
    factory = KnnFactory(train, num_items=dataset.num_items, max_window=int(max(space["window"])))
    metric = f"{config.metric}@{config.cutoff}"
    check_cutoffs((config.cutoff,), dataset.num_items)  # before there is a run folder
    counts = count_items(train, dataset.num_items)
    with RunDirectory.open(
        config.run,
        command="sweep",
        config_text=to_yaml(config),
        inputs=[dataset.artifact],
        resume=resume,
        ignore_keys=("run", "dataset"),  # the inputs' identities are compared, not where they are
    ) as run:
        history = [(line["params"], line[metric]) for line in run.metrics()]
        while (params := search.propose(history)) is not None:
            model = factory.fit(params, history_length=config.history_length)
            score = score_model(model, cases, train_counts=counts, metric=metric, exclude_seen=config.exclude_seen)
            run.log_metrics({"trial": len(history), "params": params, metric: score})
            history.append((params, score))
            progress("sweep", len(history), config.num_trials)
        best, score = best_trial(history)
        section = {**best, "history_length": config.history_length}
        write_json(run.path / "best.json", {"item_knn": section, metric: score, "split": "validation"})
        write_text(run.path / "best.yaml", to_yaml({"item_knn": section}))
    ranked = sorted(history, key=lambda trial: -trial[1])[:10]
    rows = tuple((*(f"{value:g}" for value in params.values()), short(value)) for params, value in ranked)
    mask = "seen items masked" if config.exclude_seen else "no mask"
    title = f"{config.run}: best of {len(history)} trials on {len(cases):,} validation cases, {mask}"
    table = Table(title, (*ranked[0][0], metric), rows)
    follow = f"genrec evaluate {config.run}/best.yaml dataset={config.dataset} output=runs/tuned"
    return Outcome(
        {"run": str(config.run), "item_knn": section, metric: score, "trials": len(history)}, (table,), next=follow
    )
