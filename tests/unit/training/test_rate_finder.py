"""The range test of learning rates."""

from __future__ import annotations

import pytest

from genrec.errors import TrainingError
from genrec.training.rate_finder import HIGHEST, LOWEST, steepest

RATES = [LOWEST * (HIGHEST / LOWEST) ** (step / 59) for step in range(60)]


def test_the_suggestion_is_where_a_sigmoid_falls() -> None:
    losses = [2 - 1 / (1 + 2.718 ** (20 - step)) + 0.05 * max(0, step - 35) for step in range(60)]
    assert steepest(RATES, losses) == pytest.approx(RATES[20], rel=0.5)


def test_a_steep_fall_after_the_lowest_point_does_not_count() -> None:
    losses = [2 - 0.01 * step for step in range(30)] + [1.0 + 0.2 * step for step in range(15)] + [5.0] * 5 + [1.8] * 10
    assert steepest(RATES, losses) < RATES[30]


@pytest.mark.parametrize("losses", [[1.0 + 0.01 * step for step in range(60)], [1.0] * 4, []])
def test_a_loss_that_falls_nowhere_is_an_error(losses: list[float]) -> None:
    with pytest.raises(TrainingError, match="no learning rate"):
        steepest(RATES[: len(losses)], losses)
