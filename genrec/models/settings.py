"""Sizes and kinds of recommenders, as plain values: what `model.json` holds.

Must not know tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from genrec.errors import ConfigError

NORMALISATIONS = ("trie", "vocabulary")
POSITIONS = ("learnt", "rotary")


@dataclass(frozen=True)
class MemorySettings:
    """Size and constants of a transition memory: those of the item-kNN whose scores it holds.

    Attributes:
        followers: the strongest that are kept of each item; 0: no memory.
        window, decay, backward, source_power, target_power, history_decay: see `DirectedItemKnn`.
    """

    followers: int = 0
    window: int = 8
    decay: float = 0.7
    backward: float = 0.25
    source_power: float = 0.75
    target_power: float = 0.15
    history_decay: float = 0.5


@dataclass(frozen=True)
class HierarchicalSettings:
    """Size and kind of a hierarchical recommender.

    Attributes:
        normalisation: "trie" (softmax over the children of a node) or "vocabulary" (over all codes of the level).
        temperature: tau_msl, which divides the logits.
        node_embeddings: whether there are vectors E.
        joint_depth: J, the first codes that one softmax over all prefixes decides together; 1 to L.
        item_embeddings: whether there are vectors I.
        transition_embeddings: whether there are vectors J, which reach u past the blocks.
        memory: counts of transitions.
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
        ConfigError: unknown normalisation; a temperature, a length or a depth that is not positive; a joint depth
            without trie normalisation or without node embeddings.
    """

    normalisation: str = "trie"
    temperature: float = 1.0
    node_embeddings: bool = True
    joint_depth: int = 1
    item_embeddings: bool = True
    transition_embeddings: bool = True
    memory: MemorySettings = field(default_factory=MemorySettings)
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
        if self.joint_depth < 1:
            raise ConfigError("the joint depth must be positive", expected="1 or more", found=self.joint_depth)
        if self.joint_depth > 1 and not (self.node_embeddings and self.normalisation == "trie"):
            raise ConfigError(
                "a joint depth above 1 needs trie normalisation and node embeddings",
                where="key 'model.joint_depth'",
                found=f"{self.joint_depth}, {self.normalisation}, node_embeddings={self.node_embeddings}",
                fix="model.joint_depth=1",
            )
        if self.history_length < 1:
            raise ConfigError("the history must have room for an item", expected="1 or more", found=self.history_length)


@dataclass(frozen=True)
class SasrecSettings:
    """Size and kind of a SASRec.

    Attributes:
        history_length: the last items that are read; older ones are cut off.
        width: D, of the item vectors and the blocks.
        num_layers: blocks.
        num_heads: of their attention.
        hidden: width of their feed-forward networks.
        positions: "learnt" (a vector a position, added to the item's) or "rotary" (in the attention).
        activation: "gelu" or "swiglu".
        attention: "softmax" or "sdpa".
        dropout_input: rate on the vectors that enter the blocks.
        dropout_blocks: rate on the branches of the blocks.
        normalise: scores are cosines, not inner products.
        temperature: divides the scores.

    Raises:
        ConfigError: unknown positions; a temperature or a length that is not positive.
    """

    history_length: int = 50
    width: int = 64
    num_layers: int = 2
    num_heads: int = 2
    hidden: int = 256
    positions: str = "learnt"
    activation: str = "gelu"
    attention: str = "softmax"
    dropout_input: float = 0.5
    dropout_blocks: float = 0.5
    normalise: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ConfigError("unknown positions", expected=" or ".join(POSITIONS), found=repr(self.positions))
        if not self.temperature > 0:
            raise ConfigError("the temperature must be positive", found=self.temperature)
        if self.history_length < 1:
            raise ConfigError("the history must have room for an item", expected="1 or more", found=self.history_length)
