"""One request on a CPU: what is exported of a search, as ratios to the eager one and to transformers' generation.

    OMP_NUM_THREADS=1 python benchmarks/export.py [--bundle DIR --recommender DIR --dataset DIR] [--value-guided]
        [--torch] [--transformers]

Without folders: an untrained recommender of the size of Beauty's best one, with random codes and a random memory, which
is exported first (a minute or two), with 50 beams or a search by the values of 64 prefixes. Rounds alternate between
the rows, so that a busy machine slows all of them alike. Histories are random items; T5 (4 + 4 layers, random weights)
reads the last 20, as APAO trains it, and finds as many codes by as many beams, the trie as a dict behind
`prefix_allowed_tokens_fn`. Leaves with 1 if the ONNX graph is not 1.5 times as fast as the eager search, and 25 times
as fast as T5's generation if that is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from beam_search import t5_search
from office import keep_freed_memory, t5_inputs, t5_tokens

from genrec.artifacts import write_artifact
from genrec.config.training import SearchSection, ValueGuidedSearch
from genrec.data.dataset import Dataset
from genrec.data.sequences import Ragged
from genrec.decoding.generator import CandidateGenerator
from genrec.decoding.selection import select_best
from genrec.decoding.value_guided_generator import ValueGuidedGenerator
from genrec.decoding.value_guided_settings import ValueGuidedSettings
from genrec.models.hierarchical import HierarchicalRecommender
from genrec.models.path_trees import build_tree_scorer
from genrec.models.settings import HierarchicalSettings, MemorySettings, ValueHeadSettings
from genrec.models.value_head import ValueHead
from genrec.pipeline.open_recommender import open_generative
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.serving import bundle as parts
from genrec.serving import runtime
from genrec.serving.exportable import exportable
from genrec.serving.graph import Widths, catalogue_tensors, trace
from genrec.serving.programs import PROGRAMS, read_program, write_program

NUM_ITEMS, SIZES = 12_101, (256, 256, 256, 12)
BOUND, T5_BOUND = 1.5, 25.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bundle", "recommender", "dataset"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--items", type=int, default=NUM_ITEMS)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--value-guided", action="store_true", help="without folders: a search by value")
    parser.add_argument("--torch", action="store_true", help="torch.export's and AOTInductor's programs too (minutes)")
    parser.add_argument("--transformers", action="store_true", help="generation by transformers' T5 too")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        if words.bundle:
            eager = trained(words.recommender, words.dataset, words.bundle)
        else:
            eager = untrained(words.items)
            eager = guided(eager) if words.value_guided else eager
            words.bundle = write_bundle(Path(scratch) / "bundle", eager)
        exported = runtime.CandidateGenerator.load(words.bundle, num_threads=words.threads)
    k = exported.limits.max_candidates
    draw = np.random.default_rng(0)
    histories = [draw.integers(exported.num_items, size=words.length).tolist() for _ in range(words.batch)]
    nothing, everything = [[]] * words.batch, np.ones((words.batch, exported.num_items), dtype=bool)
    rows: dict[str, Callable[[], object]] = {
        "eager": lambda: eager.search(Ragged.from_lists(histories), k),
        "onnx": lambda: exported.search(histories, nothing, everything),
    }
    if words.torch:
        rows |= {form: program_of(eager, histories, everything, k=k, form=form) for form in PROGRAMS}
    if words.transformers:
        rows["transformers"] = generate_of(eager, histories)
    found = measure(rows, words.rounds)
    print(json.dumps({"num_items": exported.num_items, "batch": words.batch, "threads": words.threads, **found}))
    base = found["onnx"]["p50_ms"]
    is_fast = found["eager"]["p50_ms"] >= BOUND * base
    return int(not (is_fast and found.get("transformers", {"p50_ms": np.inf})["p50_ms"] >= T5_BOUND * base))


def trained(recommender: Path, dataset: Path, bundle: Path) -> CandidateGenerator:
    settings = json.loads((bundle / runtime.CONFIG).read_text())["graph"]["search"]
    kind = ValueGuidedSearch if settings["name"] == "value_guided" else SearchSection
    return open_generative(recommender, Dataset.load(dataset), kind(**settings))[1]


def untrained(num_items: int) -> CandidateGenerator:
    draw = np.random.default_rng(0)
    every = np.stack([draw.integers(size, size=2 * num_items) for size in SIZES], axis=1).astype(np.int32)
    codes = draw.permutation(np.unique(every, axis=0))[:num_items]
    memory = MemorySettings(followers=256)
    settings = HierarchicalSettings(joint_depth=len(SIZES), memory=memory, history_length=50)
    model = HierarchicalRecommender(SemanticIdTrie.build(codes, SIZES), settings)
    model.mark_trained(torch.ones(num_items, dtype=torch.bool), torch.ones(num_items, dtype=torch.bool))
    similarity = sp.random(num_items, num_items, density=min(1.0, 60 / num_items), random_state=0, format="csr")
    model.remember(similarity, np.full(num_items, 10))
    ids = [f"i{item}" for item in range(num_items)]
    counts = np.arange(num_items)
    return CandidateGenerator(model.eval(), model.trie, item_ids=ids, train_counts=counts, beam_width=50)


def guided(generator: CandidateGenerator) -> ValueGuidedGenerator:
    """The search by the values of a head with random weights."""
    model: Any = generator.scorer
    head = ValueHead(model.trie, ValueHeadSettings(width=model.settings.width)).eval()
    torch.nn.init.normal_(head.weight, std=0.1)
    return ValueGuidedGenerator(
        build_tree_scorer(model, head),
        model,
        model.trie,
        settings=ValueGuidedSettings(node_budget=64),
        item_ids=generator.item_ids,
        train_counts=generator.train_counts.numpy(),
    )


def write_bundle(folder: Path, generator: CandidateGenerator) -> Path:
    trie = generator.trie
    codes = trie.prefix_codes(trie.num_levels)[trie.item_leaves].numpy()
    tensors = catalogue_tensors(generator.scorer, generator.train_counts.numpy())
    facts = {"bundle_format": runtime.BUNDLE_FORMAT}
    with write_artifact(folder, kind=parts.KIND, facts=facts) as writer:
        graph = parts.write_graph(writer, generator, widths=Widths.of(trie, spare_children=8), num_candidates=50)
        version = parts.write_catalogue(writer, tensors, codes, item_ids=generator.item_ids, titles=None)
        more = {"model_version": "untrained", "catalogue_version": version, "metrics": {}}
        parts.write_runtime(writer, parts.describe(generator, graph, **more))
    return folder


def program_of(
    generator: CandidateGenerator, histories: list[list[int]], everything: np.ndarray, *, k: int, form: str
) -> Callable[[], object]:
    """The graph, written and read as one of PyTorch's programs."""
    tensors = catalogue_tensors(generator.scorer, generator.train_counts.numpy())
    graph = exportable(generator).graph(Widths.of(generator.trie), k, select_best)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / PROGRAMS[form]
        write_program(trace(graph.eval(), tensors), path, form=form)
        program = read_program(path, form=form)
    rows = torch.tensor(histories)
    lengths, deny = torch.full((len(rows),), rows.shape[1]), torch.full((len(rows), 1), -1)
    allow = torch.from_numpy(everything)

    def call() -> object:
        with torch.inference_mode():
            return program(rows, lengths, deny, allow, tensors)

    return call


def generate_of(generator: CandidateGenerator, histories: list[list[int]]) -> Callable[[], object]:
    """transformers' generation by a T5 of the size that APAO trains, over the same catalogue."""
    trie = generator.trie
    tokens = t5_tokens(trie.prefix_codes(trie.num_levels)[trie.item_leaves].numpy())
    search, inputs = t5_search(tokens, beams=generator.beam_width), t5_inputs(tokens, histories)

    def call() -> object:
        with torch.inference_mode():
            return search((inputs,))

    return call


def measure(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """p50 and p99 in milliseconds, and how many times the eager median holds that of each row."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(rounds + 5):
        for name, call in rows.items():
            start = time.perf_counter()
            call()
            if number >= 5:  # after warming up
                times[name].append(1000 * (time.perf_counter() - start))
    base = float(np.median(times["eager"]))
    return {
        name: {
            "p50_ms": round(float(np.median(values)), 2),
            "p99_ms": round(float(np.quantile(values, 0.99)), 2),
            "times_faster": round(base / float(np.median(values)), 2),
        }
        for name, values in times.items()
    }


if __name__ == "__main__":
    sys.exit(main())
