"""The whole candidate generator as one function of tensors: what is exported.

Wraps a recommender and the beam search of `decoding`; whatever depends on the catalogue (the trie, vectors of nodes and
items, rows of a memory) is an argument, so that one graph serves every version of a catalogue that its widths hold.
What is exported is the code that was evaluated: only ties inside the search fall by another operator (`select`). Code
that is traced takes sizes from `shape`: `len` would make constants of them. Must not know files or formats.
"""
# B requests, T items of a history, D denied items, N items of the catalogue, k candidates, W beams, n_d nodes

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.decoding.beam_search import check_width, expand_leaves, search_levels
from genrec.decoding.selection import Select, select_best
from genrec.errors import ConfigError
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.fixed_shapes import RectangularSearch
from genrec.semantic_ids.constraints import Constraint, mask_of_items
from genrec.semantic_ids.trie import SemanticIdTrie

REQUEST_INPUTS = ("histories", "lengths", "deny", "allow")
OUTPUTS = ("item_index", "score")

# Tables of recommenders that have a row for each item; those of nodes are found by `node_embeddings`.
ITEM_TABLES = (
    "item_embeddings",
    "transition_embeddings",
    "item_is_trained",
    "memory.neighbours",
    "memory.weights",
    "tokens.items",
    "tokens.item_is_trained",
)
ITEM_PREFIXES = ("features.numbers_",)


@dataclass(frozen=True)
class Widths:
    """The sizes of a trie that are part of the graph: a catalogue that has more of anything needs a graph of its own.

    Attributes:
        codebook_sizes: K_l of each level.
        max_branching: most children of a node of each level; of the root there may be K_0.
        max_bucket: most items that share their codes.
    """

    codebook_sizes: tuple[int, ...]
    max_branching: tuple[int, ...]
    max_bucket: int

    @classmethod
    def of(cls, trie: SemanticIdTrie, *, spare_children: int = 0) -> Widths:
        """Those that a trie has, and room for that many more children of its widest nodes.

        A bucket of one item stays one: such semantic IDs are unique by construction.
        """
        sizes = trie.codebook_sizes
        branching = (
            min(most + spare_children, size) for most, size in zip(trie.max_branching[1:], sizes[1:], strict=True)
        )
        bucket = trie.max_bucket + (spare_children if trie.max_bucket > 1 else 0)
        return cls(sizes, (sizes[0], *branching), bucket)

    def check(self, trie: SemanticIdTrie, *, where: object = None) -> None:
        """Raises ConfigError unless a trie fits."""
        found = Widths.of(trie)
        fits = all(need <= room for need, room in zip(found.max_branching[1:], self.max_branching[1:], strict=False))
        if found.codebook_sizes != self.codebook_sizes or not fits or found.max_bucket > self.max_bucket:
            raise ConfigError(
                "the catalogue does not fit into the graph of that bundle",
                where=where,
                expected=f"codebooks {list(self.codebook_sizes)}, children of a node {list(self.max_branching[1:])}, "
                f"items of an ID {self.max_bucket} at most",
                found=f"{list(found.codebook_sizes)}, {list(found.max_branching[1:])}, {found.max_bucket}",
                fix="export a graph of its own: leave out graph",
            )


SUPPORTED = ("hierarchical", "decoder_only", "encoder_decoder")


def check_supported(model: Any, *, where: object = None) -> None:
    """Raises ConfigError for a recommender whose search cannot be exported."""
    name = getattr(model, "name", type(model).__name__)
    if name not in SUPPORTED:
        expected = " or ".join(SUPPORTED)
        raise ConfigError(
            "a recommender of this kind cannot be exported yet", where=where, expected=expected, found=name
        )
    if getattr(model, "uses_gaps", False):
        what, fix = "a recommender that reads the time between events cannot be exported yet", "train one without"
        raise ConfigError(what, where=where, fix=fix)


def in_fixed_shapes(model: Any) -> Any:
    """What `decoding.beam_search` asks of a recommender, from one whose shapes do not depend on data."""
    return RectangularSearch(model) if isinstance(model, EncoderDecoderRecommender) else model


def trie_tensors(trie: SemanticIdTrie) -> dict[str, Tensor]:
    """The arrays of a trie by name, in the form that `SearchGraph` reads."""
    named = {"item_order": trie.item_order, "item_positions": trie.item_positions, "item_leaves": trie.item_leaves}
    for name in ("child_offsets", "child_codes", "parents", "item_offsets"):
        named |= {f"{name}_{place}": part for place, part in enumerate(getattr(trie, name))}
    return {f"trie_{name}": tensor for name, tensor in named.items()}


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a recommender that depend on the catalogue, by their names in it."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    inside = next(name for name, module in model.named_modules() if module is model.node_embeddings)
    nodes = (f"{inside}.rows.", f"{inside}.is_trained_")
    return {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if name in ITEM_TABLES or name.startswith((*ITEM_PREFIXES, *nodes))
    }


