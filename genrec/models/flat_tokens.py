"""Items as code tokens one after the other: their vectors, and where in such a row which item is predicted.

What recommenders over flat tokens share, whatever network reads the tokens:

    vector of code c of level l = C_l[c] + E_l[v] (+ I[item] on the item's last token)

with code embeddings C, trie-node embeddings E and item-ID embeddings I. A token of a history is also a token that is
being generated, so E_l[v] is added to both: the nodes on the way to an item of the history are known, and anything else
would make the search see other inputs than training. I can only be added where an item is complete, which is never
before its last code has been predicted. Must not know networks or losses.
"""
# B batch, T items, P targets, L levels, D width, N items of the catalogue, R things in rows of a batch, Q most in a row

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.models.code_scores import CodeScores, Prefixes
from genrec.models.node_embeddings import NodeEmbeddings, adapt_state, mark_rows, normal_table
from genrec.models.recommender import ItemScores
from genrec.models.transformer import Dropout
from genrec.semantic_ids.trie import SemanticIdTrie


class FlatTokens(nn.Module):
    """The vectors of tokens; those of items and nodes that training does not show are 0.

    Args:
        trie: the catalogue; given again to each method that needs it.
        width: D.
        has_nodes: whether there are vectors E.
        has_items: whether there are vectors I.
        dropout: rate on the tokens.
    """

    item_is_trained: Tensor

    def __init__(
        self, trie: SemanticIdTrie, width: int, *, has_nodes: bool, has_items: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.codes = nn.ParameterList(normal_table(size, width) for size in trie.codebook_sizes)
        self.nodes = NodeEmbeddings(trie, width, is_used=has_nodes)
        self.items = nn.Parameter(torch.zeros(trie.num_items, width)) if has_items else None
        self.register_buffer("item_is_trained", torch.zeros(trie.num_items, dtype=torch.bool))
        self.dropout = Dropout(dropout)

    def of_items(self, trie: SemanticIdTrie, items: Int64[Tensor, "B T"]) -> Float[Tensor, "B TL D"]:
        """The L tokens of each item; anything where an item is -1."""
        items = items.clamp(min=0)
        path = trie.path_nodes(items)
        tokens = [self._vectors(trie, level, path[..., level]) for level in range(trie.num_levels)]
        if self.items is not None:
            tokens[-1] = tokens[-1] + F.embedding(items, self.items) * self.item_is_trained[items].unsqueeze(-1)
        return self.dropout(torch.stack(tokens, dim=2).flatten(1, 2))

    def of_nodes(self, trie: SemanticIdTrie, depth: int, nodes: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """The last token of each prefix of `depth` codes, which is no whole item."""
        return self.dropout(self._vectors(trie, depth - 1, nodes))

    def mark_trained(
        self, trie: SemanticIdTrie, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]
    ) -> None:
        """Lets I of `history_items` and E of the nodes on the paths of `target_items` count; see `Recommender`."""
        mark_rows(self.items, self.item_is_trained, history_items)
        self.nodes.mark_trained(trie.path_nodes(target_items.to(trie.device).nonzero().squeeze(1)))

    def adapted_state(
        self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"], trie: SemanticIdTrie, *, prefix: str
    ) -> dict[str, Tensor]:
        """The `state_dict` of a model, with the rows of its tokens moved to another catalogue's; see `adapt_state`.

        Args:
            state: of the model over the other catalogue.
            places: item_index here of each item there, -1 where it is gone.
            trie: of the catalogue here.
            prefix: of the names of this module in `state`.
        """
        items = (f"{prefix}items", f"{prefix}item_is_trained")
        return adapt_state(state, places, trie, nodes=(f"{prefix}nodes", self.nodes), items=items)

    def _vectors(self, trie: SemanticIdTrie, level: int, nodes: Int64[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        vectors = F.embedding(trie.child_codes[level][nodes], self.codes[level])
        if level in self.nodes.levels:
            vectors = vectors + self.nodes.look_up(level, nodes)
        return vectors


def continued(histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> Int64[Tensor, "B T1"] | None:
    """The histories, each followed by its last target; None where a target is not what its history goes on with.

    >>> continued(torch.tensor([[1, 2, -1], [-1, -1, -1]]), torch.tensor([[-1, 3, -1], [4, -1, -1]])).tolist()
    [[1, 2, 3, -1], [4, -1, -1, -1]]
    >>> continued(torch.tensor([[1, 2]]), torch.tensor([[3, 4]])) is None
    True
    """
    is_empty = histories[:, :1] < 0
    follows = torch.where(is_empty, F.pad(targets, (0, 1), value=-1), F.pad(targets, (1, 0), value=-1))
    read = F.pad(histories, (0, 1), value=-1)
    if bool(((follows >= 0) & (read >= 0) & (follows != read)).any()):
        return None
    return torch.where(read >= 0, read, follows)


def score_continuations(
    scores: CodeScores,
    trie: SemanticIdTrie,
    states: Float[Tensor, "P L D"],
    targets: Int64[Tensor, "B T"],
    *,
    with_means: bool,
) -> ItemScores:
    """`Recommender.score_targets` of P targets from the state before each of their codes."""
    is_target = targets >= 0
    path = trie.path_nodes(targets[is_target])
    above = F.pad(path[:, :-1], (1, 0))  # the root is node 0
    everyone = torch.arange(len(path), device=path.device)
    log_probs, means = [], []
    for level, decoded in enumerate(states.unbind(dim=1)):
        prefixes = Prefixes(decoded, decoded, above[:, level])
        found = scores.of_pairs(trie, level, prefixes, everyone, path[:, level], with_means=with_means)
        log_probs.append(found.log_probs)
        means += [] if found.means is None else [found.means]

    def place(values: list[Tensor]) -> Tensor:
        zeros = values[0].new_zeros(*targets.shape, trie.num_levels)
        return zeros.index_put((is_target,), torch.stack(values, dim=1))

    return ItemScores(place(log_probs), place(means) if with_means else None)
