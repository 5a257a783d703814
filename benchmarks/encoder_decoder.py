"""The encoder-decoder recommender: cost of pairwise losses, speed of beam search and memory of its steps, as ratios.

One thread, float32, 4 + 4 layers, width 128, feed-forward 1024, 6 heads of 64, histories of the last 20 items:

- times the CPU time of a step of cross-entropy, forward + backward with dropout: APAO's pairwise loss with 100
  negatives a target, on 64 random pairs of a history and one target (a full encoder), or all positions of 8 windows (a
  causal one);
- users per CPU second, 20 beams, batches of 64, trie normalisation, against `generate` of transformers' T5 with the
  same weights: its tokens renormalised over the children of the prefix by a processor that is a table look-up, which is
  faster than `prefix_allowed_tokens_fn`. Before anything is timed, both have to give the same lists up to ties;
- the most memory alive at once in a step of the search, over what keys and values of the history would take if each
  beam had its own, as T5's cache has them.

Office comes from GENREC_DATA; without it, random sequences and codes of the same sizes are used. Freed memory stays in
the process. The search needs `transformers`: without it that part is left out.

    python benchmarks/encoder_decoder.py [DATA_ROOT]

Prints one JSON line; exit code 1 if a ratio is beyond its limit.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from office import (
    PADDING,
    SIZES,
    T5_HISTORY,
    Work,
    build_t5,
    keep_freed_memory,
    load_office,
    measure,
    t5_inputs,
    t5_tokens,
)
from torch import Tensor

from genrec.data.batches import BatchStream
from genrec.data.sequences import Ragged
from genrec.decoding.beam_search import beam_search
from genrec.models.encoder_decoder import EncoderDecoderRecommender
from genrec.models.settings import EncoderDecoderSettings
from genrec.seeding import generator
from genrec.semantic_ids.trie import SemanticIdTrie
from genrec.training.objectives import Likelihood, Objective, Prefixes

PROJECT = Path(__file__).resolve().parent.parent
BATCH, WINDOWS, BEAMS, NEGATIVES = 64, 8, 20, 100
FIRST_CODE = 2  # token of T5
KINDS: dict[str, dict[str, Any]] = {
    "trie": {},
    "vocabulary": {"normalisation": "vocabulary", "node_embeddings": False},
    "causal": {"encoder": "causal"},
}
MOST_PAIRWISE = {"trie": 8.0, "vocabulary": 8.0}  # times a step of cross-entropy
LEAST_SEARCH = 6.0  # times the users of T5
MOST_MEMORY = 0.1  # of keys and values of a history for each beam
TOLERANCE = 1e-4  # of two scores that count as tied
Batch = dict[str, Tensor]


def build(trie: SemanticIdTrie, **settings: Any) -> EncoderDecoderRecommender:
    """With random weights; every item counts as trained."""
    torch.manual_seed(0)
    model = EncoderDecoderRecommender(trie, EncoderDecoderSettings(history_length=T5_HISTORY, **settings))
    everything = torch.ones(trie.num_items, dtype=torch.bool)
    model.mark_trained(everything, everything)
    return model


def item_inputs(histories: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The last items of each history, padded with -1, and how many they are."""
    rows = [torch.tensor(history[-T5_HISTORY:]) for history in histories]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1), torch.tensor([*map(len, rows)])


def draw_pairs(sequences: list[list[int]], batches: int) -> list[Batch]:
    """Random histories with one target each."""
    pairs = [(user, place) for user, row in enumerate(sequences) for place in range(1, len(row) - 2)]
    made = []
    for chosen in generator(1).choice(len(pairs), (batches, BATCH), replace=False):
        users, places = zip(*(pairs[number] for number in chosen), strict=True)
        items, lengths = item_inputs([sequences[user][:place] for user, place in zip(users, places, strict=True)])
        is_target = torch.arange(items.shape[1]) == lengths.unsqueeze(1) - 1
        last = torch.tensor([sequences[user][place] for user, place in zip(users, places, strict=True)])
        targets = torch.where(is_target, last.unsqueeze(1), -1)
        made.append(_batch(items, targets, is_target, torch.tensor(users)))
    return made