def catalogue_tensors(model: Any, train_counts: np.ndarray) -> dict[str, Tensor]:
    """All that a graph reads of a catalogue, by input name.

    Args:
        model: the recommender over it.
        train_counts: [N] training interactions: users without a known history get the items with most, equal counts in
            the order of item_index.
    """
    tensors = model_tensors(model)
    own = {key: tensors[name.removeprefix("model.")] for key, name in model_inputs(model).items()}
    return {**trie_tensors(model.trie), **own, **popularity_tensors(train_counts)}


def model_inputs(model: nn.Module) -> dict[str, str]:
    """Input names of `model_tensors`, and their names in a module that holds the recommender as `model`."""
    return {f"model_{name.replace('.', '_')}": f"model.{name}" for name in model_tensors(model)}


def popularity_tensors(train_counts: np.ndarray) -> dict[str, Tensor]:
    """What `serve_popular` reads."""
    counts = torch.as_tensor(np.asarray(train_counts, dtype=np.float32))
    popular = counts.sort(descending=True, stable=True)
    return {"popular_items": popular.indices, "popular_counts": popular.values}


class CatalogueGraph(nn.Module):
    """Requests and a catalogue -> candidates, in fixed shapes; see `forward`. What all graphs share.

    Args:
        search: called with requests and the rest of the catalogue, once its tables are in place.
        names: the tables: by input name, their names in `search`.
        history_length: last items of a history that are read.
    """

    def __init__(self, search: nn.Module, names: Mapping[str, str], history_length: int) -> None:
        super().__init__()
        self.search, self.names, self.history_length = search, dict(names), history_length

    def forward(
        self,
        histories: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        deny: Int64[Tensor, "B D"],
        allow: Bool[Tensor, "B N"],
        catalogue: Mapping[str, Tensor],
    ) -> tuple[Int64[Tensor, "B k"], Float[Tensor, "B k"]]:
        """The candidates of each request, as the search gives them that was evaluated.

        Args:
            histories: item_index, oldest first, padded with -1 at the end; T from 1 to history_length.
            lengths: items of each history; one of 0 gets the most popular items.
            deny: item_index that must not come, -1 as padding; D at least 1.
            allow: the items that may come.
            catalogue: all that the graph reads of it, by input name; see `serving.exportable`.

        Returns:
            item_index and score, -1 and -inf where fewer than k were found.
        """
        replaced = {name: catalogue[key] for key, name in self.names.items()}
        others = {key: tensor for key, tensor in catalogue.items() if key not in self.names}
        return torch.func.functional_call(self.search, replaced, (histories, lengths, deny, allow, others))


class SearchGraph(CatalogueGraph):
    """A beam search: answers as `CandidateGenerator.search`, from `catalogue_tensors`.

    Args:
        model: the recommender, in evaluation mode; its trie gives way to the one in the arguments.
        widths: what catalogues have to fit into.
        beam_width: W of the search.
        num_candidates: k.
        select: how a level chooses its beams: `select_best`, or `select_by_topk` for ONNX.

    Raises:
        ConfigError: W or k out of range.
    """

    def __init__(
        self, model: Any, *, widths: Widths, beam_width: int, num_candidates: int, select: Select = select_best
    ) -> None:
        check_width(model.trie, beam_width, num_candidates)
        search = _Search(model, widths, beam_width, num_candidates, select)
        super().__init__(search, model_inputs(model), model.settings.history_length)


