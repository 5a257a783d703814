"""Sizes and kinds of recommenders, as plain values: what `model.json` holds.

Must not know tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from genrec.errors import ConfigError

NORMALISATIONS = ("trie", "vocabulary")
ENCODERS = ("full", "causal")
PLACE_OF_HISTORY = "{history}"
POSITIONS = ("learnt", "rotary")
HIERARCHICAL_POSITIONS = (*POSITIONS, "both")


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
        item_features: columns of the item table whose values have vectors too.
        feature_min_count: items that a value needs for a vector of its own.
        positions: "rotary" (in the attention), "learnt" (a vector a position, added to the item's) or "both".
        time_gaps: whether the time since the event before has vectors.
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
        dropout_gaps: rate of rows that are read without the time since the event before.

    Raises:
        ConfigError: unknown normalisation or positions; a temperature, a length or a depth that is not positive; a
            joint depth without trie normalisation or without node embeddings; an item feature twice.
    """

    normalisation: str = "trie"
    temperature: float = 1.0
    node_embeddings: bool = True
    joint_depth: int = 1
    item_embeddings: bool = True
    transition_embeddings: bool = True
    memory: MemorySettings = field(default_factory=MemorySettings)
    item_features: tuple[str, ...] = ()
    feature_min_count: int = 2
    positions: str = "rotary"
    time_gaps: bool = False
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
    dropout_gaps: float = 0.1

    def __post_init__(self) -> None:
        _check_common(self.normalisation, self.temperature, self.history_length)
        if self.joint_depth < 1:
            raise ConfigError("the joint depth must be positive", expected="1 or more", found=self.joint_depth)
        if self.joint_depth > 1 and not (self.node_embeddings and self.normalisation == "trie"):
            raise ConfigError(
                "a joint depth above 1 needs trie normalisation and node embeddings",
                where="key 'model.joint_depth'",
                found=f"{self.joint_depth}, {self.normalisation}, node_embeddings={self.node_embeddings}",
                fix="model.joint_depth=1",
            )
        if self.positions not in HIERARCHICAL_POSITIONS:
            expected = ", ".join(HIERARCHICAL_POSITIONS)
            raise ConfigError("unknown positions", expected=expected, found=repr(self.positions))
        if len(set(self.item_features)) < len(self.item_features):
            found = list(self.item_features)
            raise ConfigError("an item feature is there twice", where="key 'model.item_features'", found=found)


@dataclass(frozen=True)
class EncoderDecoderSettings:
    """Size and kind of an encoder-decoder recommender; by default that of TIGER as APAO trains it.

    Attributes:
        normalisation: "trie" (softmax over the children of a node) or "vocabulary" (over all codes of the level).
        temperature: tau_msl, which divides the logits.
        node_embeddings: whether there are vectors E.
        item_embeddings: whether there are vectors I.
        encoder: "full" (a history for each target) or "causal" (a window for all of its targets).
        history_length: the last items that are read; older ones are cut off.
        width: D.
        encoder_layers, decoder_layers: blocks.
        num_heads: of all attentions.
        head_width: of each; num_heads x head_width need not be D.
        hidden: width of the feed-forward networks.
        activation: "relu" or "gated_gelu".
        attention: "softmax" or "sdpa".
        num_buckets, max_distance: of the bias by distance, in tokens.
        dropout: rate on inputs, branches, inner activations and outputs.

    Raises:
        ConfigError: unknown normalisation or encoder; a temperature or a length that is not positive; no decoder layer.
    """

    normalisation: str = "trie"
    temperature: float = 1.0
    node_embeddings: bool = True
    item_embeddings: bool = False
    encoder: str = "full"
    history_length: int = 20
    width: int = 128
    encoder_layers: int = 4
    decoder_layers: int = 4
    num_heads: int = 6
    head_width: int = 64
    hidden: int = 1024
    activation: str = "relu"
    attention: str = "softmax"
    num_buckets: int = 32
    max_distance: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_common(self.normalisation, self.temperature, self.history_length)
        if self.encoder not in ENCODERS:
            raise ConfigError("unknown encoder", expected=" or ".join(ENCODERS), found=repr(self.encoder))
        if self.decoder_layers < 1:
            raise ConfigError("a decoder without layers reads no history", fix="model.decoder_layers=1")


