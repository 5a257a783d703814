"""From the state of a user to the probabilities of the codes of the next item, level by level.

docs/methods.md section 2. With u the state of the user, C code embeddings, E trie-node embeddings, W output codes:

    s_l = u + sum_{j <= l} (C_j[c_j] + E_j[v_j]),   d_l = norm(residual networks(s_l))
    logit of child v of node n of level l = <d_l, W_l[code(v)]> + <d_l + u, E_l[v]> [+ the term of a transition memory]

followed by a softmax over the children of n ("trie") or over all codes of the level ("vocabulary", where a code that is
no child has the first term alone). With a joint depth J > 1 (ours, trie only), the first J codes are decided by one
softmax over all prefixes v of that length, and the probabilities of shorter prefixes are sums over it:

    logit of v = <d_0, sum_{l < J} W_l[c_l(v)]> + <d_0 + u, E_{J-1}[v]> [+ the term of a transition memory]

It costs a product with every such prefix, and lets what is known of an item speak at the root, where a vector of its
whole subtree has to speak for it otherwise. Must not know histories, losses or search.
"""
# B batch, P targets, L levels, K codes, D width, W beams, M most children of a node

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.code_scores import CodeScores, PairScores, Prefixes, Terms
from genrec.models.node_embeddings import NodeEmbeddings, child_pairs, normal_table
from genrec.models.prefix_tree import PrefixTree, build_prefix_tree
from genrec.models.recommender import ItemScores, gather_items
from genrec.models.settings import HierarchicalSettings
from genrec.models.transformer import NORM_EPS, Dropout, ResidualFeedForward
from genrec.models.transition_memory import TransitionMemory, masses_of_depth, masses_of_nodes
from genrec.semantic_ids.trie import SemanticIdTrie

LARGEST_SOFTMAX = 1_000_000


class Users(NamedTuple):
    """Histories that have been read.

    Attributes:
        state: u.
        sums: of the scores of the transition memory, [P, N + 1] in trie order; None without a memory.
    """

    state: Float[Tensor, "P D"]
    sums: Float[Tensor, "P M"] | None


class DecoderState(NamedTuple):
    """Beams of a search.

    Attributes:
        users: what has been read, shared by all beams of a request.
        path: what the codes of each beam add to u.
        joint: log-probabilities of all prefixes of 1 to J codes.
    """

    users: Users
    path: Float[Tensor, "B W D"]
    joint: tuple[Float[Tensor, "B _"], ...]


