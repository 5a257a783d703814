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


Model = HierarchicalModel | SasrecModel
