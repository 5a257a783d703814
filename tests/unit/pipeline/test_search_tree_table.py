"""The tree of a search as it is shown, and the target's way through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genrec.decoding.scorer import TableScorer
from genrec.decoding.tree_diagnosis import diagnose_tree
from genrec.decoding.tree_scorer import TableTreeScorer
from genrec.decoding.value_guided import ValueGuidedSettings, value_guided_search
from genrec.pipeline.search_tree_table import tree_facts, tree_table
from genrec.semantic_ids.trie import SemanticIdTrie

CODES = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]])
TRIE = SemanticIdTrie.build(CODES, (3, 3))


def facts_of(target: int, *, budget: int = 4, children: int = 9) -> dict[str, Any]:
    """The value leads to prefix 1, the policy to prefix 0."""
    tables = [torch.tensor([[[2.0, 0.0, 0.0]]]), torch.tensor([[[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])]
    values = [torch.tensor([[0.5]]), torch.tensor([[0.0, 1.0, 0.0]]), torch.zeros(1, 6)]
    scorer = TableTreeScorer(TableScorer(TRIE, tables), values)
    how = ValueGuidedSettings(budget, 1, entropy_weight=0.0, exploration=0.0)
    _, trace = value_guided_search(scorer, TRIE, torch.tensor([0]), how, num_candidates=1)
    diagnosis = diagnose_tree(TRIE, trace, torch.tensor([target]))

    def describe(depth: int, node: int, log_prob: float) -> dict[str, Any]:
        prefix = TRIE.prefix_codes(depth)[node].tolist()
        first, end = TRIE.item_ranges(depth, torch.tensor(node))
        return {
            "prefix": prefix,
            "num_items": int(end - first),
            "example": {"title": None, "item_id": f"item {prefix}"},
        }

    return tree_facts(trace, diagnosis, describe, children=children)


def test_a_target_in_the_tree_is_marked_on_its_whole_way() -> None:
    facts = facts_of(4)
    assert facts["lost_at_level"] is None
    assert [line["prefix"] for line in facts["lines"] if line["is_target"]] == [[], [1], [1, 1]]
    table = tree_table(facts)
    assert table.caption == "the target is in the tree"
    assert table.rows[0][0] == "root <- target"
    assert [row[0] for row in table.rows if row[0].endswith("target")] == [
        "root <- target",
        "  1 <- target",
        "    1-1 <- target",
    ]


def test_a_lost_target_is_lost_where_its_prefix_ends() -> None:
    facts = facts_of(2, budget=2)
    assert (facts["lost_at_level"], facts["last_prefix"], facts["num_children"]) == (2, [0], 3)
    added = sum(line["prefix"][:1] == [0] and line["depth"] == 2 for line in facts["lines"])
    assert added == facts["num_added"] < 3
    caption = tree_table(facts).caption
    assert (
        caption
        == f"the target was lost at level 2, below 0: {added} of its 3 children were added, the target's was not"
    )
    facts = facts_of(4, budget=2)  # the second prefix that was drawn is 2
    assert (facts["lost_at_level"], facts["last_prefix"]) == (1, [])
    assert "below the root: 2 of its 3 children" in tree_table(facts).caption


def test_lines_are_the_tree_depth_first() -> None:
    facts = facts_of(4)
    lines = facts["lines"]
    assert len(lines) == facts["num_nodes"]
    path: list[list[int]] = []
    for line in lines:
        del path[line["depth"] :]
        assert line["prefix"][:-1] == (path[-1] if path else [])
        path.append(line["prefix"])
    assert lines[0]["value"] == 0.5
    assert all((line["value"] is None) == (line["depth"] == 2) for line in lines)  # leaves are not forwarded


def test_few_children_are_shown_but_always_the_targets() -> None:
    whole = facts_of(2, budget=9)
    assert len(whole["lines"]) == whole["num_nodes"] == 10
    facts = facts_of(2, budget=9, children=1)
    assert [line["prefix"] for line in facts["lines"]] == [[], [0], [0, 2]]
    assert [line["num_hidden"] for line in facts["lines"]] == [2, 2, 0]
    assert tree_table(facts).rows[1][0] == "  0 (+2 more) <- target"
