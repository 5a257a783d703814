"""Searches the slow way: dicts of prefixes, sorting and loops; and tables to search in.

Scores are numpy.float32, added in the order of the levels, so that they can be compared bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set

import numpy as np
import torch

from genrec.decoding.scorer import TableScorer
from genrec.semantic_ids.trie import SemanticIdTrie
from oracles import trie_oracle
from oracles.trie_oracle import Prefix

LogProbs = Mapping[Prefix, Mapping[int, np.float32]]  # prefix -> next code -> log-probability
Ranked = list[tuple[int, np.float32]]
Scored = tuple[Prefix, np.float32]

TABLE_KINDS = ("normal", "few_values", "equal", "impossible")


def random_tables(trie: SemanticIdTrie, kind: str, seed: int, *, num_tables: int = 1) -> list[torch.Tensor]:
    """Logits for a `TableScorer`: without ties, with many, with nothing else, or with codes of probability zero."""
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for level, size in enumerate(trie.codebook_sizes):
        shape = (num_tables, trie.num_nodes(level), size)
        logits = 2 * torch.randn(shape, generator=generator)
        if kind == "few_values":
            logits = torch.randint(0, 2, shape, generator=generator).float()
        elif kind == "equal":
            logits = torch.zeros(shape)
        elif kind == "impossible":
            # the first child of a node is always possible, so that the softmax over children exists
            first = trie.children(level, torch.arange(trie.num_nodes(level))).codes[:, :1].expand(num_tables, -1, 1)
            is_impossible = (torch.rand(shape, generator=generator) < 0.3).scatter(2, first, False)
            logits = logits.masked_fill(is_impossible, -torch.inf)
        tables.append(logits)
    return tables


def child_log_probs(
    rows: Sequence[Prefix], tables: Sequence[list], normalisation: str
) -> dict[Prefix, dict[int, float]]:
    """Softmax of one table's logits [nodes][codes], in Python floats."""
    root, found = trie_oracle.build(rows), {}
    for depth, table in enumerate(tables):
        for logits, prefix in zip(table, trie_oracle.prefixes(root, depth), strict=True):
            codes = trie_oracle.children(root, prefix)
            counted = codes if normalisation == "trie" else range(len(logits))
            total = math.log(sum(math.exp(logits[code]) for code in counted))
            found[prefix] = {code: logits[code] - total for code in codes}
    return found


def read_log_probs(scorer: TableScorer, rows: Sequence[Prefix], table: int) -> LogProbs:
    """The scorer's own float32 numbers, by prefix."""
    root, found = trie_oracle.build(rows), {}
    for depth, log_probs in enumerate(scorer.log_probs):
        for scores, prefix in zip(log_probs[table].numpy(), trie_oracle.prefixes(root, depth), strict=True):
            codes = trie_oracle.children(root, prefix)
            found[prefix] = dict(zip(codes, scores[: len(codes)], strict=True))
    return found


def item_scores(rows: Sequence[Prefix], log_probs: LogProbs) -> list[np.float32]:
    scores = []
    for row in rows:
        total = np.float32(0)
        for depth, code in enumerate(row):
            total = total + log_probs[row[:depth]][code]
        scores.append(total)
    return scores


def ranked(scores: Mapping[int, np.float32], k: int) -> Ranked:
    possible = [(item, score) for item, score in scores.items() if score > -np.inf]
    return sorted(possible, key=lambda pair: (-pair[1], pair[0]))[:k]


def exhaustive(rows: Sequence[Prefix], log_probs: LogProbs, k: int, admissible: Set[int]) -> Ranked:
    scores = item_scores(rows, log_probs)
    return ranked({item: scores[item] for item in admissible}, k)


def beam_levels(rows: Sequence[Prefix], log_probs: LogProbs, width: int, admissible: Set[int]) -> list[list[Scored]]:
    """The prefixes that are kept at each level, best first."""
    root = trie_oracle.build(rows)
    beams: list[Scored] = [((), np.float32(0))]
    levels = []
    for _ in range(len(rows[0])):
        candidates = []
        for prefix, score in beams:
            for code in trie_oracle.children(root, prefix):
                longer = (*prefix, code)
                total = score + log_probs[prefix][code]
                if total > -np.inf and admissible & set(trie_oracle.items(root, longer)):
                    candidates.append((longer, total))
        beams = sorted(candidates, key=lambda pair: (-pair[1], pair[0]))[:width]
        levels.append(beams)
    return levels


def beam_search(rows: Sequence[Prefix], log_probs: LogProbs, width: int, k: int, admissible: Set[int]) -> Ranked:
    root, beams = trie_oracle.build(rows), beam_levels(rows, log_probs, width, admissible)[-1]
    found = {item: score for prefix, score in beams for item in trie_oracle.items(root, prefix) if item in admissible}
    return ranked(found, k)
