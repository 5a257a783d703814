"""Speed of value-guided search, as a ratio to the same search of one request and one prefix at a time.

Requests per CPU second on the hierarchical recommender of Office (2 layers, width 128, every item trained, random
weights) with a value head of random weights; 64 prefixes a request, 8 initial beams, one selection a round, float32,
one thread, alternating in one process:

- ours: a batch of 64 requests, one call of the model a round;
- plain: the oracle of the tests, dictionaries of prefixes, which has the model read one prefix of one request at a time
  by `step`; it gets the noise for nothing.

Both start from histories that have been encoded, ours as a batch. Before anything is timed, the trees of all requests
are compared: the same prefixes in the same order, the same visits. A beam search that forwards as many prefixes
(21 beams) is timed beside them. With a joint depth of all codes and a transition memory a prefix costs a look-up, and
the trees are what is measured; that ratio has no bound.

Office comes from GENREC_DATA; without it, random sequences and codes of the same sizes are used.

    python benchmarks/value_guided.py [DATA_ROOT]

Prints one JSON line; exit code 1 if a ratio is below its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from office import SIZES, Work, build_hierarchical, keep_freed_memory, load_office, measure

from genrec.decoding.beam_search import beam_search
from genrec.decoding.growth import entropy, node_noise
from genrec.decoding.search_tree import SearchTrace
from genrec.decoding.value_guided import value_guided_search
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.models.code_decoder import Users
from genrec.models.hierarchical_trees import HierarchicalTreeScorer
from genrec.models.settings import ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

from oracles.value_guided_oracle import Budget, Node, Prefix, Reading, search  # noqa: E402

BATCH, HISTORY, SEED, NODES = 64, 50, 7, 64
KINDS = ("with_nodes", "joint_memory")
LIMITS = {"with_nodes": 10.0}
SETTINGS = ValueGuidedSettings(node_budget=NODES)


class Catalogue:
    """The trie in dictionaries: the number of each prefix and the codes that may follow it."""

    def __init__(self, trie: SemanticIdTrie) -> None:
        self.trie = trie
        prefixes = [[tuple(row) for row in trie.prefix_codes(depth).tolist()] for depth in range(trie.num_levels + 1)]
        self.nodes: dict[Prefix, int] = {prefix: node for of_depth in prefixes for node, prefix in enumerate(of_depth)}
        self.codes: dict[Prefix, list[int]] = {prefix: [] for prefix in self.nodes}
        for prefix in self.nodes:
            if prefix:
                self.codes[prefix[:-1]].append(prefix[-1])
        for codes in self.codes.values():
            codes.sort()


def reader(scorer: HierarchicalTreeScorer, catalogue: Catalogue, context: Any) -> Callable[[Prefix], Reading]:
    """Reads one prefix of one request at a time; its parent has been read before."""
    model, head = scorer.model, scorer.head
    states: dict[Prefix, Any] = {}
    zero = torch.zeros(1, 1, dtype=torch.int64)

    def read(prefix: Prefix) -> Reading:
        if prefix:
            above, sums, total, children = states[prefix[:-1]]
            codes, nodes = torch.tensor([[prefix[-1]]]), torch.tensor([[catalogue.nodes[prefix]]])
            log_probs, state = model.step(len(prefix), above, zero, codes, nodes)
            sums = sums + head.token(len(prefix) - 1, codes)
            total = total + children[prefix[-1]]
        else:
            log_probs, state = model.start(context)
            sums, total = torch.zeros_like(context.state).unsqueeze(1), np.float32(0)
        depth = torch.tensor([[len(prefix)]])
        value = head(context.state.unsqueeze(1), sums, depth, torch.tensor([[total]]))
        own = log_probs[0, 0].numpy()
        children = dict(zip(catalogue.codes[prefix], own, strict=False))
        states[prefix] = (state, sums, total, children)
        return Reading(float(value), float(entropy(log_probs[0, 0])), children)

    return read


def plain_trees(
    scorer: HierarchicalTreeScorer,
    catalogue: Catalogue,
    contexts: list[Any],
    noise: list[dict[Prefix, float]],
) -> list[dict[Prefix, Node]]:
    """The trees of all requests, one after the other."""
    budget = Budget(SETTINGS.node_budget, SETTINGS.initial_width, SETTINGS.entropy_weight, SETTINGS.exploration)
    return [
        search(reader(scorer, catalogue, context), own.__getitem__, lambda _: True, len(SIZES), budget)
        for context, own in zip(contexts, noise, strict=True)
    ]


def noise_of(catalogue: Catalogue, request: int) -> dict[Prefix, float]:
    """The noise of every prefix."""
    found: dict[Prefix, float] = {}
    by_depth: dict[int, list[Prefix]] = {}
    for prefix in catalogue.nodes:
        by_depth.setdefault(len(prefix), []).append(prefix)
    for depth, prefixes in by_depth.items():
        nodes = torch.tensor([catalogue.nodes[prefix] for prefix in prefixes]).view(1, 1, -1)
        noise = node_noise(SEED, torch.tensor([request]), torch.tensor([[depth]]), nodes).flatten()
        found |= dict(zip(prefixes, noise.tolist(), strict=True))
    return found


def check_equal(catalogue: Catalogue, trace: SearchTrace, trees: list[dict[Prefix, Node]]) -> None:
    """Asserts that all trees hold the same prefixes in the same order with the same visits."""
    for request, tree in enumerate(trees):
        count = int(trace.num_nodes[request])
        pairs = zip(trace.depths[request, :count].tolist(), trace.nodes[request, :count].tolist(), strict=True)
        assert [(len(prefix), catalogue.nodes[prefix]) for prefix in tree] == list(pairs), f"request {request}: nodes"
        visits = [node.visits for node in tree.values()]
        assert visits == trace.visits[request, :count].tolist(), f"request {request}: visits"


def scorer_of(sequences: list[list[int]], trie: SemanticIdTrie, kind: str) -> HierarchicalTreeScorer:
    model = build_hierarchical(sequences, trie, history=HISTORY, kind=kind).eval()
    head = ValueHead(trie, ValueHeadSettings(width=model.settings.width)).eval()
    torch.nn.init.normal_(head.weight, std=0.1)
    return HierarchicalTreeScorer(model, head)


@torch.inference_mode()
def compare(sequences: list[list[int]], codes: np.ndarray, kind: str, repetitions: int) -> dict[str, float]:
    """Requests per CPU second of each, and calls of the model by ours."""
    trie = SemanticIdTrie.build(codes, SIZES)
    catalogue, scorer = Catalogue(trie), scorer_of(sequences, trie, kind)
    users = generator(1).choice(len(sequences), BATCH, replace=False)
    histories = [torch.tensor(sequences[user][:-1][-HISTORY:]) for user in users]
    padded = torch.nn.utils.rnn.pad_sequence(histories, batch_first=True, padding_value=-1)
    context = scorer.encode(padded, torch.tensor([*map(len, histories)]))
    contexts = [
        Users(context.state[row : row + 1], None if context.sums is None else context.sums[row : row + 1])
        for row in range(BATCH)
    ]
    noise = [noise_of(catalogue, request) for request in range(BATCH)]

    def ours() -> SearchTrace:
        return value_guided_search(scorer, trie, context, SETTINGS, num_candidates=20, seed=SEED)[1]

    def count(work: Callable[[], Any]) -> Work:
        def counted() -> int:
            work()
            return BATCH

        return counted

    trace = ours()
    check_equal(catalogue, trace, plain_trees(scorer, catalogue, contexts, noise))
    width = NODES // (trie.num_levels - 1)

    def beam() -> Any:
        return beam_search(scorer.model, trie, context, beam_width=width, num_candidates=width)

    works = {
        "ours": count(ours),
        "plain": count(lambda: plain_trees(scorer, catalogue, contexts, noise)),
        "beam_search": count(beam),
    }
    return {**measure(works, repetitions), "calls": trace.num_calls}


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of value-guided search against one prefix at a time.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences, codes = load_office(arguments.data_root)
    speeds = {kind: compare(sequences, codes, kind, arguments.repetitions) for kind in KINDS}
    ratios = {kind: found["ours"] / found["plain"] for kind, found in speeds.items()}
    result = {
        "benchmark": "value_guided",
        "data": data,
        "ratio": {kind: round(ratio, 1) for kind, ratio in ratios.items()},
        "requests_per_cpu_s": {
            kind: {name: round(speed, 1) for name, speed in found.items()} for kind, found in speeds.items()
        },
        "limits": LIMITS,
        "repetitions": arguments.repetitions,
        "torch": torch.__version__,
    }
    print(json.dumps(result))
    return int(any(ratios[kind] < limit for kind, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
