"""A trie the slow way: dicts of dicts, with the items in a list at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Prefix = tuple[int, ...]


def build(rows: Sequence[Prefix]) -> dict[int, Any]:
    root: dict[int, Any] = {}
    for item, row in enumerate(rows):
        node = root
        for code in row[:-1]:
            node = node.setdefault(code, {})
        node.setdefault(row[-1], []).append(item)
    return root


def prefixes(root: dict[int, Any], depth: int) -> list[Prefix]:
    """All prefixes of a length, sorted: their places are the numbers of the nodes."""
    found: list[tuple[Prefix, Any]] = [((), root)]
    for _ in range(depth):
        found = [((*prefix, code), node[code]) for prefix, node in found for code in sorted(node)]
    return [prefix for prefix, _ in found]


def at(root: dict[int, Any], prefix: Prefix) -> Any:
    node: Any = root
    for code in prefix:
        node = node[code]
    return node


def children(root: dict[int, Any], prefix: Prefix) -> list[int]:
    return sorted(at(root, prefix))


def items(root: dict[int, Any], prefix: Prefix) -> list[int]:
    """Items under a prefix in the order of (codes, item_index)."""
    node = at(root, prefix)
    if isinstance(node, list):
        return sorted(node)
    return [item for code in sorted(node) for item in items(root, (*prefix, code))]
