"""Networks of `transformers` (extra `huggingface`) as recommenders: causal language models, and encoders with decoders.

A vocabulary extended by one token for each (level, code), as in MiniOneRec and V-STAR. The tokens of the history, with
text around them if wanted, go through the network, whose last states give the codes of the next item:

    x = start, text, then C_l[c_l] of every code (`flat_tokens`), text;   logits of a code of level l = <state, W_l[c]>

normalised over the codes of that level ("vocabulary") or over the children of a node in the catalogue ("trie"), never
over words. What the library does otherwise: C and W are tables of their own (an untied head), so the network's own
embedding and head are not there at all, but for the vectors of the words of the prompt; a start vector stands before
everything, so that an empty history can be read; positions begin at 0 there, as in `decoder_only`. C starts with mean
and spread of the network's own embedding.

The artifact holds all weights and the configuration of the network, so loading it needs neither the hub nor the folder
it came from. All weights are float32; `precision` is the training's. Imports `transformers` when a model is built; runs
no code that comes with a model. Must not know configuration, losses, search or training.
"""
# B batch, T items, P targets, C candidates, L levels, D width, N items of the catalogue, W beams, M most children

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from genrec.errors import ConfigError, StorageError
from genrec.models.code_scores import CodeScores, Prefixes
from genrec.models.flat_tokens import FlatTokens, continued, score_continuations
from genrec.models.huggingface_readers import CausalReader, EncoderReader, Prompt
from genrec.models.lora import add_lora, merge_lora
from genrec.models.node_embeddings import NodeEmbeddings, normal_table
from genrec.models.recommender import (
    ItemScores,
    ParameterGroup,
    check_levels,
    gather_items,
    group_parameters,
    read_settings,
    score_each_target,
)
from genrec.models.rows import last_items, target_rows
from genrec.models.settings import PLACE_OF_HISTORY, HuggingFaceSettings, LoraSettings
from genrec.models.transformer import Dropout
from genrec.semantic_ids.trie import SemanticIdTrie

WHERE = "key 'model.base'"


class TextIds(NamedTuple):
    """The prompt, in the ids of the network's own tokenizer.

    Attributes:
        before: the history.
        after: it.
    """

    before: list[int]
    after: list[int]


