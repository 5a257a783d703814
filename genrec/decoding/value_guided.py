"""Value-guided search (VED): a tree of prefixes that grows where values and the policy's doubt promise most.

V-STAR (arXiv 2602.10699, section 4.2), docs/methods.md section 4. After an initial beam search, every round expands one
prefix of a request by one child:

1. initial tree: a beam search of small width, whose nodes count against the budget (at most half of it);
2. priority of a prefix s: G(s) = V(s) + lambda H(s), V the value of its own prefix, H the entropy of the policy over
   its children in the catalogue (renormalised over them);
3. of the prefixes with an unexpanded admissible child, the one with the largest G + beta sqrt(ln(N_root + 1) / (N + 1))
   is selected; ties: deeper, then lower node; N starts as the number of initial beams through it;
4. gate: one whose G is below the mean G of the open ones of its depth is passed over for the next, and gets a visit of
   its own (its ancestors do not);
5. expansion: one child, drawn from the policy restricted to the unexpanded admissible ones by Gumbel noise that is a
   function of (seed, request, depth, node); visits go up along the path;
6. the budget counts forwarded prefixes; the root belongs to the prompt, and leaves are forwarded only if their value is
   needed to rank them.

The authors' released code gives children the value of their parent and never runs its loop at the budget it ships;
this is the paper's algorithm. Because noise is counter-based, the tree of a larger budget contains that of a smaller
one. All requests advance together, and one call of the model reads what they have added. Must not know networks.
"""
# B requests, W nodes at once, L levels, M most children of a node, S slots, C rows, k returned

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from genrec.decoding.growth import Growth
from genrec.decoding.scorer import Candidates
from genrec.decoding.search_tree import SearchTrace, Slots
from genrec.decoding.selection import rank_order
from genrec.decoding.tree_scorer import TreeScorer
from genrec.decoding.value_guided_settings import ValueGuidedSettings, check_budget
from genrec.errors import ConfigError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie


def value_guided_search(
    scorer: TreeScorer,
    trie: SemanticIdTrie,
    context: Any,
    settings: ValueGuidedSettings,
    *,
    num_candidates: int,
    seed: int = 0,
    request_ids: Int64[Tensor, " B"] | None = None,
    constraint: Constraint | None = None,
) -> tuple[Candidates, SearchTrace]:
    """Searches the trees of B requests; see the module for the algorithm.

    Exact are: log-probabilities; that items are in the catalogue, admissible and distinct; the order (score desc,
    item_index asc) of what is returned; and everything, if the budget covers the catalogue. A child of probability zero
    is never expanded. Items that share their codes share what their leaf gets.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        settings: the budget and how it is spent.
        num_candidates: k, at least 1. Fewer leaves may be found; the rest is padding.
        seed: of the noise, in [0, 2^64).
        request_ids: what the noise of each request depends on beside the seed; None: its place in the batch.
        constraint: what each request may get.

    Returns:
        The candidates, whose score is what `rank_by` says, and the trees.

    Raises:
        ConfigError: k below 1, or an initial beam search that may cost more than half the budget.
        DataError: the scorer gave NaN or +inf.
    """
    if num_candidates < 1:
        raise ConfigError("wrong number of candidates", expected="1 or more", found=num_candidates)
    check_budget(trie, settings)
    growth = Growth(scorer, trie, context, settings, seed=seed, request_ids=request_ids, constraint=constraint)
    growth.plant()
    grow(growth)
    trace = growth.tree.trace(growth.num_calls)
    return rank_leaves(trie, trace, settings, num_candidates=num_candidates, constraint=constraint), trace


def grow(growth: Growth) -> None:
    """Until every budget is spent or nothing is left to expand.

    No tree depends on another, so who has only leaves to add need not wait for the model: it is called when three in
    four of the requests that are not done wait for it.
    """
    num_selections = growth.settings.selections_per_round
    waiting = growth.first_children.new_zeros(len(growth.words), num_selections)
    rounds = torch.zeros_like(growth.num_forwarded)
    while True:
        is_waiting = waiting.any(dim=1)
        is_ready = growth.is_active() & ~is_waiting
        num_waiting, num_ready = torch.stack([is_waiting.sum(), is_ready.sum()]).tolist()
        if num_waiting + num_ready == 0:
            return
        if num_waiting >= 3 * num_ready:
            growth.forward(waiting, growth.levels_below_root)
            waiting = torch.zeros_like(waiting)
            continue
        rounds += is_ready
        waiting += growth.expand_several(is_ready, rounds)


def rank_leaves(
    trie: SemanticIdTrie,
    trees: SearchTrace | Slots,
    settings: ValueGuidedSettings,
    *,
    num_candidates: int,
    constraint: Constraint | None,
) -> Candidates:
    """The items of the leaves that were found, ranked by what the settings say."""
    leaves = torch.where(trees.depths == trie.num_levels, trees.nodes, -1)
    items = trie.leaf_items(leaves)  # [B, n, bucket]
    log_probs = trees.log_probs.unsqueeze(2).masked_fill(items < 0, -torch.inf)
    if constraint is not None and trie.max_bucket > 1:  # an alive leaf of several items may hold a denied one
        log_probs = log_probs.masked_fill(~constraint.is_admissible(items), -torch.inf)
    scores = log_probs
    if settings.forwards_leaves:
        share = 1.0 if settings.rank_by == "value" else settings.mixture
        mixed = (1 - share) * trees.log_probs + share * trees.values.to(trees.log_probs.dtype)
        scores = mixed.unsqueeze(2).expand_as(log_probs).masked_fill(log_probs == -torch.inf, -torch.inf)
    items, log_probs, scores = items.flatten(1), log_probs.flatten(1), scores.flatten(1)
    order = rank_order(items, scores)[:, :num_candidates]
    found = [part.gather(1, order) for part in (items, log_probs, scores)]
    missing = (0, num_candidates - order.shape[1])
    items = torch.nn.functional.pad(found[0].masked_fill(found[2] == -torch.inf, -1), missing, value=-1)
    return Candidates(items, *(torch.nn.functional.pad(part, missing, value=-torch.inf) for part in found[1:]))
