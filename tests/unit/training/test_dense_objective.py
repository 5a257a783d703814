"""What a step of a dense recommender minimises: against the losses put together by hand."""

from __future__ import annotations

import pytest
import torch

from genrec.data.negatives import draw_items
from genrec.losses.dense import full_softmax, generalised_bce, sampled_softmax
from genrec.models.sasrec import Sasrec
from genrec.models.settings import SasrecSettings
from genrec.training.dense_objective import DenseObjective, FullSoftmax, GeneralisedBce, SampledSoftmax

N = 15
COUNTS = torch.arange(N)


@pytest.fixture
def model() -> Sasrec:
    torch.manual_seed(0)
    return Sasrec(N, SasrecSettings(width=8, hidden=8, history_length=6)).eval()


def batch() -> dict[str, torch.Tensor]:
    items = torch.randint(N, (4, 7), generator=torch.Generator().manual_seed(1))
    is_target = torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    user_index = torch.arange(4) + 10
    both = {"items": items[:, :-1], "targets": items[:, 1:].clone(), "is_target": is_target}
    return {**both, "user_index": user_index, "epoch": torch.tensor(3)}


def parts(model: Sasrec) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    some = batch()
    chosen = some["is_target"]
    return model.read(some["items"])[chosen], model.item_vectors(), some["targets"][chosen]


def test_full_softmax(model: Sasrec) -> None:
    found = DenseObjective(FullSoftmax(0.2), COUNTS)(model, batch())
    torch.testing.assert_close(found.loss, full_softmax(*parts(model), label_smoothing=0.2).loss)
    other = batch()
    other["targets"][~other["is_target"]] = 0
    assert torch.equal(DenseObjective(FullSoftmax(0.2), COUNTS)(model, other).loss, found.loss)


@pytest.mark.parametrize("correct", [True, False])
def test_sampled_softmax_draws_what_the_step_was_seeded_for(model: Sasrec, correct: bool) -> None:
    objective = DenseObjective(SampledSoftmax(9, 0.5, correct), COUNTS)
    weights = COUNTS.clamp(min=1).double().sqrt()
    torch.testing.assert_close(objective.log_q.double().exp(), weights / weights.sum())
    torch.manual_seed(5)
    found = objective(model, batch()).loss
    torch.manual_seed(5)
    negatives = torch.multinomial(objective.log_q.exp(), 9, replacement=True)
    expected = sampled_softmax(*parts(model), negatives, objective.log_q if correct else None).loss
    torch.testing.assert_close(found, expected)
    torch.manual_seed(6)
    assert not torch.equal(objective(model, batch()).loss, found)


def test_negatives_of_a_target_do_not_depend_on_its_batch(model: Sasrec) -> None:
    objective = DenseObjective(GeneralisedBce(4, 0.5), COUNTS, seed=7)
    some = batch()
    row, place = some["is_target"].nonzero(as_tuple=True)
    queries, items, targets = parts(model)
    names = torch.stack([row + 10, place, targets], dim=1)
    negatives = draw_items(7, 3, names, num_negatives=4, num_items=N)
    expected = generalised_bce(queries, items, targets, negatives, calibration=0.5).loss
    torch.testing.assert_close(objective(model, some).loss, expected)
    sizes = some["is_target"].sum(dim=1)
    alone = [
        objective(model, {k: v if k == "epoch" else v[user : user + 1] for k, v in some.items()}).loss
        for user in range(4)
    ]
    torch.testing.assert_close((torch.stack(alone) * sizes).sum() / sizes.sum(), expected)


def test_a_compiled_reader_stands_in(model: Sasrec) -> None:
    calls = []

    def reader(histories: torch.Tensor) -> torch.Tensor:
        calls.append(histories.shape)
        return model.read(histories)

    objective = DenseObjective(FullSoftmax(), COUNTS)
    assert torch.equal(objective(model, batch(), compiled=reader).loss, objective(model, batch()).loss)
    assert calls == [(4, 6)]
    assert getattr(model, objective.compiles) == model.read
