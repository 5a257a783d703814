"""The search by value (VED) as one function of tensors: what is exported of a `ValueGuidedGenerator`.

The steps are those of `decoding.growth`. Only who drives them is another: a loop that is part of the graph, in which
every round has the model read what it has added, whether the trees of one request or of all have grown. As no tree
depends on another, nor on when the model was called, the trees are the same. Must not know files or formats.
"""
# B requests, T items of a history, D denied items, N items of the catalogue, k candidates, M most children of the root

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

from genrec.decoding.growth import Growth
from genrec.decoding.selection import Select, select_best
from genrec.decoding.value_guided import rank_leaves
from genrec.decoding.value_guided_generator import name_longer
from genrec.decoding.value_guided_settings import ValueGuidedSettings, check_budget
from genrec.errors import ConfigError
from genrec.models.path_trees import PathTreeScorer
from genrec.models.value_head import ValueHead
from genrec.semantic_ids.constraints import Constraint, mask_of_items
from genrec.serving.graph import CatalogueGraph, Widths, check_supported, model_inputs, over, read_trie, serve_popular

SUPPORTED = ("hierarchical", "decoder_only")


def check_guided(model: Any, *, where: object = None) -> None:
    """Raises ConfigError for a recommender whose search by value cannot be exported."""
    if model.name not in SUPPORTED:
        raise ConfigError(
            "a search by value in a recommender of this kind cannot be exported yet",
            where=where,
            expected=" or ".join(SUPPORTED),
            found=model.name,
            fix="search.name=beam",
        )
    check_supported(model, where=where)


class ValueGuidedGraph(CatalogueGraph):
    """A search by value: answers as `ValueGuidedGenerator.search`, from `catalogue_tensors`.

    Args:
        model: the recommender, in evaluation mode; its trie gives way to the one in the arguments.
        head: its value head.
        widths: what catalogues have to fit into.
        settings: the budget and how it is spent.
        seed: of the noise of expansions.
        num_candidates: k, at least 1.
        select: how a level of the initial beam search chooses, as for `SearchGraph`.

    Raises:
        ConfigError: k out of range, or an initial beam search that may cost more than half the budget.
    """

    def __init__(
        self,
        model: Any,
        head: ValueHead,
        *,
        widths: Widths,
        settings: ValueGuidedSettings,
        seed: int,
        num_candidates: int,
        select: Select = select_best,
    ) -> None:
        check_budget(model.trie, settings)
        if num_candidates < 1:
            raise ConfigError("wrong number of candidates", expected="1 or more", found=num_candidates)
        search = _Search(model, head, widths, settings, seed, num_candidates, select)
        super().__init__(search, model_inputs(model), model.settings.history_length)


class _Search(nn.Module):
    """The search with the tables of items and nodes already in place."""

    def __init__(
        self,
        model: Any,
        head: ValueHead,
        widths: Widths,
        settings: ValueGuidedSettings,
        seed: int,
        num_candidates: int,
        select: Select,
    ) -> None:
        super().__init__()
        self.model, self.head, self.widths, self.settings = model, head, widths, settings
        self.seed, self.num_candidates, self.select = seed, num_candidates, select

    def forward(
        self, histories: Tensor, lengths: Tensor, deny: Tensor, allow: Tensor, catalogue: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        trie = read_trie(catalogue, self.widths)
        admissible = allow & ~mask_of_items(deny, allow.shape[1])
        constraint = Constraint.build(trie, allow=admissible)
        with over(self.model, trie):
            growth = Growth(
                _WideTrees(PathTreeScorer(self.model, self.head, is_static=True), self.widths.max_branching[0]),
                trie,
                self.model.encode(histories, lengths),
                self.settings,
                seed=self.seed,
                request_ids=_name_histories(histories),
                constraint=constraint,
                is_static=True,
            )
            growth.plant(self.select)
            growth = _grow(growth)
        slots = growth.tree.slots
        found = rank_leaves(trie, slots, self.settings, num_candidates=self.num_candidates, constraint=constraint)
        return serve_popular(found.item_index, found.score, lengths == 0, admissible, catalogue)


class _WideTrees:
    """A scorer of trees whose root has a child for each code: the first ones are there, the rest is padding."""

    def __init__(self, trees: PathTreeScorer, width: int) -> None:
        self.trees, self.width = trees, width
        self.encode, self.forward = trees.encode, trees.forward

    def open(self, context: Any, num_rows: int) -> tuple[Float[Tensor, "B 1 M"], Float[Tensor, "B 1"], Any]:
        log_probs, values, state = self.trees.open(context, num_rows)
        missing = self.width - log_probs.shape[2]
        return nn.functional.pad(log_probs, (0, missing), value=-torch.inf), values, state


def _grow(growth: Growth) -> Growth:
    """As `value_guided.grow`, but the model reads what each round has added at once."""

    def is_going(*tensors: Tensor) -> Tensor:
        return growth.resumed(tensors).is_active().any()

    def grow_once(*tensors: Tensor) -> tuple[Tensor, ...]:
        own = growth.resumed([tensor.clone() for tensor in tensors])  # a loop may not change what it is given
        slots = own.expand_several(own.is_active(), torch.zeros_like(own.num_forwarded))
        own.forward(slots, own.levels_below_root)
        return own.tensors()

    return growth.resumed(_loop(is_going, grow_once, growth.tensors()))


def _name_histories(items: Int64[Tensor, "B T"]) -> Int64[Tensor, " B"]:
    """`name_histories`, of any number of columns."""

    def is_going(place: Tensor, names: Tensor) -> Tensor:
        return place < items.shape[1]

    def go_on(place: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        return place + 1, name_longer(names, items.index_select(1, place.view(1)).squeeze(1))

    start = torch.zeros((), dtype=torch.int64, device=items.device)
    return _loop(is_going, go_on, (start, torch.zeros_like(items[:, 0])))[1]


def _loop(
    is_going: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], carried: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Python's own loop, or that of the graph which is being traced."""
    if torch.compiler.is_compiling():
        return while_loop(is_going, body, carried)
    while bool(is_going(*carried)):
        carried = body(*carried)
    return carried
