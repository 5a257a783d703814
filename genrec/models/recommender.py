"""What every recommender offers to training and to search, and how one is built from the facts kept beside its weights.

Must not know configuration, files or search.
"""
# B batch, T items of a history, P positions with a target, C candidates, L levels, W beams, M most children of a node

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError, LineageError
from genrec.models.code_scores import PairScores
from genrec.models.node_embeddings import NodeEmbeddings
from genrec.models.prefix_tree import PrefixTree
from genrec.semantic_ids.trie import SemanticIdTrie

S = TypeVar("S")


class ParameterGroup(TypedDict):
    """Parameters that share their weight decay: one entry of an optimiser's list."""

    name: str
    params: list[nn.Parameter]
    weight_decay: float


class ItemScores(NamedTuple):
    """Of given items, code by code.

    Attributes:
        log_probs: log p(code of level l | history, codes before).
        means: of the log-probabilities of all that stood to choice there, for label smoothing; None if not wanted.
    """

    log_probs: Float[Tensor, "*P L"]
    means: Float[Tensor, "*P L"] | None


class Sized(Protocol):
    """Settings of a recommender, as far as all have them."""

    @property
    def history_length(self) -> int:
        """The last items that are read."""
        ...


class Recommender(Protocol):
    """A torch module that gives the probability of the next item, code by code.

    Trained by `score_targets`, or `read_positions` and `score_items`; searched by `encode`, `start` and `step` (the
    Scorer of the searches). All give the same log-probabilities, under one normalisation: "trie" (softmax over the
    children of a node in the catalogue) or "vocabulary" (softmax over all codes of the level).

    A model with a true `uses_gaps` takes `gaps` [B, T] beside the histories wherever it reads some: the `gap_buckets`
    of their events, or None where times are not known. Others are never given any.
    """

    trie: SemanticIdTrie

    @property
    def settings(self) -> Sized:
        """Its size and kind."""
        ...

    @property
    def normalisation(self) -> str:
        """Over what the probabilities of a level sum to one: "trie" or "vocabulary"."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What `build_from` needs, as plain JSON values."""
        ...

    @property
    def node_embeddings(self) -> NodeEmbeddings:
        """Its vectors of trie nodes; without a level where there are none."""
        ...

    @property
    def code_tables(self) -> list[nn.Parameter]:
        """All tables that have a row for each code of a level."""
        ...

    def score_targets(
        self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"], *, with_means: bool = False
    ) -> ItemScores:
        """Teacher forcing of one item at each position: [B, T, L], 0 where there is no target.

        Args:
            histories: item_index, oldest first, padded with -1 at the end.
            targets: targets[b, t] follows histories[b, : t + 1]; -1 where nothing is to be predicted. In a row that
                begins with -1 (an empty history) only targets[b, 0] may be given.
            with_means: give `means` too.
        """
        ...

    def read_positions(self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> Any:
        """Reads windows once, for `score_items` after each of the P positions that have a target, row by row.

        What the target is does not matter, except to what must not see its own future: see `TransitionMemory`.
        """
        ...

    def score_items(self, context: Any, items: Int64[Tensor, "P C"], *, with_means: bool = False) -> ItemScores:
        """Teacher forcing of C items after each position: [P, C, L]. Prefixes that items share are computed once."""
        ...

    def mark_trained(self, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]) -> None:
        """Declares which items training shows in histories and as targets, before it begins."""
        ...

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once, by weight decay."""
        ...

    def load_adapted(self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"]) -> None:
        """Loads the weights of the same model over another version of the catalogue.

        Args:
            state: `state_dict` of the other model.
            places: item_index here of each item there, -1 where it is gone.
        """
        ...

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """Reads the histories once."""
        ...

    def request_states(self, context: Any) -> Float[Tensor, "B D"]:
        """What is known of each request before its first code, as one vector: what a value head reads."""
        ...

    def start(self, context: Any) -> tuple[Float[Tensor, "B 1 M"], Any]:
        """Log-probabilities of the children of the root, and the state of its one beam."""
        ...

    def step(
        self,
        level: int,
        state: Any,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Any]:
        """Beams after `level` codes: log-probabilities of the children of each node, -inf as padding, and the state."""
        ...


def group_parameters(
    model: nn.Module,
    *,
    nodes: Iterable[nn.Parameter],
    items: Iterable[nn.Parameter],
    decays: tuple[float, float, float],
) -> list[ParameterGroup]:
    """All parameters of a model, each once: matrices of its networks, node vectors, item vectors, the rest (undecayed).

    Args:
        model: whose linear layers have the matrices.
        nodes: vectors of trie nodes.
        items: vectors of items.
        decays: of the matrices, the nodes and the items.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    matrices = [module.weight for module in linear]
    members = {"matrices": matrices, "nodes": list(nodes), "items": list(items)}
    grouped = {id(parameter) for group in members.values() for parameter in group}
    members["rest"] = [parameter for parameter in model.parameters() if id(parameter) not in grouped]
    return [
        ParameterGroup(name=name, params=params, weight_decay=decay)
        for (name, params), decay in zip(members.items(), (*decays, 0.0), strict=True)
        if params
    ]