def draw_windows(sequences: list[list[int]], batches: int) -> list[Batch]:
    """Windows in which every position is a target."""
    stream = BatchStream(Ragged.from_lists([row[:-2] for row in sequences]), batch_size=WINDOWS, max_length=T5_HISTORY)
    some = [batch for _, batch in zip(range(batches), stream.epoch(0), strict=False)]
    names = ("items", "targets", "is_target", "user_index")
    return [_batch(*(torch.from_numpy(np.asarray(getattr(batch, name))) for name in names)) for batch in some]


def _batch(items: Tensor, targets: Tensor, is_target: Tensor, users: Tensor) -> Batch:
    parts = {"items": items, "targets": targets, "is_target": is_target, "user_index": users}
    return {**parts, "epoch": torch.tensor(0)}


def training_work(model: EncoderDecoderRecommender, prefixes: Prefixes | None, batches: list[Batch]) -> Work:
    num_prefixes = [model.trie.num_nodes(level + 1) for level in range(model.trie.num_levels)]
    objective = Objective(num_prefixes, likelihood=Likelihood(), prefixes=prefixes)

    def work() -> int:
        for batch in batches:
            objective(model.train(), batch).loss.backward()
            model.zero_grad(set_to_none=True)
        return sum(int(batch["is_target"].sum()) for batch in batches)

    return work


def compare_losses(
    sequences: list[list[int]], trie: SemanticIdTrie, *, batches: int, repetitions: int
) -> dict[str, dict[str, float]]:
    """Targets per CPU second of cross-entropy and of the pairwise loss, and how many times as much that costs."""
    pairwise = Prefixes(beta=0.2, eta=1e-3, num_negatives=NEGATIVES)
    found = {}
    for name, settings in KINDS.items():
        model = build(trie, **settings)
        drawn = draw_windows(sequences, batches) if name == "causal" else draw_pairs(sequences, batches)
        works = {"cross_entropy": training_work(model, None, drawn), "pairwise": training_work(model, pairwise, drawn)}
        speeds = measure(works, repetitions)
        found[name] = {"times_cross_entropy": speeds["cross_entropy"] / speeds["pairwise"], **speeds}
    return found


