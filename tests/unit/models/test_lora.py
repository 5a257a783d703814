from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.models.lora import LoraLinear, add_lora, merge_lora


class Named(nn.Module):
    """Linear layers two levels deep, one of them twice as often as the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"q_proj": nn.Linear(6, 6), "out": nn.Linear(6, 6, bias=False)}) for _ in range(2)
        )
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            x = x + block["out"](torch.tanh(block["q_proj"](x)))
        return self.norm(x)


def draw_up(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            nn.init.normal_(layer.up.weight, std=0.3)


def test_it_equals_its_formula_and_begins_as_the_layer() -> None:
    base = nn.Linear(6, 8)
    layer, x = LoraLinear(copy.deepcopy(base), rank=2, alpha=4.0), torch.randn(5, 6)
    torch.testing.assert_close(layer(x), base(x))
    nn.init.normal_(layer.up.weight)
    expected = x @ (base.weight + 2.0 * layer.up.weight @ layer.down.weight).T + base.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("targets", [(), ("q_proj",)])
def test_merged_and_unmerged_are_the_same(targets: tuple[str, ...]) -> None:
    model, x = Named(), torch.randn(4, 6)
    before = model(x)
    names = add_lora(model, rank=2, alpha=3.0, dropout=0.5, targets=targets)
    assert names == [f"blocks.{i}.{name}" for i in range(2) for name in (targets or ("q_proj", "out"))]
    model.eval()
    torch.testing.assert_close(model(x), before)
    draw_up(model)
    unmerged = model(x)
    assert not torch.allclose(unmerged, before, atol=1e-3)
    merge_lora(model)
    assert not any(isinstance(layer, LoraLinear) for layer in model.modules())
    assert model.state_dict().keys() == Named().state_dict().keys()
    torch.testing.assert_close(model(x), unmerged)


def test_only_what_is_low_rank_is_trained() -> None:
    model = Named()
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model, rank=2, alpha=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
    trained = {name.rpartition(".")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"down", "up"}
    found = {name.replace(".base.", "."): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in frozen.items():
        assert torch.equal(found[name], tensor)


def test_targets_that_are_not_there_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"model.lora.targets.*expected out, q_proj, found \['k_proj'\]"):
        add_lora(Named(), rank=2, alpha=1.0, targets=("q_proj", "k_proj"))
    with pytest.raises(ConfigError, match="no linear layer to adapt"):
        add_lora(nn.LayerNorm(4), rank=2, alpha=1.0)
