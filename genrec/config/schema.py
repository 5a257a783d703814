"""The configuration of every command: frozen dataclasses, one root a command, standard library only.

A default here is the default; a YAML file holds only what differs. A union of sections is chosen by its ``name``. The
fields of a section are the keyword arguments of the function it configures, so that this is the only list of options.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec.config.fields import key
from genrec.config.sources import ItemColumnsSection, Source, SyntheticSource
from genrec.config.training import Search, SearchSection

# --- prepare and audit -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FilterSection:
    """Which events stay."""

    min_user_interactions: int = key("k of the k-core on users, to a fixed point; 0 or 1: off", 5, minimum=0)
    min_item_interactions: int = key("k of the k-core on items", 5, minimum=0)
    min_rating: float | None = key("drop events rated lower; null: keep all", None)
    duplicates: Literal["keep", "exact", "first", "last"] = key(
        "repeats of a (user, item) pair: keep all, drop equal times only, keep the first or the last", "keep"
    )


@dataclass(frozen=True, kw_only=True)
class OrderSection:
    """How a user's events are put in order."""

    by: Literal["timestamp", "file"] = key("time, or the order of the file", "timestamp")
    ties: Literal["item_id", "file"] = key("order of events at the same time", "item_id")


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutSplit:
    """Last event of a user: test; last but one: validation; the rest: training."""

    name: Literal["leave_one_out"] = "leave_one_out"


@dataclass(frozen=True, kw_only=True)
class TemporalSplit:
    """Two global points in time; every later event is a case."""

    name: Literal["temporal"] = "temporal"
    validation_fraction: float = key("share of events in the validation period", 0.1, minimum=0, maximum=1)
    test_fraction: float = key("share of events in the test period", 0.1, minimum=0, maximum=1)
    validation_from: str | None = key("start of validation (ISO date or time, or s), instead of the shares", None)
    test_from: str | None = key("start of test (ISO date or time, or s), instead of the shares", None)


@dataclass(frozen=True, kw_only=True)
class ProvidedSplit:
    """The split that comes with the files."""

    name: Literal["provided"] = "provided"


@dataclass(frozen=True, kw_only=True)
class TextSection:
    """Item descriptions."""

    fields: tuple[Literal["title", "brand", "categories", "description"], ...] = key(
        "what `text` is made of, in this order", ("title", "brand", "categories", "description")
    )
    duplicates: Literal["error", "first"] = key(
        "differing descriptions of one item id: refuse or keep the first", "error"
    )


@dataclass(frozen=True, kw_only=True)
class ExpectSection:
    """Counts that the prepared data must have; a difference fails the gate (exit code 4)."""

    users: int = key("users", minimum=0)
    items: int = key("items", minimum=0)
    interactions: int = key("interactions", minimum=0)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Raw files -> dataset: filter, order, split, index, audit."""

    source: Source = key("format of the raw files")
    raw_dir: Path | None = key("folder of the raw files; null: data/raw/<card>", None)
    card: str | None = key("dataset card in data/cards with urls, licence and checksums", None)
    download: bool = key("fetch the card's files into raw_dir first (resumes, verifies)", False)
    output: Path = key("folder of the dataset to write")
    overwrite: bool = key("replace an existing output", False)
    filter: FilterSection = key("which events stay", FilterSection)
    order: OrderSection = key("order of a user's events", OrderSection)
    split: LeaveOneOutSplit | TemporalSplit | ProvidedSplit = key("training, validation and test", LeaveOneOutSplit)
    text: TextSection = key("item descriptions", TextSection)
    expect: ExpectSection | None = key("counts to check", None)


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What a dataset hides: leaks, ties, duplicates, repeats, cold items, skew."""

    dataset: Path = key("folder of a prepared dataset")
    output: Path | None = key("JSON file to write as well", None)
    overwrite: bool = key("replace an existing output", False)


