"""How well a recommender tells the prefixes of targets from those of sampled items: AUC and MRR by depth.

The same negatives for every model and every time, so that training losses can be compared by it. Knows recommenders and
histories; must not know training.
"""
# P cases, T items of a history, L levels

from __future__ import annotations

import numpy as np
import torch

from genrec.data.negatives import draw_items
from genrec.data.sequences import Cases
from genrec.decoding.catalogue_search import pad_gaps, pad_rows
from genrec.losses.prefix_aware import first_of_its_kind, prefix_ranks
from genrec.models.recommender import Recommender

BATCH = 256


@torch.inference_mode()
def prefix_metrics(model: Recommender, cases: Cases, *, num_negatives: int, seed: int) -> dict[str, float]:
    """`prefix_auc_t` and `prefix_mrr_t` of t = 1 to L codes, the mean over cases; see `prefix_ranks`.

    A sampled item whose first t codes are those of the target, or of an earlier one, does not count at depth t. Cases
    whose target is not in the catalogue do not count.

    Args:
        model: in evaluation mode.
        cases: histories and their targets.
        num_negatives: sampled items a case.
        seed: of the sample.
    """
    cases = cases.take(np.flatnonzero(cases.target >= 0))
    levels, device = model.trie.num_levels, model.trie.device
    sums = torch.zeros(2, levels, dtype=torch.float64)
    weights = torch.zeros(levels, dtype=torch.float64)
    for start in range(0, len(cases), BATCH):
        some = cases.take(slice(start, start + BATCH))
        own = torch.from_numpy(some.target.astype(np.int64)).to(device)
        users = torch.from_numpy(some.user_index.astype(np.int64)).to(device)
        names = torch.stack([users, own], dim=1)
        negatives = draw_items(seed, 0, names, num_negatives=num_negatives, num_items=model.trie.num_items)
        candidates = torch.cat([own.unsqueeze(1), negatives], dim=1)
        histories, targets = _windows(some, model.settings.history_length)
        gaps = pad_gaps(some.histories.tail(model.settings.history_length), device, reader=model)
        context = model.read_positions(histories.to(device), targets.to(device), **gaps)
        scores = model.score_items(context, candidates).log_probs.cumsum(dim=2)
        is_negative = first_of_its_kind(model.trie.path_nodes(candidates))[:, 1:]
        count = is_negative.any(dim=1).sum(dim=0).double().cpu()  # a batch counts by the targets that have negatives
        ranks = torch.stack(prefix_ranks(scores, is_negative)).double().cpu()
        sums += ranks * count
        weights += count
    means = torch.where(weights > 0, sums / weights.clamp(min=1), 1.0).tolist()
    names = ("prefix_auc", "prefix_mrr")
    return {f"{name}_{t}": value for name, row in zip(names, means, strict=True) for t, value in enumerate(row, 1)}


def _windows(cases: Cases, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories padded on the right, and targets at their last position; an empty history is one -1."""
    histories, lengths = pad_rows(cases.histories.tail(length), torch.device("cpu"))
    if histories.shape[1] == 0:
        histories = histories.new_full((len(cases), 1), -1)
    targets = torch.full_like(histories, -1)
    targets[torch.arange(len(cases)), (lengths - 1).clamp(min=0)] = torch.from_numpy(cases.target.astype(np.int64))
    return histories, targets
