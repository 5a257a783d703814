"""Low-rank adaptation of linear layers (Hu et al. 2021, LoRA, eq. 3): y = W x + (alpha / r) B A drop(x), W frozen.

A is drawn, B is 0, so that a model begins as what it was. Works on the `nn.Linear` layers of any module; must not know
what the module is for.
"""
# r rank

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.transformer import Dropout


class LoraLinear(nn.Module):
    """A frozen linear layer and what is learnt beside it.

    Args:
        base: the layer; is frozen.
        rank: r.
        alpha: scale of what is learnt, for all ranks alike.
        dropout: rate on what goes into A.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=base.in_features**-0.5)
        nn.init.zeros_(self.up.weight)
        self.dropout = Dropout(dropout)
        self.scale = alpha / rank

    @property
    def weight(self) -> Tensor:
        """That of the frozen layer: some models ask a layer for the type of its weight."""
        return self.base.weight

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        return self.base(x) + self.scale * self.up(self.down(self.dropout(x)))

    def merged(self) -> nn.Linear:
        """One linear layer that does the same without dropout; the frozen one is changed."""
        with torch.no_grad():
            self.base.weight += self.scale * self.up.weight @ self.down.weight
        return self.base


def add_lora(
    model: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] = ()
) -> list[str]:
    """Freezes a model and adapts some of its linear layers, in place.

    Args:
        model: whose parameters are all frozen.
        rank: r, at least 1.
        alpha: see `LoraLinear`.
        dropout: see `LoraLinear`.
        targets: last parts of the names of the layers, such as "q_proj"; none: all layers.

    Returns:
        Names of the layers that were adapted.

    Raises:
        ConfigError: a target that no linear layer has, or no linear layer at all.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    known = sorted({name.rpartition(".")[2] for name, _ in layers})
    if missing := sorted(set(targets) - set(known)) or not known:
        raise ConfigError(
            "no linear layer to adapt",
            where="key 'model.lora.targets'",
            expected=", ".join(known) or "a model of linear layers",
            found=missing if known else "none",
        )
    model.requires_grad_(False)
    chosen = [(name, layer) for name, layer in layers if not targets or name.rpartition(".")[2] in targets]
    for name, layer in chosen:
        _replace(model, name, LoraLinear(layer, rank=rank, alpha=alpha, dropout=dropout))
    return [name for name, _ in chosen]


def merge_lora(model: nn.Module) -> None:
    """Turns every adapted layer into one linear layer, in place; its weights stay frozen."""
    for name, layer in list(_adapted(model)):
        _replace(model, name, layer.merged())


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            yield name, layer


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
