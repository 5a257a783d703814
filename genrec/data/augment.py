"""Training windows that are cropped, or have events left out: other histories of the same user.

After CL4SRec (arXiv 2010.14395), section 3.2, where they make views for a contrastive loss; here the changed window is
what is trained on. "Mask" is our `drop`: a causal model has no use for a hole, so the event goes, as an input and as a
target. Knows NumPy only.
"""

# B windows of a batch, T inputs of a window, of which the last has the last of up to T + 1 events as its target

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from genrec.data.batches import Batch


@dataclass(frozen=True)
class Augmentation:
    """How training windows are changed.

    Attributes:
        drop: probability that an event is left out.
        crop: probability that a window is cut to a part of itself.
        crop_share: least share of the events that such a part has.
    """

    drop: float = 0.0
    crop: float = 0.0
    crop_share: float = 0.6

    def __bool__(self) -> bool:
        return self.drop > 0 or self.crop > 0


def augment(batch: Batch, how: Augmentation, random: np.random.Generator) -> Batch:
    """The batch with its windows cropped, and events left out.

    The part of a cropped window is anywhere in it, and at its end where its last event alone is a target. A window that
    would lose its last target stays whole. What is told of an event (`gaps`) goes with it, unchanged.
    """
    num_inputs = (batch.items >= 0).sum(axis=1)
    rows, place = np.arange(len(num_inputs)), np.arange(batch.items.shape[1] + 1)
    events = np.pad(batch.items, ((0, 0), (0, 1)), constant_values=-1)
    events[rows, num_inputs] = batch.targets[rows, num_inputs - 1]
    counts = np.pad(batch.is_target, ((0, 0), (1, 0)))
    exists = place <= num_inputs[:, None]

    kept = exists & (random.random(exists.shape) >= how.drop)
    is_cropped, share, where = random.random((3, len(rows)))
    size = np.maximum(np.ceil((how.crop_share + (1 - how.crop_share) * share) * (num_inputs + 1)), 2)
    spare = num_inputs + 1 - size
    only_the_last = counts.sum(axis=1) == counts[rows, num_inputs]
    start = np.where(only_the_last, spare, np.floor(where * (spare + 1)))[:, None]
    is_inside = (place >= start) & (place < start + size[:, None])
    kept &= is_inside | (is_cropped >= how.crop)[:, None]

    is_predicted = kept & counts & (np.cumsum(kept, axis=1) > 1)  # the first event of a window has nothing before it
    kept = np.where(is_predicted.any(axis=1)[:, None], kept, exists)
    order = np.argsort(~kept, axis=1, kind="stable")  # what is kept comes first, in its order
    length = kept.sum(axis=1) - 1
    width = length.max()
    is_input = np.arange(width) < length[:, None]
    inputs, after = order[:, :width], order[:, 1 : width + 1]

    def moved(values: np.ndarray, places: np.ndarray, padding: int = -1) -> np.ndarray:
        return np.where(is_input, np.take_along_axis(values, places, axis=1), padding)

    return replace(
        batch,
        items=moved(events, inputs),
        targets=moved(events, after),
        is_target=is_input & np.take_along_axis(counts, after, axis=1),
        gaps=None if batch.gaps is None else moved(np.pad(batch.gaps, ((0, 0), (0, 1))), inputs, 0),
    )
