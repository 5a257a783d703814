"""From the states of prefixes to log-probabilities of the next codes: the output side that all recommenders share.

docs/methods.md section 2. With d the state of a prefix that stands at node n of level l, q a query for the trie-node
embeddings E, W the output codes and tau_msl the temperature:

    logit of child v = (<d, W_l[code(v)]> + <q, E_l[v]> [+ a term of its own]) / tau_msl

followed by a softmax over the children of n ("trie") or over all codes of the level ("vocabulary", where a code that is
no child has the first term alone). With a joint depth J > 1 (ours, trie only), one softmax runs over all prefixes of J
codes, whose output codes are summed. Must not know how states come about.
"""
# P positions, R prefixes, Q (prefix, child) pairs, B requests, W beams, D width, K codes, M most children of a node

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from genrec.models.node_embeddings import NodeEmbeddings, child_pairs
from genrec.models.prefix_tree import PrefixTree
from genrec.models.transformer import Dropout
from genrec.semantic_ids.trie import SemanticIdTrie

# Further terms of the logits of pairs: (row of the prefix, node of the child) -> term.
Terms = Callable[[Int64[Tensor, " Q"], Int64[Tensor, " Q"]], Float[Tensor, " Q"]]


class Prefixes(NamedTuple):
    """Prefixes that have been read.

    Attributes:
        decoded: d.
        queries: q.
        nodes: where they stand; -1 for a dead beam of a search.
    """

    decoded: Float[Tensor, "*R D"]
    queries: Float[Tensor, "*R D"]
    nodes: Int64[Tensor, "*R"]


class PairScores(NamedTuple):
    """Of some (prefix, child) pairs.

    Attributes:
        log_probs: of the child, given the prefix.
        means: over what the softmax of the prefix runs, of the log-probabilities there; None if they were not wanted.
    """

    log_probs: Float[Tensor, " Q"]
    means: Float[Tensor, " Q"] | None


