"""Speed of constrained beam search, as a ratio to the generation of transformers' T5 of the size that APAO trains.

Users per CPU second, 20 beams and 20 items each, batches of 64 users, float32, one thread, alternating in one process:

- the hierarchical recommender (2 layers, width 128, history 50, trie normalisation, every item trained) with and
  without trie-node embeddings, with a joint depth of 4, and with that and a transition memory: padded matrices of item
  indices are encoded and searched, item indices come out;
- T5 (4 + 4 layers, width 128, feed-forward 1024, 6 heads of 64): `generate` on the tokens of the history, 4 an item,
  padded to the longest of the batch. 4 codes and the end token, the trie as a dict behind `prefix_allowed_tokens_fn`.
  Its tokens are left as they are; looking their items up is not counted.

The users are the same in the batches that both do. All but the last item of each is history; ours reads the last 50
of it, T5 the last 20, as APAO does: ours reads more. Weights are random; the shapes do not depend on them. Before
anything is timed, all lists are checked: 20 different items of the catalogue. Freed memory stays in the process, so
that T5 does not pay for page faults.

Office comes from GENREC_DATA; without it, random sequences and codes of the same sizes are used. Needs `transformers`,
which genrec does not: without it the benchmark says so and leaves with 0.

    python benchmarks/beam_search.py [DATA_ROOT]

Prints one JSON line; exit code 1 if a ratio is below its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from office import (
    END,
    PADDING,
    SIZES,
    Work,
    build_hierarchical,
    build_t5,
    keep_freed_memory,
    load_office,
    measure,
    t5_inputs,
    t5_tokens,
)
from torch import Tensor

from genrec.decoding.beam_search import beam_search
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

PROJECT = Path(__file__).resolve().parent.parent
BATCH, BEAMS, HISTORY = 64, 20, 50
LIMITS = {"with_nodes": 30.0, "without_nodes": 50.0, "joint": 30.0, "joint_memory": 30.0}
Search = Callable[[tuple[Tensor, ...]], Tensor]  # from the inputs of a batch to what was found, [BATCH, BEAMS, ...]


def item_inputs(histories: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Item indices, padded with -1, and lengths."""
    rows = [torch.tensor(history[-HISTORY:]) for history in histories]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1), torch.tensor([*map(len, rows)])


def hierarchical_search(sequences: list[list[int]], trie: SemanticIdTrie, kind: str) -> Search:
    model = build_hierarchical(sequences, trie, history=HISTORY, kind=kind).eval()

    def search(inputs: tuple[Tensor, ...]) -> Tensor:
        context = model.encode(*inputs)
        return beam_search(model, trie, context, beam_width=BEAMS, num_candidates=BEAMS).item_index

    return search


def t5_search(tokens: Tensor, *, beams: int = BEAMS) -> Search:
    model = build_t5().eval()
    after: dict[tuple[int, ...], dict[int, None]] = {}  # what may come after a prefix, as sets that keep their order
    for row in tokens.tolist():
        path = (PADDING, *row, END)
        for depth in range(1, len(path)):
            after.setdefault(path[:depth], {})[path[depth]] = None
    allowed = {prefix: list(choices) for prefix, choices in after.items()}

    def search(inputs: tuple[Tensor, ...]) -> Tensor:
        (input_ids,) = inputs
        found = model.generate(
            input_ids=input_ids,
            attention_mask=(input_ids != PADDING).long(),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=tokens.shape[1] + 1,
            prefix_allowed_tokens_fn=lambda _, sentence: allowed[tuple(sentence.tolist())],
        )
        return found.view(len(input_ids), beams, -1)

    return search


def check_lists(lists: list[list[tuple[int, ...]]], catalogue: set[tuple[int, ...]]) -> None:
    """Asserts that every user has as many different items as there are beams, all from the catalogue."""
    for row in lists:
        assert len(set(row)) == BEAMS, "an item twice, or too few"
        assert catalogue.issuperset(row), "an item that is not in the catalogue"


def timed(search: Search, batches: list[tuple[Tensor, ...]]) -> Work:
    def work() -> int:
        for inputs in batches:
            search(inputs)
        return BATCH * len(batches)

    return work


@torch.inference_mode()
def compare(sequences: list[list[int]], codes: np.ndarray, *, batches: int, repetitions: int) -> dict[str, float]:
    """Users per CPU second of each."""
    trie, tokens = SemanticIdTrie.build(codes, SIZES), t5_tokens(codes)
    users = generator(1).choice(len(sequences), (batches, BATCH), replace=False)
    histories = [[sequences[user][:-1] for user in some] for some in users]
    ours: list[tuple[Tensor, ...]] = [item_inputs(some) for some in histories]
    theirs: list[tuple[Tensor, ...]] = [(t5_inputs(tokens, some),) for some in histories[: max(1, batches // 20)]]
    works: dict[str, Work] = {}
    for name in LIMITS:
        search = hierarchical_search(sequences, trie, name)
        for inputs in ours:
            lists = [[(item,) for item in row] for row in search(inputs).tolist()]
            check_lists(lists, {(item,) for item in range(trie.num_items)})
        works[name] = timed(search, ours)
    search = t5_search(tokens)
    for inputs in theirs:
        lists = [[tuple(row) for row in rows] for rows in search(inputs).tolist()]
        check_lists(lists, {(PADDING, *row, END) for row in tokens.tolist()})
    works["t5"] = timed(search, theirs)
    return measure(works, repetitions)


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of constrained beam search against T5's generation.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="of ours in a repetition; T5 does a twentieth")
    arguments = parser.parse_args()
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("skipped: transformers is not installed; pip install transformers")
        return 0
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences, codes = load_office(arguments.data_root)
    speeds = compare(sequences, codes, batches=arguments.batches, repetitions=arguments.repetitions)
    ratios = {name: speeds[name] / speeds["t5"] for name in LIMITS}
    result = {
        "benchmark": "beam_search",
        "data": data,
        "ratio": {name: round(ratio, 1) for name, ratio in ratios.items()},
        "users_per_cpu_s": {name: round(speed, 1) for name, speed in speeds.items()},
        "limits": LIMITS,
        "repetitions": arguments.repetitions,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(result))
    return int(any(ratios[name] < limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
