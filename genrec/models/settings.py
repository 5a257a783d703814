"""Sizes and kinds of recommenders, as plain values: what `model.json` holds.

Must not know tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from genrec.errors import ConfigError

NORMALISATIONS = ("trie", "vocabulary")


@dataclass(frozen=True)
class HierarchicalSettings:
    """Size and kind of a hierarchical recommender.

    Attributes:
        normalisation: "trie" (softmax over the children of a node) or "vocabulary" (over all codes of the level).
        temperature: tau_msl, which divides the logits.
        node_embeddings: whether there are vectors E.
        item_embeddings: whether there are vectors I.
        history_length: the last items that are read; older ones are cut off.
        width: D.
        num_layers: blocks over the history.
        num_heads: of their attention.
        hidden: width of their feed-forward networks.
        depth_layers: residual networks of the decoder over the codes.
        depth_hidden: their hidden width.
        activation: "gelu" or "swiglu".
        attention: "softmax" or "sdpa".
        dropout_input: rate on x_t.
        dropout_blocks: rate on the branches of the blocks.
        dropout_depth: rate on the branches of the decoder.
        dropout_nodes: rate on d_l + u, and on E_l[v] where it is added to s_l; in a trial it cost a lot.

    Raises:
        ConfigError: unknown normalisation, or a temperature or a length that is not positive.
    """

    normalisation: str = "trie"
    temperature: float = 1.0
    node_embeddings: bool = True
    item_embeddings: bool = True
    history_length: int = 50
    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    hidden: int = 512
    depth_layers: int = 1
    depth_hidden: int = 512
    activation: str = "gelu"
    attention: str = "softmax"
    dropout_input: float = 0.2
    dropout_blocks: float = 0.2
    dropout_depth: float = 0.2
    dropout_nodes: float = 0.0

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            expected = " or ".join(NORMALISATIONS)
            raise ConfigError("unknown normalisation", expected=expected, found=repr(self.normalisation))
        if not self.temperature > 0:
            raise ConfigError("the temperature must be positive", found=self.temperature)
        if self.history_length < 1:
            raise ConfigError("the history must have room for an item", expected="1 or more", found=self.history_length)