@dataclass(frozen=True)
class DecoderOnlySettings:
    """Size and kind of a flat recommender.

    Attributes:
        normalisation: "trie" (softmax over the children of a node) or "vocabulary" (over all codes of the level).
        temperature: tau_msl, which divides the logits.
        node_embeddings: whether there are vectors E.
        item_embeddings: whether there are vectors I.
        history_length: the last items that are read; older ones are cut off.
        width: D.
        num_layers: blocks over the tokens.
        num_heads: of the queries of their attention.
        num_kv_heads: of its keys and values; None: as many.
        hidden: width of their feed-forward networks.
        attention: "softmax" or "sdpa".
        dropout: rate on the tokens and on the branches of the blocks.

    Raises:
        ConfigError: unknown normalisation; a temperature or a length that is not positive.
    """

    normalisation: str = "trie"
    temperature: float = 1.0
    node_embeddings: bool = True
    item_embeddings: bool = True
    history_length: int = 20
    width: int = 128
    num_layers: int = 8
    num_heads: int = 8
    num_kv_heads: int | None = None
    hidden: int = 1024
    attention: str = "softmax"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_common(self.normalisation, self.temperature, self.history_length)


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation of a network that is frozen otherwise.

    Attributes:
        rank: r; 0: none, all weights are trained.
        alpha: scale of what is learnt.
        dropout: rate before the low rank.
        targets: last parts of the names of the linear layers; none: all of them.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class HuggingFaceSettings:
    """Kind of a recommender whose network is one of `transformers`.

    Attributes:
        base: folder of the network, or its name on the hub.
        prompt: text around the history, with the place of it as {history}; None: the history alone.
        normalisation: "trie" (softmax over the children of a node) or "vocabulary" (over all codes of the level).
        temperature: tau_msl, which divides the logits.
        node_embeddings: whether there are vectors E.
        item_embeddings: whether there are vectors I.
        history_length: the last items that are read; older ones are cut off.
        attention: "softmax" or "sdpa".
        gradient_checkpointing: computes states again in the backward pass instead of keeping them.
        lora: low-rank adaptation.

    Raises:
        ConfigError: unknown normalisation; a temperature or a length that is not positive; a prompt without the place
            of the history.
    """

    base: str
    prompt: str | None = None
    normalisation: str = "vocabulary"
    temperature: float = 1.0
    node_embeddings: bool = False
    item_embeddings: bool = False
    history_length: int = 20
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        _check_common(self.normalisation, self.temperature, self.history_length)
        if self.prompt is not None and self.prompt.count(PLACE_OF_HISTORY) != 1:
            raise ConfigError(
                "the prompt does not say where the history goes",
                where="key 'model.prompt'",
                expected=f"{PLACE_OF_HISTORY} once",
                found=repr(self.prompt),
            )


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


@dataclass(frozen=True)
class ValueHeadSettings:
    """Size and kind of a value head.

    Attributes:
        width: D, that of the states it reads.
        hidden: width of its residual networks.
        num_layers: residual networks.
        reads_log_prob: whether it is told the log-probability of the prefix.
        activation: "gelu" or "swiglu".
        dropout: rate on the branches.

    Raises:
        ConfigError: a width or a number of layers that is not positive.
    """

    width: int = 128
    hidden: int = 256
    num_layers: int = 1
    reads_log_prob: bool = True
    activation: str = "gelu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "hidden", "num_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of the value head must be positive", found=getattr(self, name))


def _check_common(normalisation: str, temperature: float, history_length: int) -> None:
    if normalisation not in NORMALISATIONS:
        raise ConfigError("unknown normalisation", expected=" or ".join(NORMALISATIONS), found=repr(normalisation))
    if not temperature > 0:
        raise ConfigError("the temperature must be positive", found=temperature)
    if history_length < 1:
        raise ConfigError("the history must have room for an item", expected="1 or more", found=history_length)
