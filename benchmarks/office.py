"""What the benchmarks against transformers' T5 share: Office, T5 of the size that APAO trains, and speeds by CPU time.

Not a benchmark; run as a script, it does nothing.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.baselines.base import count_items
from genrec.baselines.item_knn import DirectedItemKnn
from genrec.data.sequences import Ragged
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.settings import HierarchicalSettings, MemorySettings
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie

SIZES = (256, 256, 256, 256)
USERS, ITEMS, EVENTS = 4905, 2420, 53_258
T5_HISTORY = 20
KINDS: dict[str, dict[str, Any]] = {
    "with_nodes": {},
    "without_nodes": {"node_embeddings": False},
    "joint": {"joint_depth": 4},  # one softmax over all items
    "joint_memory": {"joint_depth": 4, "memory": MemorySettings(followers=256)},
}
PADDING, END = 0, 1  # tokens of T5; the codes of the levels follow
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names of malloc.h
Work = Callable[[], int]  # does some batches and says how many things (targets, users) that were


def load_office(data_root: Path) -> tuple[str, list[list[int]], np.ndarray]:
    """Kind, sequences and codes: the real ones if they are there, else random ones of the same sizes."""
    folder = data_root / "apao_office"
    return ("office", *read_office(folder)) if folder.is_dir() else ("random", *draw_office())


def read_office(folder: Path) -> tuple[list[list[int]], np.ndarray]:
    with gzip.open(folder / "Office.inter.json.gz", "rt") as file:
        sequences = list(json.load(file).values())
    table = json.loads((folder / "Office.index.rq-kmeans.json").read_text())
    codes = [[int(re.sub(r"\D", "", token)) for token in table[str(item)]] for item in range(len(table))]
    return sequences, np.array(codes, dtype=np.int32)


def draw_office() -> tuple[list[list[int]], np.ndarray]:
    """Sequences of 5 items and a geometric rest; codes that branch about as those of Office do."""
    rng = generator(0)
    lengths = 4 + rng.geometric(1 / (EVENTS / USERS - 4), USERS)
    sequences = [rng.integers(ITEMS, size=length).tolist() for length in lengths]
    codes = np.stack([rng.integers(size, size=ITEMS) for size in (256, 6, 3, 2)], axis=1)
    return sequences, codes.astype(np.int32)


def build_hierarchical(sequences: list[list[int]], trie: SemanticIdTrie, *, history: int, kind: str) -> Any:
    """2 layers, width 128, trie normalisation, every item trained; a kind of `KINDS`."""
    torch.manual_seed(0)
    model = HierarchicalRecommender(trie, HierarchicalSettings(history_length=history, **KINDS[kind]))
    everything = torch.ones(trie.num_items, dtype=torch.bool)
    model.mark_trained(everything, everything)
    if model.memory is not None:
        histories = Ragged.from_lists(sequences)
        knn = DirectedItemKnn().fit(histories, num_items=trie.num_items)
        model.remember(knn.similarity_, count_items(histories, trie.num_items))
    return model


def build_t5() -> Any:
    """4 + 4 layers, width 128, feed-forward 1024, 6 heads of 64; needs transformers."""
    from transformers import T5Config, T5ForConditionalGeneration  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=2 + sum(SIZES),
        d_model=128,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=6,
        decoder_start_token_id=PADDING,
        pad_token_id=PADDING,
        eos_token_id=END,
    )
    return T5ForConditionalGeneration(config)


def t5_tokens(codes: np.ndarray) -> Tensor:
    """The 4 tokens of each item."""
    return torch.from_numpy(codes + 2 + 256 * np.arange(4)).long()


def t5_inputs(tokens: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
    """The tokens of the last 20 items of each history, padded to the longest of the batch."""
    longest = min(T5_HISTORY, max(map(len, histories)))
    input_ids = torch.full((len(histories), longest, 4), PADDING)
    for row, history in enumerate(histories):
        last = list(history[-T5_HISTORY:])
        input_ids[row, : len(last)] = tokens[last]
    return input_ids.flatten(1)


def keep_freed_memory() -> None:
    """Stops glibc from giving memory back to the system, to be called before the first big tensor.

    T5's caches of gigabytes would be mapped anew in every step. On a virtual machine page faults were 2/3 of its time
    in generation, which flattered the ratio threefold and made it swing from run to run.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has none
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)


def measure(works: dict[str, Work], repetitions: int) -> dict[str, float]:
    """Things per second of CPU time, medians; the works alternate, so that all meet the same disturbance."""
    for work in works.values():
        work()
    runs = [{name: _per_second(work) for name, work in works.items()} for _ in range(repetitions)]
    return {name: statistics.median(run[name] for run in runs) for name in works}


def _per_second(work: Work) -> float:
    start = time.process_time()
    return work() / (time.process_time() - start)