def gather_items(tree: PrefixTree, levels: Sequence[PairScores]) -> ItemScores:
    """Scores of the distinct prefixes of 1 to L codes -> of the candidates."""
    rows = tree.rows.unbind(dim=-1)
    log_probs = torch.stack([level.log_probs[row] for level, row in zip(levels, rows, strict=True)], dim=-1)
    means = [level.means[row] for level, row in zip(levels, rows, strict=True) if level.means is not None]
    return ItemScores(log_probs, torch.stack(means, dim=-1) if means else None)


def score_each_target(
    model: Recommender,
    histories: Int64[Tensor, "B T"],
    targets: Int64[Tensor, "B T"],
    *,
    with_means: bool = False,
    **reading: Any,
) -> ItemScores:
    """`score_targets` by `read_positions`, which takes `reading` beside the histories, and `score_items`."""
    is_target = targets >= 0
    context = model.read_positions(histories, targets, **reading)
    scores = model.score_items(context, targets[is_target].unsqueeze(1), with_means=with_means)

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(*targets.shape, values.shape[-1]).index_put((is_target,), values.squeeze(1))

    return ItemScores(place(scores.log_probs), None if scores.means is None else place(scores.means))


def build_from(facts: Mapping[str, Any], trie: SemanticIdTrie) -> Any:
    """An untrained recommender of the kind and size that `facts` describe; its weights are loaded into it afterwards.

    Args:
        facts: what `Recommender.facts` gave, possibly through JSON.
        trie: any version of the semantic IDs it was trained on.

    Returns:
        A `Recommender` that is a torch module.

    Raises:
        ConfigError: unknown kind or unknown key.
        LineageError: a trie of other levels.
    """
    kinds = {kind.name: kind for kind in _kinds()}
    if facts.get("name") not in kinds:
        expected = ", ".join(sorted(kinds))
        raise ConfigError("unknown kind of recommender", expected=expected, found=repr(facts.get("name")))
    return kinds[facts["name"]].from_facts(facts, trie)


def check_levels(facts: Mapping[str, Any], trie: SemanticIdTrie) -> None:
    """Raises LineageError unless the trie has the levels that the facts of a recommender name."""
    sizes = tuple(facts.get("codebook_sizes", ()))
    if sizes != trie.codebook_sizes:
        raise LineageError(
            "the recommender was trained on other semantic IDs",
            expected=f"codebook sizes {list(sizes)}",
            found=list(trie.codebook_sizes),
            fix="use the semantic IDs that its manifest names",
        )


def read_settings(kind: type[S], facts: Mapping[str, Any]) -> S:
    """The settings among the facts of a recommender.

    Raises:
        ConfigError: unknown key or value.
    """
    values = {key: value for key, value in facts.items() if key not in ("name", "codebook_sizes")}
    known = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(values) - known):
        raise ConfigError("unknown keys in the facts of a recommender", expected=sorted(known), found=unknown)
    return kind(**values)


def _kinds() -> tuple[Any, ...]:
    from genrec.models.decoder_only import DecoderOnlyRecommender
    from genrec.models.encoder_decoder import EncoderDecoderRecommender
    from genrec.models.hierarchical import HierarchicalRecommender
    from genrec.models.huggingface import HuggingFaceRecommender

    return (HierarchicalRecommender, EncoderDecoderRecommender, DecoderOnlyRecommender, HuggingFaceRecommender)
