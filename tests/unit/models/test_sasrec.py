"""SASRec: against a loop over positions, causality, padding, the two ways of reading, and its facts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models.sasrec import Sasrec
from genrec.models.settings import SasrecSettings

N, T = 20, 6
KINDS: dict[str, dict[str, Any]] = {
    "learnt": {},
    "rotary": {"positions": "rotary", "activation": "swiglu", "attention": "sdpa"},
    "cosines": {"normalise": True, "temperature": 0.1, "num_layers": 1},
    "no blocks": {"num_layers": 0},
}


def make(**settings: Any) -> Sasrec:
    torch.manual_seed(0)
    model = Sasrec(N, SasrecSettings(width=16, hidden=24, history_length=T, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def histories() -> torch.Tensor:
    return torch.randint(N, (5, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
class TestSasrec:
    @torch.no_grad()
    def test_a_position_sees_what_is_before_it(self, kind: str) -> None:
        model, rows = make(**KINDS[kind]), histories()
        before = model.read(rows)
        for place in range(T):
            other = rows.clone()
            other[:, place] = (other[:, place] + 1) % N
            after = model.read(other)
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place], before[:, place], atol=1e-3)

    @torch.no_grad()
    def test_padding_and_neighbours_change_nothing(self, kind: str) -> None:
        model, rows = make(**KINDS[kind]), histories()
        padded = torch.nn.functional.pad(rows[:, :3], (0, 3), value=-1)
        torch.testing.assert_close(model.read(padded)[:, :3], model.read(rows[:, :3]))
        torch.testing.assert_close(model.read(rows[2:3]), model.read(rows)[2:3])

    @torch.no_grad()
    def test_a_query_is_the_state_after_the_last_item(self, kind: str) -> None:
        model, rows = make(**KINDS[kind]), histories()
        lengths = torch.tensor([6, 1, 3, 2, 5])
        read = model.read(rows)[torch.arange(5), lengths - 1]
        torch.testing.assert_close(model.encode(rows, lengths), read, atol=1e-5, rtol=1e-4)
        longer = torch.cat([torch.arange(4).expand(5, -1), rows], dim=1)
        torch.testing.assert_close(model.encode(longer, torch.full((5,), 10)), model.read(rows)[:, -1])
        assert model.encode(rows[:, :0], torch.zeros(5, dtype=torch.int64)).shape == (5, 16)

    def test_facts_describe_it_through_json_and_every_weight_is_used(self, kind: str) -> None:
        model = make(**KINDS[kind])
        again = Sasrec.from_facts(json.loads(json.dumps(model.facts)))
        again.load_state_dict(model.state_dict())
        rows = histories()
        torch.testing.assert_close(again.eval().read(rows), model.read(rows))
        groups = model.parameter_groups(weight_decay=1.0, item_weight_decay=2.0)
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}
        (model.read(rows) @ model.item_vectors().T).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())

    @torch.no_grad()
    def test_the_order_of_the_history_counts(self, kind: str) -> None:
        if kind == "no blocks":
            return
        model, rows = make(**KINDS[kind]), histories()
        assert not torch.allclose(model.read(rows)[:, -1], model.read(rows[:, [1, 0, 2, 3, 4, 5]])[:, -1], atol=1e-3)


@torch.no_grad()
def test_without_blocks_it_is_the_last_item_and_its_place() -> None:
    model, rows = make(num_layers=0), histories()
    assert model.positions is not None
    for row in rows:
        x = model.item_embeddings[row[-1]] * 4 + model.positions[T - 1]
        expected = x / (x.square().mean() + 1e-6).sqrt() * model.user_norm.weight
        torch.testing.assert_close(model.read(row[None])[0, -1], expected)


@torch.no_grad()
def test_cosines_are_divided_by_the_temperature() -> None:
    model = make(normalise=True, temperature=0.1)
    scores = model.read(histories()) @ model.item_vectors().T
    assert 5 < float(scores.abs().max()) <= 10 + 1e-4


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"positions": "sine"}, {"temperature": 0.0}, {"history_length": 0}):
        with pytest.raises(ConfigError):
            SasrecSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown keys"):
        Sasrec.from_facts({**make().facts, "nonsense": 1})
