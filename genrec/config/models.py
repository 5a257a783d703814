"""The recommenders: the ``model`` section of ``train``. Standard library only.

The fields of a section are those of the settings of its model, in ``genrec/models/settings.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.config.fields import key


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """Counts of what followed what in training, as a term of the logits: directed item-kNN inside the model."""

    followers: int = key("strongest followers kept of each item; 0: no memory", 0, minimum=0)
    window: int = key("largest distance of two co-occurring events", 8, minimum=1)
    decay: float = key("weight of one more step of distance", 0.7, minimum=0, maximum=1)
    backward: float = key("weight of the reversed direction", 0.25, minimum=0)
    source_power: float = key("exponent of the count of the item that was seen", 0.75, minimum=0)
    target_power: float = key("exponent of the count of the item that is scored", 0.15, minimum=0)
    history_decay: float = key("weight of one more step of age in the history", 0.5, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class HierarchicalModel:
    """A causal transformer over items and a small decoder over the codes of the next one."""

    name: Literal["hierarchical"] = "hierarchical"
    normalisation: Literal["trie", "vocabulary"] = key("softmax over the children of a node, or all codes", "trie")
    temperature: float = key("tau_msl, divides the logits", 1.0)
    node_embeddings: bool = key("a vector for each node of the trie", True)
    joint_depth: int = key("first codes that one softmax over all prefixes decides together", 1, minimum=1)
    item_embeddings: bool = key("a vector for each item of the history", True)
    transition_embeddings: bool = key("a second one, which reaches the user state past the blocks", True)
    memory: MemorySection = key("counts of transitions", MemorySection)
    item_features: tuple[str, ...] = key("item columns whose values have vectors too: [categories,brand], say", ())
    feature_min_count: int = key("items that a value needs for a vector of its own; rarer ones share one", 2, minimum=1)
    positions: Literal["rotary", "learnt", "both"] = key("rotary attention, vectors of positions, or both", "rotary")
    time_gaps: bool = key("vectors of the time since the event before; the dataset has a clock", False)
    history_length: int = key("last items that are read", 50, minimum=1)
    width: int = key("width of all vectors", 128, minimum=1)
    num_layers: int = key("blocks over the history", 2, minimum=0)
    num_heads: int = key("heads of their attention", 4, minimum=1)
    hidden: int = key("width of their feed-forward networks", 512, minimum=1)
    depth_layers: int = key("residual networks of the decoder over the codes", 1, minimum=0)
    depth_hidden: int = key("their hidden width", 512, minimum=1)
    activation: Literal["gelu", "swiglu"] = key("of the feed-forward networks", "gelu")
    attention: Literal["softmax", "sdpa"] = key("softmax is faster on CPU, sdpa on GPU", "softmax")
    dropout_input: float = key("rate on the item vectors", 0.3, minimum=0, maximum=1)
    dropout_blocks: float = key("rate in the blocks", 0.3, minimum=0, maximum=1)
    dropout_depth: float = key("rate in the decoder", 0.2, minimum=0, maximum=1)
    dropout_nodes: float = key("rate at the node vectors", 0.0, minimum=0, maximum=1)
    dropout_gaps: float = key(
        "rate of windows without times, so that requests without are known", 0.1, minimum=0, maximum=1
    )


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderModel:
    """TIGER: a T5 that reads the codes of the history and writes those of the next item."""

    name: Literal["encoder_decoder"] = "encoder_decoder"
    normalisation: Literal["trie", "vocabulary"] = key("softmax over the children of a node, or all codes", "trie")
    temperature: float = key("tau_msl, divides the logits", 1.0)
    node_embeddings: bool = key("a vector for each node of the trie", True)
    item_embeddings: bool = key("a vector for each item of the history", False)
    encoder: Literal["full", "causal"] = key("a history for each target, or a window for all of its targets", "full")
    history_length: int = key("last items that are read", 20, minimum=1)
    width: int = key("width of all vectors", 128, minimum=1)
    encoder_layers: int = key("blocks over the history", 4, minimum=0)
    decoder_layers: int = key("blocks over the codes", 4, minimum=1)
    num_heads: int = key("heads of all attentions", 6, minimum=1)
    head_width: int = key("width of each of them", 64, minimum=1)
    hidden: int = key("width of their feed-forward networks", 1024, minimum=1)
    activation: Literal["relu", "gated_gelu"] = key("of the feed-forward networks", "relu")
    attention: Literal["softmax", "sdpa"] = key("softmax is faster on CPU, sdpa on GPU", "softmax")
    num_buckets: int = key("of the bias by distance", 32, minimum=4)
    max_distance: int = key("tokens from which on all distances are alike", 128, minimum=2)
    dropout: float = key("rate everywhere but on attention weights", 0.1, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class DecoderOnlyModel:
    """A Llama-style decoder over the codes of the history, one token after the other."""

    name: Literal["decoder_only"] = "decoder_only"
    normalisation: Literal["trie", "vocabulary"] = key("softmax over the children of a node, or all codes", "trie")
    temperature: float = key("tau_msl, divides the logits", 1.0)
    node_embeddings: bool = key("a vector for each node of the trie", True)
    item_embeddings: bool = key("a vector for each item of the history", True)
    history_length: int = key("last items that are read", 20, minimum=1)
    width: int = key("width of all vectors", 128, minimum=1)
    num_layers: int = key("blocks over the tokens", 8, minimum=0)
    num_heads: int = key("heads of the queries of their attention", 8, minimum=1)
    num_kv_heads: int | None = key("heads of its keys and values; null: as many", None, minimum=1)
    hidden: int = key("width of their feed-forward networks", 1024, minimum=1)
    attention: Literal["softmax", "sdpa"] = key("softmax is faster on CPU, sdpa on GPU", "softmax")
    dropout: float = key("rate on the tokens and in the blocks", 0.1, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class LoraSection:
    """Low-rank adaptation: the network stays as it is, and small matrices beside its linear layers are trained."""

    rank: int = key("of the matrices; 0: none, all weights are trained", 0, minimum=0)
    alpha: float = key("scale of what they add", 16.0, minimum=0)
    dropout: float = key("rate on what goes into them", 0.0, minimum=0, maximum=1)
    targets: tuple[str, ...] = key("last parts of the names of the linear layers (q_proj, say); none: all", ())


@dataclass(frozen=True, kw_only=True)
class HuggingFaceModel:
    """A causal language model, or an encoder with a decoder, of transformers (extra huggingface), reading codes."""

    name: Literal["huggingface"] = "huggingface"
    base: str = key("folder of the network, or its name on the hub")
    prompt: str | None = key("text around the history, '... {history} ...', say; null: none", None)
    normalisation: Literal["trie", "vocabulary"] = key(
        "softmax over the children of a node, or all codes", "vocabulary"
    )
    temperature: float = key("tau_msl, divides the logits", 1.0)
    node_embeddings: bool = key("a vector for each node of the trie", False)
    item_embeddings: bool = key("a vector for each item of the history", False)
    history_length: int = key("last items that are read", 20, minimum=1)
    attention: Literal["softmax", "sdpa"] = key("the network's: eager, or fused", "sdpa")
    gradient_checkpointing: bool = key("less memory in training, for about a third more time", False)
    lora: LoraSection = key("low-rank adaptation", LoraSection)


@dataclass(frozen=True, kw_only=True)
class SasrecModel:
    """SASRec: a causal transformer over items whose output is searched among item vectors. It has no semantic IDs."""

    name: Literal["sasrec"] = "sasrec"
    history_length: int = key("last items that are read", 50, minimum=1)
    width: int = key("width of all vectors", 64, minimum=1)
    num_layers: int = key("blocks over the history", 2, minimum=0)
    num_heads: int = key("heads of their attention", 2, minimum=1)
    hidden: int = key("width of their feed-forward networks", 256, minimum=1)
    positions: Literal["learnt", "rotary"] = key("vectors of positions, or rotary attention", "learnt")
    activation: Literal["gelu", "swiglu"] = key("of the feed-forward networks", "gelu")
    attention: Literal["softmax", "sdpa"] = key("softmax is faster on CPU, sdpa on GPU", "softmax")
    dropout_input: float = key("rate on the item vectors", 0.5, minimum=0, maximum=1)
    dropout_blocks: float = key("rate in the blocks", 0.5, minimum=0, maximum=1)
    normalise: bool = key("scores are cosines, not inner products", False)
    temperature: float = key("divides the scores; for cosines about 0.05", 1.0)


Model = HierarchicalModel | EncoderDecoderModel | DecoderOnlyModel | HuggingFaceModel | SasrecModel
