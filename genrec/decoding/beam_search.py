"""Beam search over the trie: only prefixes of admissible items, fixed shapes, no loop but the one over levels.

Sees a scorer and a trie; must not know networks. The encoded history belongs to the scorer and is not copied per beam.
"""
# B requests, L levels, W beams, M_l most children of a node of depth l, S most items of a leaf, k returned

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genrec.decoding.exhaustive import check_scores
from genrec.decoding.scorer import Candidates, Scorer
from genrec.decoding.selection import Select, rank_items, select_best
from genrec.errors import ConfigError
from genrec.semantic_ids.constraints import Constraint
from genrec.semantic_ids.trie import SemanticIdTrie


class Beams(NamedTuple):
    """The surviving prefixes of one length, in the order of their nodes.

    Attributes:
        nodes: -1 for a dead beam.
        log_prob: of the prefix; -inf for a dead beam.
        parents: the beam before it that each continues; a valid place for dead beams too.
        codes: its last code; 0 for a dead beam.
        is_bad: a score of this level was NaN or +inf.
    """

    nodes: Int64[Tensor, "B W"]
    log_prob: Float[Tensor, "B W"]
    parents: Int64[Tensor, "B W"]
    codes: Int64[Tensor, "B W"]
    is_bad: Bool[Tensor, " B"]


def beam_search(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    *,
    beam_width: int,
    num_candidates: int,
    constraint: Constraint | None = None,
) -> Candidates:
    """Keeps the `beam_width` most probable prefixes of every length (docs/methods.md section 4).

    Exact are: log-probabilities; that items are in the catalogue, admissible and distinct; the order (score desc,
    item_index asc) of what is returned; and everything, if no depth has more than `beam_width` alive nodes. Prefixes
    with equal scores at the cut of a level: the lower node stays, which is the one with the lower codes. Items that
    share their codes share the log-probability of their leaf.

    Args:
        scorer: the model.
        trie: the catalogue.
        context: of B requests, from `scorer.encode`.
        beam_width: W, at least 1.
        num_candidates: k, from 1 to W (to W * S where items share their codes).
        constraint: what each request may get.

    Returns:
        The candidates; a prefix of probability zero is never followed. Where fewer than k were found, the rest is
        padding.

    Raises:
        ConfigError: W or k out of range.
        DataError: the scorer gave NaN or +inf.
    """
    check_width(trie, beam_width, num_candidates)
    levels = search_levels(scorer, trie, context, beam_width=beam_width, constraint=constraint)
    check_scores([beams.is_bad for beams in levels])
    return expand_leaves(trie, levels[-1], num_candidates=num_candidates, constraint=constraint)


def search_levels(
    scorer: Scorer,
    trie: SemanticIdTrie,
    context: Any,
    *,
    beam_width: int,
    constraint: Constraint | None = None,
    select: Select = select_best,
) -> list[Beams]:
    """The beams after 1 to L codes: the search without its checks, a function of tensors alone.

    The width of a level is the smaller of `beam_width` and the candidates there can be: it depends on the trie's
    M_l, never on the data of a request.
    """
    log_probs, state = scorer.start(context)
    batch = log_probs.shape[0]
    assert constraint is None or constraint.num_requests in (None, batch), "a constraint of another batch"
    total = log_probs.new_zeros(batch, 1, dtype=torch.promote_types(log_probs.dtype, torch.float32))
    nodes = torch.zeros(batch, 1, dtype=torch.int64, device=log_probs.device)
    levels: list[Beams] = []
    for level in range(trie.num_levels):
        if level > 0:
            log_probs, state = scorer.step(level, state, levels[-1].parents, levels[-1].codes, nodes)
        scores = total.unsqueeze(2) + log_probs
        levels.append(advance(trie, level, nodes, scores, beam_width=beam_width, constraint=constraint, select=select))
        nodes, total = levels[-1].nodes, levels[-1].log_prob
    return levels


def expand_leaves(
    trie: SemanticIdTrie, leaves: Beams, *, num_candidates: int, constraint: Constraint | None = None
) -> Candidates:
    """The items of the surviving leaves, ranked."""
    items = trie.leaf_items(leaves.nodes)  # [B, W, S]
    scores = leaves.log_prob.unsqueeze(2).masked_fill(items < 0, -torch.inf)
    if constraint is not None and trie.max_bucket > 1:  # an alive leaf of several items may hold a denied one
        scores = scores.masked_fill(~constraint.is_admissible(items), -torch.inf)
    items, scores = rank_items(items.flatten(1), scores.flatten(1), num_candidates)
    return Candidates(items, scores, scores)


def advance(
    trie: SemanticIdTrie,
    level: int,
    nodes: Tensor,
    scores: Tensor,
    *,
    beam_width: int,
    constraint: Constraint | None,
    select: Select = select_best,
) -> Beams:
    """The best children of all beams; beams stay in the order of their nodes, so a lower place is a lower node."""
    first, count = trie.child_ranges(level, nodes)
    width = trie.max_branching[level]
    if constraint is None:
        is_alive = torch.arange(width, device=nodes.device) < count.unsqueeze(2)
    else:
        is_alive = constraint.alive_children(level, nodes)
    scores = scores.masked_fill(~is_alive, -torch.inf).flatten(1)
    best, place = select(scores, min(beam_width, scores.shape[1]))
    is_live = best > -torch.inf
    parents = place // width
    children = torch.where(is_live, first.gather(1, parents) + place % width, -1)
    codes = trie.child_codes[level][children.clamp(min=0)].long() * is_live
    return Beams(children, best, parents, codes, is_bad=~(scores.amax(dim=1) < torch.inf))


def check_width(trie: SemanticIdTrie, beam_width: int, num_candidates: int) -> None:
    """Raises ConfigError unless a search of that width can return that many candidates."""
    if beam_width < 1:
        raise ConfigError("wrong beam width", expected="1 or more", found=beam_width)
    most = beam_width * trie.max_bucket
    if not 1 <= num_candidates <= most:
        raise ConfigError(
            f"a search of {beam_width} beams cannot return that many candidates",
            expected=f"1 to {most}",
            found=num_candidates,
            fix="widen the beam, or ask for fewer",
        )
