"""The configuration of tokenizing, training and searching. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec.config.fields import key
from genrec.config.losses import CrossEntropyLoss, Loss
from genrec.config.models import HierarchicalModel, Model

Collisions = Literal["suffix", "reassign", "reassign_or_suffix"]


def _collisions() -> Any:
    what = "items with equal codes: a suffix, free last codes, or these within max_added_distortion and else a suffix"
    return key(what, "suffix")


def _max_added_distortion() -> Any:
    what = "of reassign_or_suffix: squared error that a move may add, as a share of the mean one"
    return key(what, 0.5, minimum=0)


@dataclass(frozen=True, kw_only=True)
class ResidualKMeansTokenizer:
    """Residual k-means on embeddings; what becomes of items with equal codes is said by `collisions`."""

    name: Literal["residual_kmeans"] = "residual_kmeans"
    embeddings: Path = key("folder of embeddings")
    codebook_sizes: tuple[int, ...] = key("codes of each level", (256, 256, 256), minimum=2)
    num_iterations: int = key("iterations of k-means", 25, minimum=1)
    num_restarts: int = key("trainings of each level, of which the best is kept", 1, minimum=1)
    max_points_per_centroid: int = key("bounds the sample that is fitted", 256, minimum=1)
    centre: bool = key("take the mean off first", True)
    initialisation: Literal["plus_plus", "random"] = key("first centroids", "plus_plus")
    whiten: float | None = key(
        "share of the variance whose principal directions are kept and scaled alike first (0.9, say); null: none",
        None,
        minimum=0,
        maximum=1,
    )
    balance: float | None = key(
        "most items a code may hold when fitted, as a multiple of the average (1.5, say); null: no bound",
        None,
        minimum=1,
    )
    device: Literal["auto", "cpu", "gpu"] = key("of k-means; auto: a GPU if FAISS sees one", "auto")
    seed: int = key("seed of k-means", 0, minimum=0)
    collisions: Collisions = _collisions()
    max_added_distortion: float = _max_added_distortion()
    reserve: int = key("codes of the suffix level kept free for later items", 8, minimum=0)


@dataclass(frozen=True, kw_only=True)
class RqVaeTokenizer:
    """RQ-VAE: residual codebooks in the latent space of an autoencoder."""

    name: Literal["rqvae"] = "rqvae"
    embeddings: Path = key("folder of embeddings")
    codebook_sizes: tuple[int, ...] = key("codes of each level", (256, 256, 256, 256), minimum=2)
    latent_width: int = key("width of the codebooks", 32, minimum=1)
    hidden: tuple[int, ...] = key("hidden widths of the encoder; the decoder's in reverse", (512, 256), minimum=1)
    epochs: int = key("passes over the items", 40, minimum=1)
    pretrain_epochs: int = key("first passes without codes; their latents give the codebooks", 2, minimum=0)
    batch_size: int = key("items a step, at most", 256, minimum=1)
    learning_rate: float = key(
        "of Adam, the highest: it rises for a twentieth of the steps, then falls", 3e-3, minimum=0
    )
    beta: float = key("weight of the commitment of the encoder to the codes", 0.25, minimum=0)
    distance: Literal["l2", "cosine"] = key("a code is nearest in space, or in direction alone", "l2")
    codebook_update: Literal["gradient", "ema"] = key("codebooks by gradient, or as moving averages", "ema")
    ema_decay: float = key("share of the old value in the moving averages", 0.99, minimum=0, maximum=1)
    sinkhorn: Literal["none", "last", "all"] = key("levels whose codes are used alike in training", "none")
    sinkhorn_epsilon: float = key("softness of that assignment, distances mapped to [-1, 1]", 0.003, minimum=0)
    sinkhorn_iterations: int = key("of its scaling", 50, minimum=1)
    reseed_every: int = key("epochs between re-seedings of codes without items; 0: never", 1, minimum=0)
    collaborative: Path | None = key(
        "folder of embeddings that codes are aligned with in training (embedding=cooccurrence, say); null: none", None
    )
    alignment_weight: float = key("weight of that alignment (LETTER)", 0.02, minimum=0)
    diversity_weight: float = key(
        "weight of the evenness of the codes (LETTER: 1e-4); needs codebook_update=gradient; 0: none", 0.0, minimum=0
    )
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = key("device of the training", "auto")
    seed: int = key("seed of weights, k-means and batches", 0, minimum=0)
    collisions: Collisions = _collisions()
    max_added_distortion: float = _max_added_distortion()
    reserve: int = key("codes of the suffix level kept free for later items", 8, minimum=0)


@dataclass(frozen=True, kw_only=True)
class ProductTokenizer:
    """Optimised product quantisation: unordered codes, one for each part of the rotated embedding."""

    name: Literal["product"] = "product"
    embeddings: Path = key("folder of embeddings")
    codebook_sizes: tuple[int, ...] = key(
        "codes of each part, a level each: equal powers of two", (256, 256, 256, 256), minimum=2
    )
    rotate: bool = key("train a rotation first (OPQ); false: parts of the embedding as it is", True)
    num_rotations: int = key("alternations of rotation and assignment", 50, minimum=1)
    num_iterations: int = key("iterations of k-means", 25, minimum=1)
    max_points_per_centroid: int = key("bounds the sample that is fitted", 256, minimum=1)
    seed: int = key("seed of sample and k-means", 0, minimum=0)
    collisions: Collisions = _collisions()
    max_added_distortion: float = _max_added_distortion()
    reserve: int = key("codes of the suffix level kept free for later items", 8, minimum=0)


@dataclass(frozen=True, kw_only=True)
class FaissResidualTokenizer:
    """FAISS's residual quantiser: residual codes by beam search instead of greedily."""

    name: Literal["faiss_residual"] = "faiss_residual"
    embeddings: Path = key("folder of embeddings")
    codebook_sizes: tuple[int, ...] = key("codes of each level: powers of two", (256, 256, 256), minimum=2)
    beam_width: int = key("partial codes kept at each level (FAISS's max_beam_size); 1: greedy", 5, minimum=1)
    num_iterations: int = key("iterations of k-means", 25, minimum=1)
    max_points_per_centroid: int = key("bounds the sample that is fitted", 256, minimum=1)
    seed: int = key("seed of sample and k-means", 0, minimum=0)
    collisions: Collisions = _collisions()
    max_added_distortion: float = _max_added_distortion()
    reserve: int = key("codes of the suffix level kept free for later items", 8, minimum=0)


