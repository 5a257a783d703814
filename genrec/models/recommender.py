"""What every recommender offers to training and to search, and how one is built from the facts kept beside its weights.

Must not know configuration, files or search.
"""
# B batch, T items of a history, L levels, W beams, M most children of a node

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie

if TYPE_CHECKING:
    from genrec.models.hierarchical import HierarchicalRecommender


class ParameterGroup(TypedDict):
    """Parameters that share their weight decay: one entry of an optimiser's list."""

    name: str
    params: list[nn.Parameter]
    weight_decay: float


class Recommender(Protocol):
    """A torch module that gives the probability of the next item, code by code.

    Trained by `log_probs_of_targets`, searched by `encode`, `start` and `step` (the Scorer of the searches). Both give
    the same log-probabilities, under one normalisation: "trie" (softmax over the children of a node in the catalogue)
    or "vocabulary" (softmax over all codes of the level).
    """

    trie: SemanticIdTrie

    @property
    def normalisation(self) -> str:
        """Over what the probabilities of a level sum to one: "trie" or "vocabulary"."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What `build_from` needs, as plain JSON values."""
        ...

    def log_probs_of_targets(
        self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]
    ) -> Float[Tensor, "B T L"]:
        """Teacher forcing: log-probability of each code of each target, given the codes before it.

        Args:
            histories: item_index, oldest first, padded with -1 at the end.
            targets: targets[b, t] follows histories[b, : t + 1]; -1 where nothing is to be predicted. In a row that
                begins with -1 (an empty history) only targets[b, 0] may be given.

        Returns:
            log p(code of level l | history, codes before), 0 where there is no target.
        """
        ...

    def mark_trained(self, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]) -> None:
        """Declares which items training shows in histories and as targets, before it begins."""
        ...

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once, by weight decay."""
        ...

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """Reads the histories once."""
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


def build_from(facts: Mapping[str, Any], trie: SemanticIdTrie) -> HierarchicalRecommender:
    """An untrained recommender of the kind and size that `facts` describe; its weights are loaded into it afterwards.

    Args:
        facts: what `Recommender.facts` gave, possibly through JSON.
        trie: any version of the semantic IDs it was trained on.

    Raises:
        ConfigError: unknown kind or unknown key.
        LineageError: a trie of other levels.
    """
    from genrec.models.hierarchical import HierarchicalRecommender

    kinds = {HierarchicalRecommender.name: HierarchicalRecommender}
    if facts.get("name") not in kinds:
        expected = ", ".join(sorted(kinds))
        raise ConfigError("unknown kind of recommender", expected=expected, found=repr(facts.get("name")))
    return kinds[facts["name"]].from_facts(facts, trie)