class HuggingFaceRecommender(nn.Module):
    """A `Recommender`; see the module. Made by `from_pretrained` or `from_facts`.

    Args:
        trie: the catalogue; moves with the module.
        settings: its kind.
        base: the network without a head; loses its embedding.
        text: the prompt.
    """

    name = "huggingface"

    def __init__(self, trie: SemanticIdTrie, settings: HuggingFaceSettings, base: Any, text: TextIds) -> None:
        super().__init__()
        self.trie, self.settings, self.text = trie, settings, text
        width = base.get_input_embeddings().weight.shape[1]
        self.base_config = json.loads(base.config.to_json_string(use_diff=False))
        tokens = FlatTokens(trie, width, has_nodes=settings.node_embeddings, has_items=settings.item_embeddings)
        self.output_codes = nn.ParameterList(normal_table(size, width) for size in trie.codebook_sizes)
        is_encoder = bool(base.config.is_encoder_decoder)
        prompt = Prompt(tokens, text.before, text.after, width)
        reader = EncoderReader(base, prompt) if is_encoder else CausalReader(base, prompt)
        _take_from(base.get_input_embeddings().weight, base.config, reader)
        base.set_input_embeddings(nn.Identity())
        base.train()  # the library gives networks in evaluation mode, where dropout and checkpointing do nothing
        self.reader = reader
        if settings.lora.rank:
            add_lora(base, **asdict(settings.lora))
            if prompt.text is not None:
                prompt.text.requires_grad_(False)
        if settings.gradient_checkpointing:
            _checkpoint(base)
        self.scores = CodeScores(
            self.output_codes,
            tokens.nodes,
            is_trie=settings.normalisation == "trie",
            temperature=settings.temperature,
            node_dropout=Dropout(0.0),
        )

    @classmethod
    def from_pretrained(cls, trie: SemanticIdTrie, settings: HuggingFaceSettings) -> HuggingFaceRecommender:
        """A recommender that begins with the weights of a network.

        Raises:
            ConfigError: transformers is not installed; the network is of no kind that can be read, or too short.
            StorageError: the network, or the tokenizer that a prompt needs, cannot be loaded.
        """
        library = _library()
        given = {"dtype": torch.float32, "attn_implementation": _ATTENTIONS[settings.attention]}
        with _loading("model", settings.base):
            base = library.AutoModel.from_pretrained(settings.base, **given, **_locally(settings.base))
        model = cls(trie, settings, base, _tokenize(settings))
        model.reader.check(trie, settings.history_length, WHERE)
        return model

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], trie: SemanticIdTrie) -> HuggingFaceRecommender:
        """A model of the size that `facts` describe, with random weights, for any catalogue of the same levels.

        Raises:
            ConfigError: unknown key or value, or transformers is not installed.
            LineageError: a trie of other levels.
        """
        values = dict(facts)
        config, text = values.pop("base_config"), TextIds(**values.pop("text"))
        lora = read_settings(LoraSettings, values["lora"])
        values["lora"] = LoraSettings(lora.rank, lora.alpha, lora.dropout, tuple(lora.targets))
        settings = read_settings(HuggingFaceSettings, values)
        check_levels(facts, trie)
        library = _library()
        given = {"dtype": torch.float32, "attn_implementation": _ATTENTIONS[settings.attention]}
        with _quietly():
            base = library.AutoModel.from_config(library.AutoConfig.for_model(**config), **given)
        model = cls(trie, settings, base, text)
        model.base_config = config  # what the library makes of it may be written otherwise
        return model

    @property
    def facts(self) -> dict[str, Any]:
        """Kind, levels, settings, prompt and the network's own configuration, as plain JSON values."""
        own = {"name": self.name, "codebook_sizes": list(self.trie.codebook_sizes)}
        settings = asdict(self.settings)
        settings["lora"]["targets"] = list(self.settings.lora.targets)
        return {**own, **settings, "text": self.text._asdict(), "base_config": self.base_config}

    @property
    def normalisation(self) -> str:
        """ "trie" or "vocabulary"."""
        return self.settings.normalisation

    @property
    def tokens(self) -> FlatTokens:
        """Vectors of the codes."""
        return self.reader.prompt.tokens

    @property
    def node_embeddings(self) -> NodeEmbeddings:
        """Those of the tokens, which the outputs share."""
        return self.tokens.nodes

    @property
    def code_tables(self) -> list[nn.Parameter]:
        """Of the inputs and of the outputs."""
        return [*self.tokens.codes, *self.output_codes]

    def mark_trained(self, history_items: Bool[Tensor, " N"], target_items: Bool[Tensor, " N"]) -> None:
        """Lets vectors of items and nodes count, which would be without effect otherwise; see `Recommender`."""
        self.tokens.mark_trained(self.trie, history_items, target_items)

    def parameter_groups(
        self, *, weight_decay: float, node_weight_decay: float = 0.0, item_weight_decay: float = 0.0
    ) -> list[ParameterGroup]:
        """All parameters, each once, those among them that are frozen too; see `group_parameters`."""
        items = [] if self.tokens.items is None else [self.tokens.items]
        decays = (weight_decay, node_weight_decay, item_weight_decay)
        return group_parameters(self, nodes=self.node_embeddings.parameters(), items=items, decays=decays)

    def load_adapted(self, state: Mapping[str, Tensor], places: Int64[Tensor, " _"]) -> None:
        """Loads the weights of the same model over another version of the catalogue; see `Recommender`."""
        self.load_state_dict(self.tokens.adapted_state(state, places, self.trie, prefix="reader.prompt.tokens."))

    def merge_lora(self) -> None:
        """Adds what LoRA has learnt to the weights of the network, in place; facts say so afterwards."""
        merge_lora(self.reader.base)
        self.settings = HuggingFaceSettings(**{**vars(self.settings), "lora": LoraSettings()})

    def score_targets(
        self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"], *, with_means: bool = False
    ) -> ItemScores:
        """Log-probability of each code of each target; see `Recommender`. T is at most `history_length`.

        One pass where the network is causal, nothing stands between a history and its target, and every target is what
        its history goes on with, as in windows of training; otherwise targets are read as candidates.
        """
        reader = self.reader
        row = continued(histories, targets) if isinstance(reader, CausalReader) and not self.text.after else None
        if row is None or not isinstance(reader, CausalReader):
            return score_each_target(self, histories, targets, with_means=with_means)
        states = reader.states_of_rows(self.trie, row)
        rows, counts = target_rows(histories, targets >= 0)
        levels = torch.arange(self.trie.num_levels, device=rows.device)
        states = states[rows.unsqueeze(1), reader.places(self.trie, counts).unsqueeze(1) + levels]
        return score_continuations(self.scores, self.trie, states, targets, with_means=with_means)

    def read_positions(self, histories: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"]) -> Any:
        """What candidates need of the histories; see `Recommender`."""
        return self.reader.read(self.trie, histories, targets >= 0)

    def score_items(self, context: Any, items: Int64[Tensor, "P C"], *, with_means: bool = False) -> ItemScores:
        """Log-probability of each code of C items after each position; see `Recommender`."""
        tree, states = self.reader.grow(self.trie, context, items)
        levels = []
        for level, decoded in enumerate(states):
            prefixes = Prefixes(decoded, decoded, tree.nodes[level])
            parents, children = tree.parents[level + 1], tree.nodes[level + 1]
            levels.append(self.scores.of_pairs(self.trie, level, prefixes, parents, children, with_means=with_means))
        scores = gather_items(tree, levels)
        shape = (*items.shape, self.trie.num_levels)
        return ItemScores(scores.log_probs.view(shape), None if scores.means is None else scores.means.view(shape))

    def encode(self, histories: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Any:
        """Reads the last `history_length` items of each history, once."""
        return self.reader.encode(self.trie, *last_items(histories, lengths, self.settings.history_length))

    def request_states(self, context: Any) -> Float[Tensor, "B D"]:
        """d of each request before its first code."""
        return context.states.squeeze(1)

    def start(self, context: Any) -> tuple[Float[Tensor, "B 1 M"], Any]:
        """Log-probabilities of the children of the root."""
        root = torch.zeros(len(context.states), 1, dtype=torch.int64, device=context.states.device)
        return self._of_children(0, context, root), context

    def step(
        self,
        level: int,
        state: Any,
        parents: Int64[Tensor, "B W"],
        codes: Int64[Tensor, "B W"],
        nodes: Int64[Tensor, "B W"],
    ) -> tuple[Float[Tensor, "B W M"], Any]:
        """Log-probabilities of the children of each beam's node; see `Recommender`. What it costs: see the readers."""
        tokens = self.tokens.of_nodes(self.trie, level, nodes.clamp(min=0))
        state = self.reader.step(state, parents, tokens, level)
        return self._of_children(level, state, nodes), state

    def _of_children(self, level: int, state: Any, nodes: Int64[Tensor, "B W"]) -> Float[Tensor, "B W M"]:
        return self.scores.of_children(self.trie, level, Prefixes(state.states, state.states, nodes))

    def _apply(self, fn: Any, recurse: bool = True) -> HuggingFaceRecommender:
        """Takes the trie along wherever the parameters go."""
        super()._apply(fn, recurse)
        self.trie = self.trie.to(self.output_codes[0].device)
        return self


_ATTENTIONS = {"softmax": "eager", "sdpa": "sdpa"}


def _take_from(embedding: Float[Tensor, "V D"], config: Any, reader: CausalReader | EncoderReader) -> None:
    """Lets the new vectors begin like the network's own, and those of the prompt's words as what they are."""
    prompt = reader.prompt
    with torch.no_grad():
        mean, spread = embedding.mean(dim=0), embedding.std(dim=0)
        for table in prompt.tokens.codes:
            table.copy_(mean + spread * torch.randn_like(table))
        starts = {"bos_token_id": prompt.start}
        if isinstance(reader, EncoderReader):
            starts["decoder_start_token_id"] = reader.start
        for name, vector in starts.items():
            index = getattr(config, name, None)
            vector.copy_(embedding[index] if index is not None and index < len(embedding) else mean)
        if prompt.text is not None:
            prompt.text.copy_(embedding[prompt.ids])


def _checkpoint(base: Any) -> None:
    """Under the name that version 6 of the library will know, or that which older ones know."""
    given = {"use_reentrant": False}
    if hasattr(base, "activation_checkpointing_enable"):
        base.activation_checkpointing_enable(activation_checkpointing_kwargs=given)
    else:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=given)


def _tokenize(settings: HuggingFaceSettings) -> TextIds:
    if settings.prompt is None:
        return TextIds([], [])
    with _loading("tokenizer that model.prompt needs", settings.base):
        tokenizer = _library().AutoTokenizer.from_pretrained(settings.base, **_locally(settings.base))
    parts = settings.prompt.split(PLACE_OF_HISTORY)
    ids = [list(tokenizer.encode(part, add_special_tokens=False)) if part.strip() else [] for part in parts]
    # Without files, the library makes tokenizers that know no word.
    if any(part.strip() and not found for part, found in zip(parts, ids, strict=True)) or any(
        tokenizer.unk_token_id in found for found in ids
    ):
        raise StorageError(
            "the tokenizer of the model does not know the prompt",
            where=f"{WHERE}, {settings.base}",
            expected="the files of a tokenizer beside the model, and words that it knows",
            found=f"ids {ids[0]} and {ids[1]} for {settings.prompt!r}",
            fix="set model.prompt=null, or another text",
        )
    return TextIds(*ids)


def _library() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise  # the package is there and one of its own dependencies is not
        raise ConfigError(
            "model 'huggingface' needs the package transformers", fix="pip install 'genrec[huggingface]'"
        ) from error
    return transformers


def _locally(base: str) -> dict[str, bool]:
    """A folder is never looked for on the hub."""
    return {"local_files_only": Path(base).is_dir()}


@contextmanager
def _loading(what: str, base: str) -> Iterator[None]:
    """Turns what goes wrong while something is loaded into one line."""
    try:
        with _quietly():
            yield
    except (OSError, ValueError, ImportError) as error:  # no such name, no network, other files, a missing package
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        fix = "set model.base=... to the folder of a downloaded model, or check its name and the network"
        if "attention implementation" in first:
            fix = "set model.attention=softmax"
        raise StorageError(
            f"cannot load the {what}: {first}",
            where=f"{WHERE}, {base}",
            expected="a folder of transformers, or a name on the hub that is in its cache or can be reached",
            fix=fix,
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences progress bars of the library, and its report on heads that are not wanted here."""
    from transformers.utils import logging as switch  # pyright: ignore[reportMissingImports]

    was_enabled, verbosity = switch.is_progress_bar_enabled(), switch.get_verbosity()
    switch.disable_progress_bar()
    switch.set_verbosity_error()
    try:
        yield
    finally:
        switch.set_verbosity(verbosity)
        if was_enabled:
            switch.enable_progress_bar()