@torch.no_grad()
def copy_t5(t5: Any, ours: EncoderDecoderRecommender) -> None:
    """Gives ours the weights of a T5 whose vocabulary is padding, end and the codes of one level after the other."""
    scale = t5.config.d_model**-0.5 if t5.config.scale_decoder_outputs else 1.0
    for tables, factor in ((ours.history_codes, 1.0), (ours.own_codes, 1.0), (ours.output_codes, scale)):
        levels = t5.shared.weight[FIRST_CODE:].split(list(SIZES))
        for table, rows in zip(tables, levels, strict=False):  # the decoder does not read the last level
            table.copy_(factor * rows)
    ours.start_vector.copy_(t5.shared.weight[PADDING])
    for theirs, stack in ((t5.encoder, ours.encoder), (t5.decoder, ours.decoder)):
        stack.norm.weight.copy_(theirs.final_layer_norm.weight)
        stack.bias.table.copy_(theirs.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
        for block, layer in zip(theirs.block, cast("Any", stack.layers), strict=True):
            parts: list[tuple[Any, Any, Any]] = [(block.layer[0], layer.attention_norm, layer.attention)]
            parts += [(block.layer[1], layer.cross_norm, layer.cross)] if len(block.layer) == 3 else []
            for part, norm, attention in parts:
                norm.weight.copy_(part.layer_norm.weight)
                inner = part.SelfAttention if attention is layer.attention else part.EncDecAttention
                for own, matrix in ((attention.query, inner.q), (attention.key, inner.k), (attention.value, inner.v)):
                    own.weight.copy_(matrix.weight)
                attention.out.weight.copy_(inner.o.weight)
            layer.feed_forward_norm.weight.copy_(block.layer[-1].layer_norm.weight)
            layer.feed_forward.inner.weight.copy_(block.layer[-1].DenseReluDense.wi.weight)
            layer.feed_forward.outer.weight.copy_(block.layer[-1].DenseReluDense.wo.weight)


class OnlyChildren:
    """A `LogitsProcessor` of transformers: -inf for all tokens but the children of the prefix, by a table a level."""

    def __init__(self, trie: SemanticIdTrie) -> None:
        self.next_node = []
        for level in range(trie.num_levels):
            table = torch.full((trie.num_nodes(level), SIZES[level]), -1)
            table[trie.parents[level], trie.child_codes[level].long()] = torch.arange(trie.num_nodes(level + 1))
            self.next_node.append(table)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        nodes, first = torch.zeros(len(input_ids), dtype=torch.int64), FIRST_CODE
        level = input_ids.shape[1] - 1
        for above in range(level):
            nodes = self.next_node[above][nodes, (input_ids[:, above + 1] - first).clamp(0, SIZES[above] - 1)]
            nodes, first = nodes.clamp(min=0), first + SIZES[above]  # a dead beam goes on anywhere, at -inf
        allowed = torch.full_like(scores, -torch.inf)
        own = scores[:, first : first + SIZES[level]]
        allowed[:, first : first + SIZES[level]] = own.masked_fill(self.next_node[level][nodes] < 0, -torch.inf)
        return allowed


Search = Callable[[Sequence[Sequence[int]]], tuple[Tensor, Tensor]]  # histories -> items and scores, [BATCH, BEAMS]


def own_search(model: EncoderDecoderRecommender) -> Search:
    def search(histories: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        context = model.encode(*item_inputs(histories))
        found = beam_search(model, model.trie, context, beam_width=BEAMS, num_candidates=BEAMS)
        return found.item_index, found.score

    return search


def t5_search(t5: Any, trie: SemanticIdTrie, tokens: Tensor) -> Search:
    only_children = OnlyChildren(trie)

    def search(histories: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        input_ids = t5_inputs(tokens, histories)
        found = t5.generate(
            input_ids=input_ids,
            attention_mask=(input_ids != PADDING).long(),
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            max_new_tokens=trie.num_levels,
            logits_processor=[only_children],
            renormalize_logits=True,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        nodes = torch.zeros(len(found.sequences), dtype=torch.int64)
        for level, column in enumerate((found.sequences[:, 1:] - tokens.amin(dim=0) // 256 * 256).unbind(dim=1)):
            nodes = only_children.next_node[level][nodes, column - FIRST_CODE]
        items = trie.leaf_items(nodes)[:, 0]
        return items.view(len(histories), BEAMS), found.sequences_scores.view(len(histories), BEAMS)

    return search


def check_lists(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    """Asserts that two lists have the same scores, and the same items but where scores are tied."""
    assert (ours[1] - theirs[1]).abs().max() < TOLERANCE, "other scores"
    for own_items, own_scores, items in zip(*(part.tolist() for part in (*ours, theirs[0])), strict=True):
        last = own_scores[-1] + TOLERANCE
        certain = {item for item, score in zip(own_items, own_scores, strict=True) if score > last}
        assert certain <= set(items), "other items"
        assert len(set(items)) == BEAMS, "an item twice"


@torch.inference_mode()
def compare_searches(
    t5: Any, sequences: list[list[int]], trie: SemanticIdTrie, codes: np.ndarray, *, batches: int, repetitions: int
) -> dict[str, float]:
    """Users per CPU second of each, how many times as many are ours, and the most memory of a batch, in MB."""
    model = build(trie, node_embeddings=False).eval()
    copy_t5(t5, model)
    searches = {"ours": own_search(model), "t5": t5_search(t5.eval(), trie, t5_tokens(codes))}
    users = generator(1).choice(len(sequences), (batches, BATCH), replace=False)
    histories = [[sequences[user][:-1] for user in some] for some in users]
    check_lists(*(search(histories[0]) for search in searches.values()))
    shares = {"ours": histories, "t5": histories[: max(1, batches // 6)]}

    def timed(name: str) -> Work:
        def work() -> int:
            for some in shares[name]:
                searches[name](some)
            return BATCH * len(shares[name])

        return work

    speeds = measure({name: timed(name) for name in searches}, repetitions)
    most = {
        f"{name}_mb": most_alive(functools.partial(search, histories[0])) / 1e6 for name, search in searches.items()
    }
    return {"ratio": speeds["ours"] / speeds["t5"], **speeds, **most}


@torch.inference_mode()
def measure_memory(trie: SemanticIdTrie) -> list[dict[str, float]]:
    """The most memory alive at once in the last step of a search, for some beams and lengths of the history."""
    model = build(trie, normalisation="vocabulary").eval()  # which reads every beam
    settings, found = model.settings, []
    for beams in (10, 20, 50):
        for items in (5, T5_HISTORY):
            histories = generator(2).integers(trie.num_items, size=(BATCH, items)).tolist()
            _, state = model.start(model.encode(*item_inputs(histories)))
            first = torch.zeros(BATCH, beams, dtype=torch.int64)  # all beams are one: sizes do not depend on it
            for level in range(1, trie.num_levels - 1):
                _, state = model.step(level, state, first, first, first)
            most = most_alive(functools.partial(model.step, trie.num_levels - 1, state, first, first, first))
            bytes_of_token = 2 * 4 * settings.decoder_layers * settings.num_heads * settings.head_width
            copies = BATCH * beams * items * trie.num_levels * bytes_of_token
            found.append({"beams": beams, "items": items, "mb": most / 1e6, "of_copies": most / copies})
    return found


def most_alive(work: Callable[[], Any]) -> int:
    """Bytes that some work has allocated at once at most."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    results: Any = profile.profiler and profile.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    alive = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(alive.max())


def main() -> int:
    parser = argparse.ArgumentParser(description="Losses, search and memory of the encoder-decoder recommender.")
    default = os.environ.get("GENREC_DATA", PROJECT.parent / "shared" / "data")
    parser.add_argument("data_root", nargs="?", type=Path, default=Path(default))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2, help="of a repetition; the searches do three times as many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    data, sequences, codes = load_office(arguments.data_root)
    trie = SemanticIdTrie.build(codes, SIZES)
    losses = compare_losses(sequences, trie, batches=arguments.batches, repetitions=arguments.repetitions)
    memory = measure_memory(trie)
    is_over = any(losses[name]["times_cross_entropy"] > limit for name, limit in MOST_PAIRWISE.items())
    is_over |= any(row["of_copies"] > MOST_MEMORY for row in memory if row["items"] == T5_HISTORY)
    result: dict[str, Any] = {"benchmark": "encoder_decoder", "data": data, "losses": losses, "memory": memory}
    try:
        t5 = build_t5()
    except ImportError:
        result["search"] = "left out: transformers is not installed; pip install transformers"
    else:
        sizes = {"batches": 3 * arguments.batches, "repetitions": arguments.repetitions}
        search = compare_searches(t5, sequences, trie, codes, **sizes)
        is_over |= search["ratio"] < LEAST_SEARCH
        result["search"] = search
    limits = {"most_pairwise": MOST_PAIRWISE, "least_search": LEAST_SEARCH, "most_memory": MOST_MEMORY}
    result |= {"limits": limits, "repetitions": arguments.repetitions, "torch": torch.__version__}
    print(json.dumps(_rounded(result)))
    return int(is_over)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