QuantiserTokenizer = ResidualKMeansTokenizer | ProductTokenizer | FaissResidualTokenizer | RqVaeTokenizer


@dataclass(frozen=True, kw_only=True)
class ImportedTokenizer:
    """Semantic IDs that others made: those that came with the dataset's files, or a file of them."""

    name: Literal["imported"] = "imported"
    path: Path | None = key(
        "JSON of {item: [token or integer, ...]}, plain or gzip; null: the codes that came with the dataset", None
    )
    key_offset: int = key("added to the integer keys of `path`, before `item_map`", 0)
    item_map: Path | None = key(
        "CSV or TSV with columns key, item_id, or JSON of {key: item id}; null: the keys of `path` are item ids", None
    )
    ragged: Literal["error", "pad"] = key(
        "where items of `path` have fewer codes than others: refuse, or fill up with a code of their own", "error"
    )
    embeddings: Path | None = key("folder of embeddings, only for the neighbours in the health; null: none", None)
    collisions: Literal["keep", "resolve"] = key("items with equal codes: keep them so, or add a suffix", "keep")
    reserve: int = key("codes of the suffix level kept free for later items", 8, minimum=0)


@dataclass(frozen=True, kw_only=True)
class PublishedTokenizer:
    """The semantic IDs that items already have, by item id; the dataset is newer than they are."""

    name: Literal["published"] = "published"
    semantic_ids: Path = key("folder of the latest version of the semantic IDs")