class CodeDecoder(nn.Module):
    """The probabilities of the codes, for all targets of a batch at once, and step by step for beams.

    The decoder is a residual network on the running sum s_l, where a transformer block would do over the
    codes: as good in a trial (Office, one seed: validation R@10 .1001 against .1005), cheaper, causal by construction,
    and all that a beam has to carry is one vector.

    Args:
        trie: the catalogue; given again to each method, so that it may be an input of an exported graph.
        settings: size and kind.
    """

    def __init__(self, trie: SemanticIdTrie, settings: HierarchicalSettings) -> None:
        super().__init__()
        width, sizes = settings.width, trie.codebook_sizes
        if settings.joint_depth > len(sizes):
            raise ConfigError(
                "the joint depth is larger than the number of codes of an item",
                where="key 'model.joint_depth'",
                expected=f"at most {len(sizes)}",
                found=settings.joint_depth,
                fix=f"model.joint_depth={len(sizes)}",
            )
        if settings.joint_depth > 1 and (found := trie.num_nodes(settings.joint_depth)) > LARGEST_SOFTMAX:
            raise ConfigError(
                "too many prefixes for one softmax",
                where="key 'model.joint_depth'",
                expected=f"at most {LARGEST_SOFTMAX:,}",
                found=f"{found:,} of {settings.joint_depth} codes",
                fix=f"model.joint_depth={settings.joint_depth - 1}",
            )
        self.joint_depth = settings.joint_depth
        inner = sizes[:-1] if self.joint_depth < len(sizes) else ()
        self.code_embeddings = nn.ParameterList(normal_table(size, width) for size in inner)
        self.output_codes = nn.ParameterList(normal_table(size, width) for size in sizes)
        self.node_embeddings = NodeEmbeddings(
            trie, width, is_used=settings.node_embeddings, first_level=self.joint_depth - 1
        )
        self.layers = nn.ModuleList(
            ResidualFeedForward(
                width, settings.depth_hidden, activation=settings.activation, dropout=settings.dropout_depth
            )
            for _ in range(settings.depth_layers)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.node_dropout = Dropout(settings.dropout_nodes)
        self.scores = CodeScores(
            self.output_codes,
            self.node_embeddings,
            is_trie=settings.normalisation == "trie",
            temperature=settings.temperature,
            node_dropout=self.node_dropout,
            joint_depth=self.joint_depth,
        )

    def score_items(
        self,
        trie: SemanticIdTrie,
        users: Users,
        items: Int64[Tensor, "P C"],
        memory: TransitionMemory | None,
        *,
        with_means: bool = False,
    ) -> ItemScores:
        """Teacher forcing of C items after each position: every distinct prefix of a position is computed once.

        Under "trie", only choices among several children are computed; the rest is 0 and has no gradient. Under a joint
        depth J, the alternatives of the first J codes are all prefixes of J codes, and stand at level J of the means.
        """
        tree = build_prefix_tree(trie, items)
        later = range(self.joint_depth, trie.num_levels)
        # Levels without a row go through the decoder too, so that every parameter has a gradient on every rank.
        rows = {level: self.scores.has_choice(trie, level, tree.nodes[level]).nonzero().squeeze(1) for level in later}
        states = self._states(trie, users.state, tree, until=later.stop - 1 if later else 0)
        inputs = [users.state, *(states[level].index_select(0, rows[level]) for level in later)]
        decoded = self._decode(torch.cat(inputs)).split([len(part) for part in inputs])
        levels = self._joint_scores(trie, decoded[0], users, tree, memory, with_means=with_means)
        for level, inner in zip(later, decoded[1:], strict=True):
            owners = tree.owners[level][rows[level]]
            queries = inner + users.state.index_select(0, owners)
            terms = _terms(trie, level, users, owners, memory)
            of_level = (level, tree, rows[level], inner, queries)
            levels.append(self.scores.of_tree(trie, *of_level, terms=terms, with_means=with_means))
        return gather_items(tree, levels)

    def start(
        self, trie: SemanticIdTrie, users: Users, memory: TransitionMemory | None
    ) -> tuple[Float[Tensor, "B 1 M"], DecoderState]:
        """Log-probabilities of the children of the root, and the state of its one beam."""
        decoded = self._decode(users.state)
        term = _joint_term(trie, self.joint_depth, users, memory)
        log_probs, _ = self.scores.of_root(trie, decoded, decoded + users.state, term=term)
        joint = [log_probs]
        for depth in reversed(range(1, self.joint_depth)):
            joint.insert(0, _sum_children(trie, depth, joint[0]))
        state = DecoderState(users, torch.zeros_like(users.state).unsqueeze(1), tuple(joint))
        return joint[0].unsqueeze(1), state

    def step(
        self,
        trie: SemanticIdTrie,
        level: int,
        state: DecoderState,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
        memory: TransitionMemory | None,
    ) -> tuple[Float[Tensor, "B W M"], DecoderState]:
        """Log-probabilities of the children of each beam's node, -inf as padding; see `Scorer`."""
        if self.joint_depth < trie.num_levels:
            path = state.path.gather(1, parents.unsqueeze(-1).expand(-1, -1, state.path.shape[-1]))
            state = state._replace(path=path + self._token(trie, level - 1, codes, nodes.clamp(min=0)))
        if level < self.joint_depth:
            children = trie.children(level, nodes)
            above = state.joint[level - 1].gather(1, nodes.clamp(min=0)).unsqueeze(-1)
            below = state.joint[level].gather(1, children.nodes.clamp(min=0).flatten(1)).view_as(children.nodes)
            return (below - above).masked_fill(~children.is_valid, -torch.inf), state
        user = state.users.state.unsqueeze(1)
        has_choices = not self.scores.is_trie or trie.max_branching[level] > 1
        decoded = self._decode(user + state.path) if has_choices else state.path
        terms = _terms(trie, level, state.users, None, memory)
        return self.scores.of_children(trie, level, Prefixes(decoded, decoded + user, nodes), terms=terms), state

    def extend(
        self, trie: SemanticIdTrie, level: int, paths: Float[Tensor, "*R D"], nodes: Int64[Tensor, "*R"]
    ) -> Float[Tensor, "*R D"]:
        """What the codes of prefixes add to u, from what those before the last do; `nodes` are of depth `level` < L."""
        if self.joint_depth == trie.num_levels:
            return paths
        return paths + self._token(trie, level - 1, trie.child_codes[level - 1][nodes], nodes)

    def of_nodes(
        self,
        trie: SemanticIdTrie,
        sizes: Sequence[int],
        state: DecoderState,
        owners: Int64[Tensor, " R"],
        paths: Float[Tensor, "R D"],
        nodes: Int64[Tensor, " R"],
        memory: TransitionMemory | None,
    ) -> Float[Tensor, "R M"]:
        """Log-probabilities of the children of nodes of all depths below the root, each for its own request.

        Args:
            trie: the catalogue.
            sizes: how many nodes there are of depths 1 to L; they come in this order. Leaves have no children.
            state: of the root; its path is not read.
            owners: request of each node.
            paths: what its codes add to u, see `extend`.
            nodes: none is -1.
            memory: as in `step`.

        Returns:
            In the order of the codes, -inf as padding.
        """
        users = state.users.state.index_select(0, owners)
        decoded = self._decode(users + paths) if self.joint_depth < trie.num_levels else users
        found = decoded.new_full((len(nodes), max(trie.max_branching[1:], default=1)), -torch.inf, dtype=torch.float32)
        parts = zip(
            *(part.split(list(sizes)) for part in (owners, nodes, decoded, decoded + users, found)), strict=True
        )
        for level, (at, own, inner, queries, scores) in enumerate(parts, start=1):
            if level == trie.num_levels or not len(own):
                continue
            if level < self.joint_depth:
                children = trie.children(level, own)
                below = state.joint[level][at.unsqueeze(1), children.nodes.clamp(min=0)]
                log_probs = below - state.joint[level - 1][at, own].unsqueeze(1)
                log_probs = log_probs.masked_fill(~children.is_valid, -torch.inf)
            else:
                prefixes = Prefixes(inner.unsqueeze(1), queries.unsqueeze(1), own.unsqueeze(1))
                terms = _terms(trie, level, state.users, at, memory)
                log_probs = self.scores.of_children(trie, level, prefixes, terms=terms).squeeze(1)
            scores[:, : log_probs.shape[1]] = log_probs
        return found

    def _states(
        self, trie: SemanticIdTrie, state: Float[Tensor, "P D"], tree: PrefixTree, *, until: int
    ) -> list[Float[Tensor, "R D"]]:
        """s_l of every prefix of 0 to `until` codes."""
        states = [state]
        for level in range(until):
            nodes = tree.nodes[level + 1]
            token = self._token(trie, level, trie.child_codes[level][nodes], nodes)
            is_shared = tree.rows.shape[1] > 1
            states.append((states[-1].index_select(0, tree.parents[level + 1]) if is_shared else states[-1]) + token)
        return states

    def _token(
        self, trie: SemanticIdTrie, level: int, codes: Int[Tensor, "*B"], nodes: Int64[Tensor, "*B"]
    ) -> Float[Tensor, "*B D"]:
        """What choosing a node of depth level + 1 adds to the state."""
        token = F.embedding(codes, self.code_embeddings[level])
        if level in self.node_embeddings.levels:
            token = token + self.node_dropout(self.node_embeddings.look_up(level, nodes))
        return token

    def _decode(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def _joint_scores(
        self,
        trie: SemanticIdTrie,
        decoded: Float[Tensor, "P D"],
        users: Users,
        tree: PrefixTree,
        memory: TransitionMemory | None,
        *,
        with_means: bool,
    ) -> list[PairScores]:
        """The first J codes of every prefix of the tree, each given those before it."""
        depth = self.joint_depth
        term = _joint_term(trie, depth, users, memory)
        of_all, mean = self.scores.of_root(trie, decoded, decoded + users.state, term=term, with_means=with_means)
        levels, above = [], None
        for level in range(depth):
            owners, nodes = tree.owners[level + 1], tree.nodes[level + 1]
            if level + 1 == depth:
                below = of_all.flatten().index_select(0, owners * of_all.shape[1] + nodes)
            else:
                below = _log_sum_below(trie, of_all, owners, nodes, level + 1, depth)
            log_probs = below if above is None else below - above.index_select(0, tree.parents[level + 1])
            means = None
            if mean is not None:
                means = mean[owners] if level + 1 == depth else torch.zeros_like(log_probs)
            levels.append(PairScores(log_probs, means))
            above = below
        return levels


def _terms(
    trie: SemanticIdTrie,
    level: int,
    users: Users,
    owners: Int64[Tensor, " R"] | None,
    memory: TransitionMemory | None,
) -> Terms | None:
    """The memory's term of children of depth level + 1; row r of what is asked for is user owners[r] (None: r)."""
    sums = users.sums
    if memory is None or sums is None:
        return None

    def terms(rows: Int64[Tensor, "*Q"], children: Int64[Tensor, "*Q"]) -> Float[Tensor, "*Q"]:
        masses = masses_of_nodes(trie, level + 1, sums, rows if owners is None else owners[rows], children)
        return memory.terms(level, masses)

    return terms


def _joint_term(
    trie: SemanticIdTrie, depth: int, users: Users, memory: TransitionMemory | None
) -> Float[Tensor, "P n"] | None:
    if memory is None or users.sums is None:
        return None
    return memory.terms(depth - 1, masses_of_depth(trie, depth, users.sums))


def _sum_children(trie: SemanticIdTrie, depth: int, log_probs: Float[Tensor, "B n"]) -> Float[Tensor, "B m"]:
    """Log-probability of every node of a depth from those of its children."""
    num_rows = log_probs.shape[0]
    parents = trie.parents[depth].expand(num_rows, -1)
    empty = log_probs.new_full((num_rows, trie.num_nodes(depth)), -torch.inf)
    most = empty.scatter_reduce(1, parents, log_probs, "amax").clamp(min=torch.finfo(log_probs.dtype).min)
    shares = torch.zeros_like(empty).scatter_add(1, parents, (log_probs - most.gather(1, parents)).exp())
    return most + shares.log()


def _log_sum_below(
    trie: SemanticIdTrie,
    log_probs: Float[Tensor, "P n"],
    owners: Int64[Tensor, " R"],
    nodes: Int64[Tensor, " R"],
    depth: int,
    lower: int,
) -> Float[Tensor, " R"]:
    """Log-probability of some nodes of a depth, each for its owner, from those of all nodes of a lower depth."""
    first, end = nodes, nodes + 1
    for level in range(depth, lower):
        first, end = trie.child_offsets[level][first], trie.child_offsets[level][end]
    below = child_pairs(first, end - first)
    widest = int((end - first).max()) if len(nodes) else 1
    padded = log_probs.new_full((len(nodes), widest), -torch.inf)
    padded = padded.index_put((below.rows, below.slots), log_probs[owners[below.rows], below.children])
    return padded.logsumexp(dim=1)
