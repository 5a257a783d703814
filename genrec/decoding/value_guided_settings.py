"""How a value-guided search spends its budget, and what its beginning costs."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.errors import ConfigError
from genrec.semantic_ids.trie import SemanticIdTrie

RANKINGS = ("log_prob", "value", "mixture")


@dataclass(frozen=True)
class ValueGuidedSettings:
    """How a value-guided search spends its budget.

    Attributes:
        node_budget: prefixes that may be forwarded for each request. A beam search of width W forwards W (L - 1).
        initial_width: of the beam search at the beginning; it may cost at most half the budget.
        entropy_weight: lambda.
        exploration: beta.
        rank_by: "log_prob"; "value" of the leaf; or "mixture", (1 - m) log_prob + m value. The last two forward leaves.
        mixture: m.
        selections_per_round: prefixes of a request that are expanded before the model is called. Above 1, the later
            ones are selected without what the earlier would have shown, held apart by the visits alone.

    Raises:
        ConfigError: unknown `rank_by`, or a number out of range.
    """

    node_budget: int = 64
    initial_width: int = 8
    entropy_weight: float = 0.1
    exploration: float = 1.0
    rank_by: str = "log_prob"
    mixture: float = 0.5
    selections_per_round: int = 1

    def __post_init__(self) -> None:
        if self.rank_by not in RANKINGS:
            raise ConfigError("unknown ranking", expected=" or ".join(RANKINGS), found=repr(self.rank_by))
        for name in ("node_budget", "initial_width", "selections_per_round"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive", expected="1 or more", found=getattr(self, name))
        for name in ("entropy_weight", "exploration"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} out of range", expected="0 or more", found=getattr(self, name))
        if not 0 <= self.mixture <= 1:
            raise ConfigError("mixture out of range", expected="0 to 1", found=self.mixture)

    @property
    def forwards_leaves(self) -> bool:
        """Whether the value of leaves is needed."""
        return self.rank_by != "log_prob"


def initial_cost(trie: SemanticIdTrie, width: int, *, forwards_leaves: bool = False) -> int:
    """The most prefixes that a beam search forwards for one request; the root and, by default, leaves do not count."""
    cost, beams = 0, 1
    for level in range(trie.num_levels - (not forwards_leaves)):
        beams = min(width, beams * trie.max_branching[level], trie.num_nodes(level + 1))
        cost += beams
    return cost


def check_budget(trie: SemanticIdTrie, settings: ValueGuidedSettings) -> None:
    """Raises ConfigError if the initial beam search may cost more than half the budget."""
    cost = initial_cost(trie, settings.initial_width, forwards_leaves=settings.forwards_leaves)
    if 2 * cost > settings.node_budget:
        raise ConfigError(
            f"an initial beam search of width {settings.initial_width} may cost more than half the budget",
            expected=f"at most {settings.node_budget // 2} nodes",
            found=cost,
            fix="make the initial width smaller or the budget larger",
        )


def most_slots(trie: SemanticIdTrie, settings: ValueGuidedSettings) -> int:
    """Slots that no tree of such a search outgrows: nowhere, the root, a node for each unit of the budget, and leaves.

    Leaves that cost nothing hang below prefixes that cost something (or below the root, if items have one code).
    """
    num_parents = settings.node_budget if trie.num_levels > 1 else 1
    free = 0 if settings.forwards_leaves else num_parents * trie.max_branching[-1]
    return 2 + settings.node_budget + free