@dataclass(frozen=True, eq=False)
class CodeScores:
    """The softmaxes of all levels; holds parameters of a model, has none of its own.

    Attributes:
        output_codes: W_l, a table a level.
        node_embeddings: E_l.
        is_trie: softmax over the children of a node instead of all codes of the level.
        temperature: tau_msl.
        node_dropout: on the queries, in training.
        joint_depth: J.
    """

    output_codes: nn.ParameterList
    node_embeddings: NodeEmbeddings
    is_trie: bool
    temperature: float
    node_dropout: Dropout
    joint_depth: int = 1

    def has_choice(self, trie: SemanticIdTrie, level: int, nodes: Int64[Tensor, "*R"]) -> Tensor:
        """Which prefixes have to be computed: under "trie", the only child of a node has log-probability 0 anyway."""
        return (trie.child_ranges(level, nodes)[1] > 1) if self.is_trie else torch.ones_like(nodes, dtype=torch.bool)

    def of_root(
        self,
        trie: SemanticIdTrie,
        decoded: Float[Tensor, "P D"],
        queries: Float[Tensor, "P D"],
        *,
        term: Float[Tensor, "P n"] | None = None,
        with_means: bool = False,
    ) -> tuple[Float[Tensor, "P n"], Float[Tensor, " P"] | None]:
        """Log-probabilities of all n prefixes of J codes, by plain matrix products, and their mean."""
        depth = self.joint_depth
        codes = trie.prefix_codes(depth).long()  # [n, J]
        terms = [] if term is None else [term]
        if depth - 1 in self.node_embeddings.levels:
            terms.append(self.node_embeddings.score_all(depth - 1, self.node_dropout(queries)).float())
        if self.is_trie:
            vectors = [F.embedding(codes[:, level], table) for level, table in enumerate(self.output_codes[:depth])]
            logits = F.linear(decoded, functools.reduce(torch.add, vectors)).float()
            log_probs = self._log_softmax(functools.reduce(torch.add, terms, logits))
            return log_probs, log_probs.mean(dim=1) if with_means else None
        logits = F.linear(decoded, self.output_codes[0]).float()
        for part in terms:
            logits = logits.index_add(1, codes[:, 0], part)
        log_probs = self._log_softmax(logits)
        return log_probs[:, codes[:, 0]], log_probs.mean(dim=1) if with_means else None

    def of_pairs(
        self,
        trie: SemanticIdTrie,
        level: int,
        prefixes: Prefixes,
        parents: Int64[Tensor, " Q"],
        children: Int64[Tensor, " Q"],
        *,
        terms: Terms | None = None,
        with_means: bool = False,
    ) -> PairScores:
        """Training: log-probability of some children of some prefixes.

        Args:
            trie: the catalogue.
            level: codes that the prefixes have; J or more, or 0 if J is 1.
            prefixes: R of them.
            parents: row of the prefix of each pair.
            children: node of depth `level` + 1, a child of nodes[parents].
            terms: further terms.
            with_means: for label smoothing.
        """
        decoded, queries, nodes = prefixes
        if level == 0 and terms is None:
            log_probs, means = self.of_root(trie, decoded, queries, with_means=with_means)
            return PairScores(_pick(log_probs, parents, children), None if means is None else means[parents])
        logits = F.linear(decoded, self.output_codes[level]).float()  # [R, K]
        pairs = child_pairs(*trie.child_ranges(level, nodes))
        at_code = (pairs.rows, trie.child_codes[level][pairs.children].long())
        extra = logits.new_zeros(())
        if level in self.node_embeddings.levels:
            extra = self.node_embeddings.score_pairs(level, self.node_dropout(queries), pairs).float()
        if terms is not None:
            extra = extra + terms(pairs.rows, pairs.children)
        if self.is_trie:
            padded = logits.new_full((len(nodes), trie.max_branching[level]), -torch.inf)
            log_probs = self._log_softmax(padded.index_put((pairs.rows, pairs.slots), logits[at_code] + extra))
            columns = children - trie.child_offsets[level][nodes[parents]]
        else:
            log_probs = self._log_softmax(logits.index_put(at_code, extra, accumulate=True))
            columns = trie.child_codes[level][children].long()
        means = None
        if with_means:
            counts = trie.child_ranges(level, nodes)[1] if self.is_trie else log_probs.shape[1]
            sums = log_probs.masked_fill(log_probs == -torch.inf, 0.0).sum(dim=1)
            means = (sums / counts)[parents]
        return PairScores(_pick(log_probs, parents, columns), means)

    def of_tree(
        self,
        trie: SemanticIdTrie,
        level: int,
        tree: PrefixTree,
        rows: Int64[Tensor, " R"],
        decoded: Float[Tensor, "R D"],
        queries: Float[Tensor, "R D"],
        *,
        terms: Terms | None = None,
        with_means: bool = False,
    ) -> PairScores:
        """`of_pairs` for every prefix of `level` + 1 codes of a tree; 0 below prefixes that are not among `rows`.

        Args:
            trie: the catalogue.
            level: codes that the prefixes have.
            tree: of the candidates.
            rows: the prefixes that were read; those that leave no choice are not computed, and need not be among them.
            decoded: d of each of these.
            queries: q of each.
            terms: further terms, of pairs whose row is a place in `rows`.
            with_means: for label smoothing.
        """
        has_choice = self.has_choice(trie, level, tree.nodes[level][rows])
        if not bool(has_choice.all()):
            assert terms is None, "terms of rows that are left out"
            chosen = has_choice.nonzero().squeeze(1)
            rows, decoded, queries = (part.index_select(0, chosen) for part in (rows, decoded, queries))
        place = torch.full_like(tree.nodes[level], -1)
        place = place.index_copy(0, rows, torch.arange(len(rows), device=rows.device))
        parents = place[tree.parents[level + 1]]
        pairs = (parents >= 0).nonzero().squeeze(1)
        found = self.of_pairs(
            trie,
            level,
            Prefixes(decoded, queries, tree.nodes[level][rows]),
            parents[pairs],
            tree.nodes[level + 1][pairs],
            terms=terms,
            with_means=with_means,
        )
        empty = found.log_probs.new_zeros(len(parents))
        means = None if found.means is None else empty.index_put((pairs,), found.means)
        return PairScores(empty.index_put((pairs,), found.log_probs), means)

    def rows_to_read(self, trie: SemanticIdTrie, tree: PrefixTree) -> list[Int64[Tensor, " R"]]:
        """The prefixes of 0 to L - 1 codes of a tree that leave a choice, and those on the way to them."""
        is_needed = [self.has_choice(trie, level, nodes) for level, nodes in enumerate(tree.nodes[:-1])]
        for depth in reversed(range(1, trie.num_levels)):
            is_needed[depth - 1][tree.parents[depth][is_needed[depth]]] = True
        return [needed.nonzero().squeeze(1) for needed in is_needed]

    def of_children(
        self,
        trie: SemanticIdTrie,
        level: int,
        prefixes: Prefixes,
        *,
        terms: Terms | None = None,
    ) -> Float[Tensor, "B W M"]:
        """Search: log-probabilities of all children of the node of each beam, -inf as padding; fixed shapes.

        Args:
            trie: the catalogue.
            level: as in `of_pairs`; at level 0 every node is the root.
            prefixes: [B, W] of them.
            terms: further terms, of flat (request, child) pairs.
        """
        decoded, queries, nodes = prefixes
        if level == 0 and self.joint_depth == 1 and terms is None:
            log_probs, _ = self.of_root(trie, decoded.flatten(0, 1), queries.flatten(0, 1))
            log_probs = log_probs.view(*nodes.shape, -1)
            return log_probs.masked_fill((nodes < 0).unsqueeze(-1), -torch.inf)
        children = trie.children(level, nodes)
        if self.is_trie and trie.max_branching[level] == 1:
            return torch.where(children.is_valid, 0.0, -torch.inf).to(torch.promote_types(decoded.dtype, torch.float32))
        slots = children.codes.clamp(min=0)
        logits = F.linear(decoded, self.output_codes[level]).float()  # [B, W, K]
        extra = torch.zeros_like(slots, dtype=logits.dtype)
        if level in self.node_embeddings.levels:
            scores = self.node_embeddings.score_children(level, queries, children.nodes)
            extra = scores.float().masked_fill(~children.is_valid, 0.0)
        if terms is not None:
            rows = torch.arange(slots.shape[0], device=slots.device).view(-1, 1, 1).expand_as(slots)
            extra = extra + terms(rows, children.nodes).masked_fill(~children.is_valid, 0.0)
        if self.is_trie:
            logits = logits.gather(-1, slots) + extra
            log_probs = self._log_softmax(logits.masked_fill(~children.is_valid, -torch.inf))
        else:
            log_probs = self._log_softmax(logits.scatter_add(-1, slots, extra)).gather(-1, slots)
        return log_probs.masked_fill(~children.is_valid, -torch.inf)

    def _log_softmax(self, logits: Float[Tensor, "*B M"]) -> Float[Tensor, "*B M"]:
        return (logits / self.temperature).log_softmax(dim=-1)


def _pick(table: Float[Tensor, "R M"], rows: Int64[Tensor, " Q"], columns: Int64[Tensor, " Q"]) -> Float[Tensor, " Q"]:
    """table[rows, columns], whose backward pass is an addition of numbers instead of an accumulating write."""
    return table.flatten().index_select(0, rows * table.shape[1] + columns)