@dataclass(frozen=True, kw_only=True)
class GatesSection:
    """What a table must be like before training hours are spent on it (exit code 4 otherwise)."""

    max_collision_rate: float = key("1 - distinct / items, before any suffix", 0.3, minimum=0, maximum=1)
    min_perplexity_share: float = key("perplexity / codes, at every level", 0.02, minimum=0, maximum=1)
    max_dead_share: float = key("unused codes / codes, at every level", 0.5, minimum=0, maximum=1)
    min_proxy_lift: float = key(
        "how much oftener than by chance the next item's first code is one of the last items'; 0: off", 0.0, minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class ProxySection:
    """How often the next item of a training history shares its prefix with the last items: no model is trained."""

    window: int = key("last items of a history that count", 5, minimum=1)
    max_positions: int = key("events looked at; a sample where there are more", 1_000_000, minimum=1)
    seed: int = key("seed of that sample", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """Embeddings, or imported codes -> semantic IDs, with their health."""

    dataset: Path = key("folder of a prepared dataset")
    output: Path = key("folder of the semantic IDs to write")
    overwrite: bool = key("replace an existing output", False)
    tokenizer: QuantiserTokenizer | ImportedTokenizer | PublishedTokenizer = key("where the codes come from")
    gates: GatesSection = key("limits on the health of the table", GatesSection)
    proxy: ProxySection = key("the part of the health that is a proxy for recall", ProxySection)
    figures: bool = key("draw the health, as SVG with the data beside it as CSV", True)


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = key("highest rate", 2e-3, minimum=0)
    weight_decay: float = key("of the matrices of the networks", 0.05, minimum=0)
    node_weight_decay: float = key("of the trie-node vectors", 0.05, minimum=0)
    item_weight_decay: float = key("of the item vectors", 0.0, minimum=0)
    warmup: float = key("share of the steps in which the rate rises", 0.05, minimum=0, maximum=1)
    final_rate: float = key("rate at the end, as a share of the highest", 0.05, minimum=0, maximum=1)
    batch_size: int = key("histories a step", 64, minimum=1)
    clip_norm: float | None = key("largest gradient norm; null: none", 1.0, minimum=0)
    average: float | None = key(
        "decay of a moving average of the weights (0.999, say), validated and saved in their place; null: none",
        None,
        minimum=0,
        maximum=0.999999,
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationSection:
    """Other windows of the same histories, drawn anew in every epoch."""

    drop: float = key("probability that an event is left out of its window", 0.0, minimum=0, maximum=0.99)
    crop: float = key("probability that a window is cut to a part of itself", 0.0, minimum=0, maximum=1)
    crop_share: float = key("least share of the events that such a part has", 0.6, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class DropoutSchedule:
    """Factor of all dropout rates: from `start` to `end` in six stairs. Early dropout is 1 to 0, late 0 to 1."""

    start: float = key("at the first step", 1.0, minimum=0, maximum=1)
    end: float = key("after `over`", 1.0, minimum=0, maximum=1)
    over: float = key("share of the steps", 0.3, minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class StoppingSection:
    """How long to train; the best weights on validation are kept."""

    max_epochs: int = key("passes over the data", 30, minimum=1)
    validate_every: int | None = key("steps between validations and checkpoints; null: an epoch", None, minimum=1)
    patience: int | None = key("validations without improvement before stopping; null: never", 6, minimum=1)
    metric: Literal["recall", "ndcg"] = key("what is maximised on validation", "recall")
    cutoff: int = key("its k", 10, minimum=1)
    beam_width: int = key("beams of the validating search", 20, minimum=1)
    max_cases: int | None = key("validation cases looked at; null: all", 5000, minimum=1)
    prefix_negatives: int = key(
        "sampled items that the prefixes of at most 1000 cases are told from (prefix_auc_t, prefix_mrr_t); 0: none",
        20,
        minimum=0,
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Dataset and semantic IDs -> recommender."""

    dataset: Path = key("folder of a prepared dataset")
    semantic_ids: Path | None = key("folder of semantic IDs; null for model=sasrec, which has none", None)
    run: Path = key("run folder; the recommender is in <run>/recommender")
    initial: Path | None = key("folder of a recommender of older data, whose weights to start from; null: none", None)
    model: Model = key("the recommender", HierarchicalModel)
    loss: Loss = key("what is minimised", CrossEntropyLoss)
    samples: Literal["windows", "pairs"] = key(
        "of a batch: histories with all their targets, or one target each with what comes before it", "windows"
    )
    augmentation: AugmentationSection = key("changes of the histories", AugmentationSection)
    optimizer: OptimizerSection = key("how weights change", OptimizerSection)
    dropout_schedule: DropoutSchedule = key("how much of the model's dropout when", DropoutSchedule)
    stopping: StoppingSection = key("how long to train", StoppingSection)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = key("numbers of the forward pass", "32-true")
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = key("device", "auto")
    devices: int = key("processes, a device each, that share the rows of every batch out among them", 1, minimum=1)
    compile: bool = key("torch.compile the training step", False)
    seed: int = key("seed of weights, batches and dropout", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class TreeSection:
    """How a search by the value of prefixes (VED) spends its budget."""

    initial_width: int = key("beams at the beginning, for at most half the budget", 8, minimum=1)
    entropy_weight: float = key("lambda, of the policy's doubt beside the value", 0.1, minimum=0)
    exploration: float = key("beta, of prefixes that were rarely visited", 1.0, minimum=0)
    rank_by: Literal["log_prob", "value", "mixture"] = key("what candidates are sorted by", "log_prob")
    mixture: float = key("share of the value in a mixture", 0.5, minimum=0, maximum=1)
    selections_per_round: int = key("prefixes expanded between two calls of the model", 1, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ValueGuidedSection(TreeSection):
    """A search by the value of prefixes (VED)."""

    node_budget: int = key("prefixes read for a request; a beam search of width W reads W (L - 1)", 64, minimum=1)


@dataclass(frozen=True, kw_only=True)
class SearchKeys:
    """What all searches have."""

    beam_width: int = key("beams, and the longest list; a search by value has no beams", 50, minimum=1)
    num_candidates: int | None = key("length of the lists; null: the beam width", None, minimum=1)
    batch_size: int = key("requests searched at once", 64, minimum=1)
    index: Literal["flat", "ivf", "hnsw"] = key("of dense recommenders: exact, or approximate", "flat")
    num_probes: int = key("index=ivf: lists looked through, of about sqrt(items)", 8, minimum=1)
    num_visited: int = key("index=hnsw: nodes kept while it searches", 128, minimum=1)


@dataclass(frozen=True, kw_only=True)
class SearchSection(SearchKeys):
    """Constrained beam search of generative recommenders, an index of item vectors of dense ones."""

    name: Literal["beam"] = "beam"


@dataclass(frozen=True, kw_only=True)
class ValueGuidedSearch(SearchKeys, ValueGuidedSection):
    """Search by value of generative recommenders with a value head; others as ever."""

    name: Literal["value_guided"] = "value_guided"


Search = SearchSection | ValueGuidedSearch


@dataclass(frozen=True, kw_only=True)
class RecommendConfig:
    """Histories -> the best items of each user, as Parquet: of a recommender, or of a bundle in restartable shards."""

    dataset: Path | None = key("folder of the prepared dataset that the recommender was trained on", None)
    recommender: Path | None = key("folder of a recommender, which needs its dataset", None)
    semantic_ids: Path | None = key(
        "folder of a later version of its semantic IDs, whose items are recommended; null: those it was trained on",
        None,
    )
    bundle: Path | None = key("folder of a bundle instead, which needs users and nothing else", None)
    output: Path = key(
        "Parquet file to write (user_id, rank, item_id, score); of a bundle a folder of parts, with the versions"
    )
    overwrite: bool = key("replace an existing output; a bundle's job that was stopped goes on without it", False)
    histories: Path | None = key(
        "of a recommender: Parquet, CSV or JSON lines of events, oldest first (user_id, item_id); null: all users of "
        "the dataset",
        None,
    )
    users: Path | None = key(
        "of a bundle: Parquet, a row a user (user_id, history: list of item ids, oldest first)", None
    )
    shards: int = key("of a bundle: parts, each written whole; a job that was stopped redoes the others", 1, minimum=1)
    exclude: Path | None = key("of a bundle: text file, a line an item id that nobody gets; null: none", None)
    allow_tags: tuple[str, ...] | None = key(
        "of a bundle: tags, 'column=value', one of which (of each column named) the items need; null: all items", None
    )
    deny_tags: tuple[str, ...] = key("of a bundle: tags of items that nobody gets", ())
    num_threads: int = key("of a bundle: threads of one search", 1, minimum=1)
    k: int = key("items a user", 10, minimum=1)
    exclude_seen: bool = key("leave out the items of the history", True)
    search: Search = key("how a recommender searches; of a bundle only batch_size", SearchSection)