class _Search(nn.Module):
    """The search with the tables of items and nodes already in place."""

    def __init__(self, model: Any, widths: Widths, beam_width: int, num_candidates: int, select: Select) -> None:
        super().__init__()
        self.model, self.widths, self.select = model, widths, select
        self.beam_width, self.num_candidates = beam_width, num_candidates

    def forward(
        self, histories: Tensor, lengths: Tensor, deny: Tensor, allow: Tensor, catalogue: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        trie = read_trie(catalogue, self.widths)
        admissible = allow & ~mask_of_items(deny, allow.shape[1])
        constraint = Constraint.build(trie, allow=admissible)
        with over(self.model, trie) as scorer:
            context = scorer.encode(histories, lengths)
            levels = search_levels(
                scorer, trie, context, beam_width=self.beam_width, constraint=constraint, select=self.select
            )
        found = expand_leaves(trie, levels[-1], num_candidates=self.num_candidates, constraint=constraint)
        return serve_popular(found.item_index, found.score, lengths == 0, admissible, catalogue)


def read_trie(catalogue: Mapping[str, Tensor], widths: Widths) -> SemanticIdTrie:
    """The trie whose arrays are among those of a catalogue, as wide as all that may come."""
    num_levels = len(widths.codebook_sizes)

    def levels(name: str, count: int = num_levels) -> tuple[Tensor, ...]:
        return tuple(catalogue[f"trie_{name}_{place}"] for place in range(count))

    return SemanticIdTrie(
        codebook_sizes=widths.codebook_sizes,
        child_offsets=levels("child_offsets"),
        child_codes=levels("child_codes"),
        parents=levels("parents"),
        item_order=catalogue["trie_item_order"],
        item_positions=catalogue["trie_item_positions"],
        item_leaves=catalogue["trie_item_leaves"],
        item_offsets=levels("item_offsets", num_levels + 1),
        max_branching=widths.max_branching,
        max_bucket=widths.max_bucket,
    )


@contextmanager
def over(model: Any, trie: SemanticIdTrie) -> Iterator[WideRoot]:
    """The scorer that a recommender is over another trie; afterwards it has its own again."""
    before, model.trie = model.trie, trie
    try:
        yield WideRoot(in_fixed_shapes(model), trie.max_branching[0])
    finally:
        model.trie = before


def serve_popular(
    items: Int64[Tensor, "B k"],
    scores: Float[Tensor, "B k"],
    is_empty: Bool[Tensor, " B"],
    admissible: Bool[Tensor, "B N"],
    catalogue: Mapping[str, Tensor],
) -> tuple[Int64[Tensor, "B k"], Float[Tensor, "B k"]]:
    """What was found, but for empty histories the most popular admissible items."""
    popular, counts, k = catalogue["popular_items"], catalogue["popular_counts"], items.shape[1]
    # Ranks are distinct, so that no operator has ties to break; float32 tells 16 million of them apart.
    rank = torch.arange(popular.shape[0], device=items.device, dtype=torch.float32)
    ranked = torch.where(admissible[:, popular], -rank, -torch.inf)
    ranked = nn.functional.pad(ranked, (0, k), value=-torch.inf)  # a catalogue may have fewer
    best = ranked.topk(k, dim=1)
    is_there, chosen = best.values > -torch.inf, is_empty.unsqueeze(1)
    place = torch.where(is_there, best.indices, 0)
    popular = torch.where(is_there, popular[place], -1)
    counts = torch.where(is_there, counts[place], -torch.inf)
    return torch.where(chosen, popular, items), torch.where(chosen, counts, scores)


class WideRoot:
    """A scorer whose root has as many children as there are codes: the first nodes are there, the rest is padding."""

    def __init__(self, model: Any, width: int) -> None:
        self.model, self.width = model, width

    def encode(self, histories: Tensor, lengths: Tensor) -> Any:
        return self.model.encode(histories, lengths)

    def start(self, context: Any) -> tuple[Tensor, Any]:
        log_probs, state = self.model.start(context)
        missing = self.width - log_probs.shape[2]
        return nn.functional.pad(log_probs, (0, missing), value=-torch.inf), state

    def step(self, level: int, state: Any, parents: Tensor, codes: Tensor, nodes: Tensor) -> tuple[Tensor, Any]:
        return self.model.step(level, state, parents, codes, nodes)


def select_by_topk(scores: Float[Tensor, "B C"], k: int) -> tuple[Float[Tensor, "B k"], Int64[Tensor, "B k"]]:
    """`select_best` for ONNX, whose TopK takes the lower index of equal values; torch's takes any."""
    index = scores.topk(k, dim=1).indices.sort(dim=1).values
    return scores.gather(1, index), index


def trace(graph: CatalogueGraph, catalogue: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """The graph as torch.export sees it: sizes of requests and of the catalogue are free, the widths are not."""
    num_items, history_length = len(catalogue["popular_items"]), graph.history_length
    requests = example_requests(num_items, history_length=history_length)
    shapes = {**request_shapes(history_length), "catalogue": catalogue_shapes(list(catalogue))}
    with torch.no_grad():
        return torch.export.export(graph, (*requests.values(), dict(catalogue)), dynamic_shapes=shapes, strict=False)


def example_requests(num_items: int, *, history_length: int, rows: int = 3) -> dict[str, Tensor]:
    """Requests of sizes that no tracer takes for constants."""
    length = min(5, history_length)
    return {
        "histories": (torch.arange(rows * length) % num_items).view(rows, length),
        "lengths": torch.full((rows,), length),
        "deny": torch.full((rows, 4), -1),
        "allow": torch.ones(rows, num_items, dtype=torch.bool),
    }


def request_shapes(history_length: int) -> dict[str, dict[int, Any]]:
    """Which sizes of the requests are free."""
    free = torch.export.Dim.DYNAMIC
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    length = torch.export.Dim("length", min=1, max=history_length)
    return {
        "histories": {0: batch, 1: length},
        "lengths": {0: batch},
        "deny": {0: batch, 1: free},
        "allow": {0: batch, 1: free},
    }


def catalogue_shapes(names: Sequence[str]) -> dict[str, dict[int, Any]]:
    """All first sizes of the arrays of a catalogue are free, save those of the root, which is one node."""
    fixed = ("trie_child_offsets_0", "trie_item_offsets_0")
    return {name: {} if name in fixed else {0: torch.export.Dim.DYNAMIC} for name in names}
