"""Every case of ``genrec diagnose``, looked at: arrays with one row a case, which become cases.parquet and the facts.

Runs searches; draws no conclusions.
"""
# C cases, B of them at once, L levels, W beams, k items of a list, n_d nodes of depth d, N items

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.data.sequences import Cases
from genrec.decoding.diagnosis import SearchDiagnosis, diagnose_search, judge, places_by
from genrec.decoding.exhaustive import keep_admissible, score_prefixes
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.regret import list_faults, list_regret
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.evaluation.dense_index import DenseIndex
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.terminal import Progress

Columns = dict[str, np.ndarray]
_EXACT_NODES = 1 << 18  # prefixes of one level that are scored at once


@dataclass(frozen=True)
class Look:
    """How cases are looked at.

    Attributes:
        generator: the search.
        counts: [N] training interactions of each item.
        k: items of the list that is judged.
        exclude_seen: leave out the items of the history.
        exact: compare with scores of all items.
    """

    generator: CandidateGenerator
    counts: np.ndarray
    k: int
    exclude_seen: bool
    exact: bool

    @property
    def trie(self) -> SemanticIdTrie:
        return self.generator.trie

    @property
    def num_candidates(self) -> int:
        """All that the last beams hold."""
        return self.generator.beam_width * self.trie.max_bucket

    @property
    def batch_size(self) -> int:
        """Of the generator, but no more than keeps an exact scoring within its memory."""
        if not self.exact:
            return self.generator.batch_size
        widest = max(self.trie.num_nodes(depth) for depth in range(1, self.trie.num_levels + 1))
        return max(1, min(self.generator.batch_size, _EXACT_NODES // widest))


def look_at_cases(look: Look, cases: Cases, *, progress: Progress) -> Columns:
    """What the beam search does with each case.

    Returns:
        user_index, target; verdict of the list of k, place in the list of all beams (from 0, -1: not there), lost_at
        (level from 0; -1: kept), log_prob of the target, top_prob and list_prob (of the first item and of the first k
        together), counts of faults of the list; lists [C, k] of item_index; by level [C, L] place and log_prob of the
        target's prefix, gap, shared codes and interactions of the rival where there is one (see `displaced`),
        trained (an item with training interactions is below the prefix). With exact scores also exact_place,
        sufficient_width, the regret of the list, and by level exact_prefix_place.
    """
    below = [torch.from_numpy(counts) for counts in _interactions_below(look.trie, look.counts)]
    parts = []
    for some in batches(cases, look.batch_size):
        parts.append(_look(look, some, below))
        progress("search", sum(len(part["target"]) for part in parts), len(cases))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@torch.inference_mode()
def _look(look: Look, cases: Cases, below: list[Tensor]) -> Columns:
    generator, trie = look.generator, look.trie
    context, constraint, _ = generator.read(cases.histories, exclude_seen=look.exclude_seen)
    targets = torch.from_numpy(cases.target.astype(np.int64)).to(trie.device)
    found = diagnose_search(
        *(generator.scorer, trie, context, targets),
        beam_width=generator.beam_width,
        num_candidates=look.num_candidates,
        constraint=constraint,
    )
    items, log_probs = found.candidates.item_index, found.candidates.log_prob
    columns: dict[str, Any] = {
        "place": found.target_place,
        "lost_at": found.lost_at,
        "log_prob": found.target_log_prob,
        "top_prob": log_probs[:, 0].exp(),
        "list_prob": log_probs[:, : look.k].exp().sum(dim=1),
        "lists": items[:, : look.k],
        "level_place": torch.stack([level.target_place for level in found.levels], dim=1),
        "level_log_prob": torch.stack([level.target_log_prob for level in found.levels], dim=1),
        **_rivals(trie, found, below),
        **list_faults(items, trie.num_items, constraint)._asdict(),
    }
    exact = None
    if look.exact:
        scores = score_prefixes(generator.scorer, trie, context)
        exact = places_by(scores, trie, targets, constraint=constraint)
        of_items = keep_admissible(scores[-1][:, trie.item_leaves], constraint)
        regret = list_regret(of_items, items[:, : look.k])
        columns |= {f"regret_{name}": column for name, column in regret._asdict().items()}
        columns |= {"exact_place": exact.items, "sufficient_width": exact.sufficient_width}
        columns["exact_prefix_place"] = exact.prefixes
    arrays = {name: column.cpu().numpy() for name, column in columns.items()}
    verdicts = np.array(judge(found.cut(look.k), exact))
    return {"user_index": cases.user_index, "target": cases.target, "verdict": verdicts, **arrays}


def _rivals(trie: SemanticIdTrie, found: SearchDiagnosis, below: list[Tensor]) -> dict[str, Tensor]:
    """By level, what the last prefix that was kept has over the target's, where that was lost to it."""
    gaps, shared, rival_counts, own_counts, trained = [], [], [], [], []
    for depth, level in enumerate(found.levels):
        is_here = (found.lost_at == depth) & (found.rivals >= 0)
        rival = torch.where(is_here, found.rivals, 0)
        gap = level.log_prob[:, -1] - level.target_log_prob
        gaps.append(torch.where(is_here, gap, torch.nan))
        codes = trie.prefix_codes(depth + 1)
        is_equal = codes[rival] == codes[level.target_node]
        shared.append(is_equal.long().cumprod(dim=1).sum(dim=1))
        rival_counts.append(below[depth][rival])
        own_counts.append(below[depth][level.target_node])
        trained.append(below[depth][level.target_node] > 0)
    columns = {"gap": gaps, "shared": shared, "rival_count": rival_counts, "own_count": own_counts, "trained": trained}
    return {name: torch.stack(parts, dim=1) for name, parts in columns.items()}


def _interactions_below(trie: SemanticIdTrie, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Training interactions below every node of depth 1 to L."""
    before = np.concatenate([[0], np.cumsum(counts[trie.item_order.numpy()])])
    for offsets in trie.item_offsets[1:]:
        yield np.diff(before[offsets.numpy()])


@torch.inference_mode()
def look_at_trees(
    generator: ValueGuidedGenerator, cases: Cases, *, exclude_seen: bool, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the tree of a search by value holds the target, [C] bool, and the prefixes that it reads, [C] int64."""
    found, forwarded = [], []
    for some in batches(cases, generator.batch_size):
        trace = generator.grow(some.histories, 1, exclude_seen=exclude_seen)[1]
        targets = torch.from_numpy(some.target.astype(np.int64)).to(generator.trie.device)
        leaves = generator.trie.item_leaves[targets].unsqueeze(1)
        is_target = (trace.nodes == leaves) & (trace.depths == generator.trie.num_levels)
        found.append(is_target.any(dim=1).cpu().numpy())
        forwarded.append(trace.num_forwarded.cpu().numpy())
        progress(f"value {generator.settings.node_budget}", sum(map(len, found)), len(cases))
    return np.concatenate(found), np.concatenate(forwarded)


def nearest_items(vectors: np.ndarray, num_near: int, *, chunk: int = 1024) -> np.ndarray:
    """The other items with the largest cosines to each item, nearest first, equal ones by index; [N, m], -1 as padding.

    Args:
        vectors: float32 [N, E]; a vector of zeros has the cosine 0 with all.
        num_near: m.
        chunk: items searched at once.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = torch.from_numpy(vectors / np.where(lengths > 0, lengths, 1))
    index, parts = DenseIndex(unit), []
    for start in range(0, len(unit), chunk):
        own = torch.arange(start, min(start + chunk, len(unit))).unsqueeze(1)
        parts.append(index.search(unit[start : start + chunk], num_near, deny=own).item_index.numpy())
    return np.concatenate(parts)


def batches(cases: Cases, size: int) -> Iterator[Cases]:
    """The cases in their order, so many at once."""
    for start in range(0, len(cases), size):
        yield cases.take(slice(start, start + size))
