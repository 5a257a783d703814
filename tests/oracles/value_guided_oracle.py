"""Value-guided search the slow way: one request, one prefix at a time, in dictionaries; docs/methods.md section 4.

Log-probabilities are numpy.float32, added from the root down, everything else Python floats, so that trees can be
compared node by node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Prefix = tuple[int, ...]


class Reading(NamedTuple):
    """What the model says of a prefix: its value, its entropy, and the codes that may follow with their log_prob."""

    value: float
    entropy: float
    children: Mapping[int, np.float32]


@dataclass
class Node:
    prefix: Prefix
    log_prob: np.float32
    round: int
    visits: int = 0
    reading: Reading | None = None
    left: dict[int, np.float32] = field(default_factory=dict)  # admissible and possible children that are not in yet


class Budget(NamedTuple):
    nodes: int
    width: int = 8
    entropy_weight: float = 0.1
    exploration: float = 1.0
    forwards_leaves: bool = False
    selections_per_round: int = 1


def search(
    read: Callable[[Prefix], Reading],
    noise: Callable[[Prefix], float],
    is_alive: Callable[[Prefix], bool],
    num_levels: int,
    budget: Budget,
) -> dict[Prefix, Node]:
    """The tree, in the order in which its nodes came in."""
    growing = Growing(read, is_alive, num_levels, budget)
    growing.plant()
    number = 0
    while growing.goes_on():
        number += 1
        growing.play_round(noise, number)
    return growing.tree


class Growing:
    def __init__(
        self, read: Callable[[Prefix], Reading], is_alive: Callable[[Prefix], bool], num_levels: int, budget: Budget
    ) -> None:
        self.read, self.is_alive, self.num_levels, self.budget = read, is_alive, num_levels, budget
        self.tree: dict[Prefix, Node] = {(): Node((), np.float32(0), 0)}
        self.spent = 0
        self.forward(self.tree[()])

    def goes_on(self) -> bool:
        return self.spent < self.budget.nodes and any(node.left for node in self.tree.values())

    def costs(self, node: Node) -> bool:
        return len(node.prefix) < self.num_levels or self.budget.forwards_leaves

    def forward(self, node: Node) -> None:
        node.reading = self.read(node.prefix)
        for code, log_prob in node.reading.children.items():
            if log_prob > -np.inf and self.is_alive((*node.prefix, code)):
                node.left[code] = log_prob

    def add(self, parent: Node, code: int, number: int) -> Node:
        child = Node((*parent.prefix, code), parent.log_prob + parent.left.pop(code), number)
        self.tree[child.prefix] = child
        return child

    def plant(self) -> None:
        beams = [self.tree[()]]
        for _ in range(self.num_levels):
            found = [(beam, code, beam.log_prob + log_prob) for beam in beams for code, log_prob in beam.left.items()]
            best = sorted(found, key=lambda one: (-one[2], (*one[0].prefix, one[1])))[: self.budget.width]
            beams = [
                self.add(beam, code, 0) for beam, code, _ in sorted(best, key=lambda one: (*one[0].prefix, one[1]))
            ]
            for beam in filter(self.costs, beams):
                self.forward(beam)
                self.spent += 1
        for beam in beams:
            count_visit(self.tree, beam.prefix)

    def play_round(self, noise: Callable[[Prefix], float], number: int) -> None:
        pending = []
        for _ in range(self.budget.selections_per_round):
            if self.goes_on():
                node = select(self.tree, self.budget)
                keys = {code: float(log_prob) + noise((*node.prefix, code)) for code, log_prob in node.left.items()}
                child = self.add(node, max(keys, key=keys.__getitem__), number)
                count_visit(self.tree, child.prefix)
                if self.costs(child):
                    pending.append(child)
                    self.spent += 1
        for child in pending:
            self.forward(child)


def select(tree: Mapping[Prefix, Node], budget: Budget) -> Node:
    """The node to expand; those passed over on the way to it get their visit."""
    num_visits = tree[()].visits

    def priority(node: Node) -> float:
        assert node.reading is not None
        return node.reading.value + budget.entropy_weight * node.reading.entropy

    def promise(node: Node) -> float:
        return priority(node) + budget.exploration * math.sqrt(math.log(num_visits + 1) / (node.visits + 1))

    opened = [node for node in tree.values() if node.left]
    by_depth: dict[int, list[float]] = {}
    for node in opened:
        by_depth.setdefault(len(node.prefix), []).append(priority(node))
    means = {depth: math.fsum(found) / len(found) for depth, found in by_depth.items()}
    ranked = sorted(opened, key=lambda node: (-promise(node), -len(node.prefix), node.prefix))
    for place, node in enumerate(ranked):
        mean = means[len(node.prefix)]
        if priority(node) >= mean - 1e-9 * (1 + abs(mean)):
            for passed in ranked[:place]:
                passed.visits += 1
            return node
    raise AssertionError("the best of a depth is not below its mean")


def count_visit(tree: Mapping[Prefix, Node], prefix: Prefix) -> None:
    for length in range(len(prefix) + 1):
        tree[prefix[:length]].visits += 1


def entropy(log_probs: list[float]) -> float:
    """Of what is left of a distribution, made to sum to one."""
    weights = [math.exp(value) for value in log_probs if value > -math.inf]
    return -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights) if weights else 0.0
