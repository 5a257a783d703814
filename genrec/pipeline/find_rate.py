"""``genrec find-lr``: the words of ``genrec train`` -> the learning rate at which the loss falls fastest."""

from __future__ import annotations

import torch

from genrec.config.training import TrainConfig
from genrec.pipeline.train import prepare_training
from genrec.seeding import fold_in
from genrec.terminal import Outcome, Progress, Table
from genrec.training.rate_finder import find_rate as test_rates

NUM_STEPS, NUM_ROWS = 100, 12


def find_rate(config: TrainConfig, *, progress: Progress) -> Outcome:
    """Tries rates on a hundred steps; nothing is kept, and no run folder is made."""
    ready = prepare_training(config)
    is_gpu = config.accelerator in ("auto", "gpu") and torch.cuda.is_available()
    found = test_rates(
        ready.task,
        ready.stream,
        num_steps=NUM_STEPS,
        device="cuda" if is_gpu else "cpu",
        clip_norm=config.optimizer.clip_norm,
        seed=fold_in(config.seed, 2),
        tell=lambda done: progress("find-lr", done, NUM_STEPS),
    )
    every = max(1, len(found.rates) // NUM_ROWS)
    pairs = list(zip(found.rates, found.losses, strict=True))
    rows = tuple((f"{rate:.1e}", f"{loss:.4f}") for rate, loss in pairs[::every])
    title = f"the loss falls fastest at a learning rate of {found.suggestion:.1e}"
    summary = {"suggestion": found.suggestion, "rates": found.rates, "losses": found.losses}
    note = "with warm-up and decay, rates a few times higher often do as well: it is where to begin, not a result"
    follow = f"genrec train ... optimizer.learning_rate={found.suggestion:.1e}"
    return Outcome(summary, (Table(title, ("rate", "smoothed loss"), rows),), notes=(note,), next=follow)