# --- embed -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TfidfEmbedding:
    """TF-IDF of the item text and truncated SVD."""

    name: Literal["tfidf"] = "tfidf"
    dimensions: int = key("width E of the vectors", 128, minimum=1)
    min_document_frequency: int = key("ignore terms in fewer items", 2, minimum=1)
    max_ngram: int = key("longest word n-gram", 2, minimum=1, maximum=5)
    sublinear: bool = key("1 + ln(count) in place of the count of a term", True)
    normalise: bool = key("vectors of length one", True)
    seed: int = key("seed of the SVD", 0, minimum=0)
    weight: float = key("weight in a combination", 1.0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class SentenceEmbedding:
    """A sentence-transformers model (extra `sentence`)."""

    name: Literal["sentence"] = "sentence"
    model: str = key("folder, package:NAME of an installed one, or hub name", "sentence-transformers/all-MiniLM-L6-v2")
    batch_size: int = key("texts a batch", 64, minimum=1)
    device: str | None = key("torch device; null: the best there is", None)
    normalise: bool = key("vectors of length one", True)
    weight: float = key("weight in a combination", 1.0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class PrecomputedEmbedding:
    """Your own vectors: .npy (rows by item_index, or with `ids`) or .parquet (item_id and vector)."""

    name: Literal["precomputed"] = "precomputed"
    path: Path = key("file of vectors")
    ids: Path | None = key("item ids of the rows of an .npy, one a line", None)
    weight: float = key("weight in a combination", 1.0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class CooccurrenceEmbedding:
    """Truncated SVD of item co-occurrence in training histories."""

    name: Literal["cooccurrence"] = "cooccurrence"
    dimensions: int = key("width E of the vectors", 64, minimum=1)
    window: int = key("largest distance of two co-occurring events", 5, minimum=1)
    weighting: Literal["ppmi", "count"] = key("positive pointwise mutual information, or counts", "ppmi")
    normalise: bool = key("vectors of length one", True)
    seed: int = key("seed of the SVD", 0, minimum=0)
    weight: float = key("weight in a combination", 1.0, minimum=0)


Embedding = TfidfEmbedding | SentenceEmbedding | PrecomputedEmbedding | CooccurrenceEmbedding


@dataclass(frozen=True, kw_only=True)
class CombinedEmbedding:
    """Several embeddings side by side: rows normalised, weighted, concatenated."""

    name: Literal["combined"] = "combined"
    parts: dict[str, Embedding] = key("named embeddings, each with its weight")


def _text_and_signals() -> CombinedEmbedding:
    """What was best on Office and Beauty of all that needs no model from elsewhere (experiments, tokenisers)."""
    return CombinedEmbedding(parts={"text": TfidfEmbedding(), "signals": CooccurrenceEmbedding(weight=0.5)})


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Item text or signals -> vectors."""

    dataset: Path = key("folder of a prepared dataset")
    output: Path = key("folder of the embeddings to write")
    overwrite: bool = key("replace an existing output", False)
    embedding: Embedding | CombinedEmbedding = key("what the vectors are made of", _text_and_signals)


# --- catalogue -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DriftSection:
    """When the codebooks no longer fit what they have to encode."""

    warn_ratio: float = key(
        "warn where the first level leaves this many times the mean squared error it leaves of the fitted items",
        1.5,
        minimum=0,
    )
    max_ratio: float | None = key("the same as a gate (exit code 4); null: none", None, minimum=0)
    min_items: int = key("fewer new items than that are measured, but not judged", 10, minimum=1)


@dataclass(frozen=True, kw_only=True)
class CatalogueAppendConfig:
    """New items -> the next version of published semantic IDs; codebooks and published IDs stay."""

    semantic_ids: Path = key("folder of the latest version of the semantic IDs")
    items: Path = key("Parquet, CSV, TSV or JSON lines, one row a new item")
    output: Path = key("folder of the next version to write")
    overwrite: bool = key("replace an existing output", False)
    source: ItemColumnsSection = key("columns of `items`", ItemColumnsSection)
    existing: Literal["error", "skip"] = key("items that are in the catalogue already", "error")
    vectors: Path | None = key(
        ".npy or .parquet with vectors of the new items, where they came precomputed; null: made as all others", None
    )
    vector_ids: Path | None = key("item ids of the rows of an .npy, one a line", None)
    dataset: Path | None = key("folder of the dataset of the semantic IDs; null: where they were made from it", None)
    embeddings: Path | None = key("folder of the embeddings of the codebooks; null: where they were", None)
    drift: DriftSection = key("whether the codebooks still fit", DriftSection)


@dataclass(frozen=True, kw_only=True)
class CatalogueRetireConfig:
    """The next version of published semantic IDs without some items; their IDs are never given to others."""

    semantic_ids: Path = key("folder of the latest version of the semantic IDs")
    items: Path | None = key("text file of item ids, one a line, or a table of items", None)
    ids: str | None = key("item ids with commas between them, instead of a file", None)
    output: Path = key("folder of the next version to write")
    overwrite: bool = key("replace an existing output", False)
    source: ItemColumnsSection = key("columns of a table of `items`", ItemColumnsSection)
    missing: Literal["error", "skip"] = key("items that are not in the catalogue", "error")
    dataset: Path | None = key("folder of the dataset of the semantic IDs; null: where they were made from it", None)
    embeddings: Path | None = key("folder of the embeddings of the codebooks; null: where they were", None)


# --- evaluate and sweep ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RecentPopularitySection:
    """Popularity of the last days of training."""

    window_days: float | None = key("days before the last training event that count", 30.0, minimum=0)
    half_life_days: float | None = key("instead of a window: age at which an event counts half", None, minimum=0)


@dataclass(frozen=True, kw_only=True)
class ItemKnnSection:
    """Directed item-kNN: C = P^-a (T + b T') P^-c, scores = sum over the history of decay^age C."""

    window: int = key("largest distance w of two co-occurring events", 8, minimum=1)
    decay: float = key("weight of one more step of distance", 0.7, minimum=0, maximum=1)
    backward: float = key("weight b of the reversed direction", 0.25, minimum=0)
    source_power: float = key("exponent a of the count of the item that was seen", 0.75, minimum=0)
    target_power: float = key("exponent c of the count of the item that is scored", 0.15, minimum=0)
    history_decay: float = key("weight of one more step of age in the history", 0.5, minimum=0, maximum=1)
    history_length: int = key("last items of the history that count", 20, minimum=1)


# `optimum` is the best predictor there can be; only a synthetic catalogue has one that is known.
Baseline = Literal["popularity", "recent_popularity", "markov", "item_knn", "optimum"]
Ties = Literal["pessimistic", "mid", "expected", "optimistic"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Dataset -> one honest table: full ranking, with and without the seen items, with intervals."""

    dataset: Path = key("folder of a prepared dataset")
    output: Path = key("folder of the evaluation to write")
    overwrite: bool = key("replace an existing output", False)
    split: Literal["validation", "test"] = key("which cases", "test")
    models: tuple[Baseline, ...] = key("baselines", ("popularity", "recent_popularity", "markov", "item_knn"))
    recommenders: dict[str, Path] = key(
        "trained recommenders by row name: recommenders.mine=runs/mine/recommender", dict
    )
    search: Search = key("how recommenders search", SearchSection)
    recent_popularity: RecentPopularitySection = key("recent popularity", RecentPopularitySection)
    item_knn: ItemKnnSection = key("item-kNN", ItemKnnSection)
    embeddings: Path | None = key("folder of item vectors, in whose space the diversity of lists is measured", None)
    cutoffs: tuple[int, ...] | None = key(
        "k of the metrics; null: 1, 5, 10, 20, 50, 100 and 500 as far as the catalogue and all lists reach",
        None,
        minimum=1,
    )
    ties: Ties = key(
        "rank of a target among items of equal score; expected: the mean over all their orders", "pessimistic"
    )
    reference: str | None = key("row that the others are compared with; null: item_knn if it is there", None)
    num_resamples: int = key("bootstrap resamples", 1000, minimum=100)
    num_permutations: int = key("sign patterns of the permutation test", 10_000, minimum=100)
    confidence: float = key("level of the intervals", 0.95, minimum=0.5, maximum=0.999)
    batch_size: int = key("cases scored at once", 1024, minimum=1)
    devices: int = key("processes that share the batches out among them; the table is the same", 1, minimum=1)
    seed: int = key("seed of the bootstrap", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Search for the best settings on the validation split; resumable, never sees the test split."""

    dataset: Path = key("folder of a prepared dataset")
    semantic_ids: Path | None = key("target=train: folder of semantic IDs; null for train.model=sasrec", None)
    run: Path = key("run folder; trainings are in <run>/trials, of which only the best keeps its weights")
    target: Literal["item_knn", "train"] = key("whose settings: item-kNN's, or those of a training", "item_knn")
    train: dict[str, Any] = key(
        "target=train: what all trainings have in common, train.stopping.max_epochs=5 say; keys: genrec train --help",
        dict,
    )
    space: dict[str, Any] = key(
        "values to search by key, space.window=[3,5] or space.optimizer.learning_rate={low: 1e-4, high: 1e-2, "
        "log: true, num: 5}; item-kNN has values of its own for window, decay, backward, source_power, target_power "
        "and history_decay where they are not given",
        dict,
    )
    num_trials: int = key("trials at most; fewer where no step away from the best is left", 100, minimum=1)
    num_random: int = key("random trials before the search goes on around the best", 40, minimum=1)
    stop_after: int | None = key(
        "target=train: validations after which a trial ends once it is below the median of those before; null: never",
        None,
        minimum=1,
    )
    num_seeds: int = key(
        "target=train: trainings of the best trial, with the next seeds; they tell luck and choose nothing",
        1,
        minimum=1,
    )
    metric: Literal["recall", "ndcg"] | None = key(
        "what is maximised; null: recall, or train.stopping.metric, which alone counts for target=train", None
    )
    cutoff: int | None = key("its k; null: 10, or train.stopping.cutoff likewise", None, minimum=1)
    exclude_seen: bool = key("item-kNN: mask the items already seen", False)
    history_length: int | None = key("item-kNN: last items of the history that count; null: 20", None, minimum=1)
    seed: int = key("seed of the random trials", 0, minimum=0)


# --- inspect and quickstart ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InspectItemConfig:
    """One item: description, counts, what follows it."""

    dataset: Path = key("folder of a prepared dataset")
    item: str = key("item id, as in the raw files")
    k: int = key("neighbours to show", 10, minimum=1)
    item_knn: ItemKnnSection = key("item-kNN", ItemKnnSection)


@dataclass(frozen=True, kw_only=True)
class InspectUserConfig:
    """One user: history, targets, and what item-kNN recommends."""

    dataset: Path = key("folder of a prepared dataset")
    user: str = key("user id, as in the raw files")
    split: Literal["validation", "test"] = key("target to look at", "test")
    k: int = key("recommendations to show", 10, minimum=1)
    exclude_seen: bool = key("mask the items already seen", False)
    item_knn: ItemKnnSection = key("item-kNN", ItemKnnSection)


@dataclass(frozen=True, kw_only=True)
class InspectSearchConfig:
    """One search: its beams level by level, and where it kept or lost the target."""

    dataset: Path = key("folder of the prepared dataset that the recommender was trained on")
    recommender: Path = key("folder of a recommender")
    user: str = key("user id, as in the raw files")
    split: Literal["validation", "test"] = key("history and target to look at", "test")
    target: str | None = key("item id to look for instead of the split's target", None)
    k: int = key("recommendations to show", 10, minimum=1)
    prefixes: int = key("best prefixes of each level to show", 5, minimum=1)
    exclude_seen: bool = key("leave out the items of the history", True)
    search: Search = key("how it searches", SearchSection)


@dataclass(frozen=True, kw_only=True)
class InspectIdsConfig:
    """Two or more tables of semantic IDs of one dataset, side by side."""

    tables: dict[str, Path] = key(
        "folders of semantic IDs by name, two or more: tables.mine=runs/mine/semantic_ids", dict
    )
    output: Path | None = key("JSON file to write as well", None)
    overwrite: bool = key("replace an existing output", False)
    seed: int = key("seed of the shuffle that tells how alike tables are by chance", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """The whole road on a synthetic catalogue with a known optimum; nothing is downloaded."""

    output: Path = key("folder for everything it makes", Path("runs/quickstart"))
    overwrite: bool = key("replace what an earlier quickstart made", True)
    source: SyntheticSource = key("the planted catalogue", SyntheticSource)
    max_epochs: int = key("passes over the data", 15, minimum=1)
    num_resamples: int = key("bootstrap resamples", 1000, minimum=100)
