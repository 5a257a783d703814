"""How much of a model's dropout a step uses: "early" and "late" dropout (Liu et al. 2023, arXiv 2303.01500)."""

from __future__ import annotations

STAIRS = 6


def dropout_factor(done: float, *, start: float, end: float, over: float) -> float:
    """Linear from `start` to `end` over the first `over` of the steps, in six stairs.

    Stairs, because a compiled step is compiled anew for each value.

    Args:
        done: share of the steps that are done, in [0, 1].
        start: factor of the first step.
        end: factor after `over`.
        over: share of the steps; 0: `end` from the first step on.

    >>> [round(dropout_factor(done / 10, start=1, end=0, over=0.6), 2) for done in range(10)]
    [1.0, 0.83, 0.67, 0.5, 0.33, 0.17, 0.0, 0.0, 0.0, 0.0]
    """
    climbed = 1.0 if done >= over else int(STAIRS * done / over + 1e-9) / STAIRS
    return start + climbed * (end - start)
