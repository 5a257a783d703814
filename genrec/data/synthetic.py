"""A planted catalogue: items with text, Zipf popularity and histories whose best possible recall is known exactly.

The next item depends on the last one only (a first-order Markov chain), and every probability is written down: with
``w`` the weights of the mixture, G successors and H next sub-categories,

    P(j | i) = sum_g w_g [succ_g(i) = j] + sum_h w_{G+h} [sub(j) = next_h(sub(i))] pop(j) / pop(sub(j)) + w_{G+H} pop(j)

so the recall of the best possible recommender is a sum of the k largest entries of a row. The first part can only be
memorised, the second can be learnt from the text: all items of a sub-category continue in the same sub-categories.

Items may be repeated in a history; with ``immediate_repeats=False`` never twice running (the row without entry i,
normalised again). Removing events afterwards (k-core, dropped duplicates) changes the chain: the optimum holds for the
histories as they are generated. Knows nothing of splits, models or metrics.
"""
# B cases, N items, S sub-categories, G planted successors, H planted next sub-categories, U users, M events

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64, Integer

from genrec.data.schema import RawData
from genrec.data.sequences import Ragged
from genrec.data.synthetic_text import MAX_CATEGORIES, MAX_SUBCATEGORIES, describe_items
from genrec.errors import ConfigError, DataError, RunError
from genrec.files import writing, writing_by_others
from genrec.seeding import generator

SUCCESSOR_WEIGHTS = (0.5, 0.3, 0.2)  # the G planted successors of an item; the first two share a sub-category
SUBCATEGORY_WEIGHTS = (0.6, 0.4)  # H: the next one in the same category, and one in another category
FIRST_SECOND = 1672531200  # 2023-01-01 UTC
HORIZON = 730 * 86400  # all events lie within two years, in s
MEDIAN_GAP = 4 * 86400  # between two events of a user, in s; log-normal with this spread:
GAP_SIGMA = 1.5
_STRUCTURE, _TEXT, _LENGTHS, _ITEMS, _GAPS, _STARTS = range(6)  # places of use, folded into the seed
_CHUNK = 2**22  # probabilities held at a time by the optimum


@dataclass(frozen=True, eq=False)
class PlantedCatalogue:
    """Items and the law that makes histories of them; build it with `create`.

    Attributes:
        items: [N] rows of the schema `RAW_ITEMS`; row i is item i, ids are zero-padded, so they sort like the rows.
        subcategory: [N] in 0..S-1.
        popularity: [N], Zipf in a random order, sums to 1.
        successors: [N, G] item, with weights[:G].
        next_subcategories: [S, H], with weights[G:G + H].
        weights: [G + H + 1] of the mixture, sums to 1; the last is that of the global popularity.
        immediate_repeats: whether an item may follow itself.
    """

    items: pl.DataFrame
    subcategory: Int64[np.ndarray, "N"]
    popularity: Float64[np.ndarray, "N"]
    successors: Int64[np.ndarray, "N G"]
    next_subcategories: Int64[np.ndarray, "S H"]
    weights: Float64[np.ndarray, "parts"]
    immediate_repeats: bool

    @classmethod
    def create(
        cls,
        *,
        num_items: int = 500,
        num_categories: int = 12,
        subcategories_per_category: int = 3,
        zipf_exponent: float = 1.0,
        successor_share: float = 0.4,
        subcategory_share: float = 0.4,
        immediate_repeats: bool = False,
        seed: int = 0,
    ) -> PlantedCatalogue:
        """Draws a catalogue.

        Args:
            num_items: N, at least two a sub-category.
            num_categories: 1 to 12.
            subcategories_per_category: 1 to 4.
            zipf_exponent: popularity of the item of rank r is proportional to r^-zipf_exponent, 0 to 2.
            successor_share: probability that the next item is a planted successor of the last.
            subcategory_share: probability that it is drawn by popularity from a planted next sub-category; what is left
                of 1 is drawn by global popularity.
            immediate_repeats: whether an item may follow itself.
            seed: the same seed gives the same catalogue.

        Raises:
            ConfigError: a number is out of range.

        >>> catalogue = PlantedCatalogue.create(num_items=100)
        >>> catalogue.items["item_id"][42], catalogue.transition(np.array([0, 7])).sum(axis=1).round(12).tolist()
        ('item-0042', [1.0, 1.0])
        """
        _check_range("num_categories", num_categories, 1, MAX_CATEGORIES)
        _check_range("subcategories_per_category", subcategories_per_category, 1, MAX_SUBCATEGORIES)
        num_subcategories = num_categories * subcategories_per_category
        _check_range("num_items", num_items, 2 * num_subcategories, fix="or take fewer categories")
        _check_range("zipf_exponent", zipf_exponent, 0, 2)
        _check_range("successor_share", successor_share, 0, 1)
        _check_range("subcategory_share", subcategory_share, 0, round(1 - successor_share, 9))
        rng = generator(seed, _STRUCTURE)
        subcategory = rng.permutation(np.arange(num_items) % num_subcategories)
        popularity = rng.permutation(np.arange(1, num_items + 1) ** -float(zipf_exponent))
        next_subcategories = _plan_subcategories(num_categories, subcategories_per_category, rng)
        successors = _plan_successors(subcategory, next_subcategories, rng)
        shares = (successor_share, subcategory_share, max(0.0, 1 - successor_share - subcategory_share))
        parts = (SUCCESSOR_WEIGHTS, SUBCATEGORY_WEIGHTS, (1.0,))
        weights = np.concatenate([np.multiply(share, part) for share, part in zip(shares, parts, strict=True)])
        width = max(4, len(str(num_items - 1)))
        items = describe_items(
            [f"item-{index:0{width}d}" for index in range(num_items)],
            subcategory // subcategories_per_category,
            subcategory % subcategories_per_category,
            generator(seed, _TEXT),
        )
        popularity /= popularity.sum()
        return cls(items, subcategory, popularity, successors, next_subcategories, weights, immediate_repeats)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.popularity)

    def index_of(self, item_ids: Sequence[str]) -> Int64[np.ndarray, "M"]:
        """Rows of the catalogue of some item ids, so that the cases of a prepared dataset can be looked up here.

        Raises:
            DataError: an id is not in this catalogue.
        """
        known = self.items["item_id"].to_numpy().astype(str)
        wanted = np.asarray(item_ids, dtype=str)
        index = np.minimum(np.searchsorted(known, wanted), self.num_items - 1)
        unknown = np.flatnonzero(known[index] != wanted)
        if len(unknown):
            raise DataError(
                "item id is not in the planted catalogue",
                found=f"{str(wanted[unknown[0]])!r} and {len(unknown) - 1} more",
                fix="rebuild the catalogue with the options and the seed that the data were made with",
            )
        return index

    def transition(self, last_items: Integer[np.ndarray, "B"]) -> Float64[np.ndarray, "B N"]:
        """P(next item | last item), the equation above.

        Args:
            last_items: item of the catalogue, or -1 for the first item of a history (global popularity).

        Returns:
            Rows that sum to 1; entry [b, last_items[b]] is 0 without immediate repeats.

        Raises:
            DataError: an item is not in the catalogue.
        """
        last = np.asarray(last_items, dtype=np.int64)
        if np.any((last < -1) | (last >= self.num_items)):
            raise DataError("last item is not in the planted catalogue", expected=f"-1 to {self.num_items - 1}")
        rows = np.arange(len(last))
        num_successors = self.successors.shape[1]
        within = self.popularity / np.bincount(self.subcategory, self.popularity)[self.subcategory]
        following = self.next_subcategories[self.subcategory[last]]  # [B, H]
        probability = np.multiply.outer(np.full(len(last), self.weights[-1]), self.popularity)
        for h in range(following.shape[1]):
            weight = self.weights[num_successors + h]
            probability += weight * within * (self.subcategory == following[:, h, None])
        for g in range(num_successors):
            probability[rows, self.successors[last, g]] += self.weights[g]
        if not self.immediate_repeats:
            probability[rows, last] = 0.0
        probability[last < 0] = self.popularity
        return probability / probability.sum(axis=1, keepdims=True)

    def optimal_recall(
        self, last_items: Integer[np.ndarray, "B"], k: int, *, seen: Ragged | None = None
    ) -> Float64[np.ndarray, "B"]:
        """Expected Recall@k of the best possible list of k distinct items: the sum of the k largest probabilities.

        Args:
            last_items: as in `transition`.
            k: length of the list, >= 1.
            seen: B rows of items that must not be in the list (the mask of items already seen); None: no mask.
        """
        return self._optimum(last_items, np.ones(_checked(k)), seen)

    def optimal_ndcg(
        self, last_items: Integer[np.ndarray, "B"], k: int, *, seen: Ragged | None = None
    ) -> Float64[np.ndarray, "B"]:
        """Expected NDCG@k of the best possible list: the k largest probabilities, descending, over log2(rank + 1)."""
        return self._optimum(last_items, 1 / np.log2(np.arange(_checked(k)) + 2), seen)

    def optimal_items(
        self, last_items: Integer[np.ndarray, "B"], k: int, *, seen: Ragged | None = None
    ) -> Int64[np.ndarray, "B k"]:
        """The best possible list itself: (probability desc, item asc), -1 where seen items would be next; k <= N."""
        _check_range("k", k, 1, self.num_items)

        def best(probability: np.ndarray) -> np.ndarray:
            order = np.argsort(-probability, axis=1, kind="stable")[:, :k]
            return np.where(np.take_along_axis(probability, order, axis=1) < 0, -1, order)

        return self._by_rows(last_items, best, seen, np.empty((0, k), np.int64))

    def _optimum(self, last_items: np.ndarray, gains: np.ndarray, seen: Ragged | None) -> np.ndarray:
        length = min(len(gains), self.num_items)

        def best(probability: np.ndarray) -> np.ndarray:
            top = np.partition(probability, self.num_items - length, axis=1)[:, self.num_items - length :]
            return np.sort(np.maximum(top, 0.0), axis=1)[:, ::-1] @ gains[:length]

        return self._by_rows(last_items, best, seen, np.empty(0))

    def _by_rows(
        self,
        last_items: np.ndarray,
        function: Callable[[np.ndarray], np.ndarray],
        seen: Ragged | None,
        empty: np.ndarray,
    ) -> np.ndarray:
        """`function` of the rows of P, seen items set to -1, in chunks; without a mask once for each last item."""
        last, inverse = np.asarray(last_items), None
        if seen is None:
            last, inverse = np.unique(last, return_inverse=True)
        step = max(1, _CHUNK // self.num_items)
        parts = [empty]
        for start in range(0, len(last), step):
            probability = self.transition(last[start : start + step])
            if seen is not None:
                row, item, _ = seen.take(slice(start, start + step)).flat()
                probability[row, item] = -1.0
            parts.append(function(probability))
        values = np.concatenate(parts)
        return values if inverse is None else values[inverse]

    def sample(
        self, num_users: int, min_length: int = 5, max_length: int = 20, seed: int = 0
    ) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "M"], Int64[np.ndarray, "M"]]:
        """Histories of `num_users` users. More users leave those before them as they are.

        Args:
            num_users: U, >= 1.
            min_length: shortest history, >= 1.
            max_length: longest history; lengths are uniform.
            seed: of the histories; the catalogue has its own.

        Returns:
            user, item and timestamp (s UTC, strictly increasing within a user) of each event, by user and time.

        Raises:
            ConfigError: a number is out of range.
        """
        _check_range("num_users", num_users, 1)
        _check_range("min_length", min_length, 1)
        _check_range("max_length", max_length, min_length)
        spread = generator(seed, _LENGTHS).random(num_users)
        lengths = min_length + (spread * (max_length - min_length + 1)).astype(np.int64)
        history = np.empty((num_users, max_length), dtype=np.int64)
        last = np.full(num_users, -1)
        for step in range(max_length):
            last = history[:, step] = self._draw_next(last, seed, step)
        is_valid = np.arange(max_length) < lengths[:, None]
        users = np.repeat(np.arange(num_users), lengths)
        return users, history[is_valid], _draw_times(is_valid, seed)[is_valid]

    def _draw_next(self, last: np.ndarray, seed: int, step: int) -> np.ndarray:
        """One step of the chain for all users; an immediate repeat is drawn again until it is none."""
        drawn = self._mixture(last, generator(seed, _ITEMS, step, 0).random(len(last)))
        attempt = 0
        while not self.immediate_repeats and (again := np.flatnonzero(drawn == last)).size:
            attempt += 1
            uniform = generator(seed, _ITEMS, step, attempt).random(len(last))
            drawn[again] = self._mixture(last[again], uniform[again])
        return drawn

    def _mixture(self, last: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """The item at the quantile `uniform` of the mixture: first the part, then the rest of the number within it."""
        num_successors, num_following = self.successors.shape[1], self.next_subcategories.shape[1]
        bounds = np.concatenate([[0.0], np.cumsum(self.weights)])
        part = np.clip(np.searchsorted(bounds, uniform, side="right") - 1, 0, np.flatnonzero(self.weights)[-1])
        rest = (uniform - bounds[part]) / self.weights[part]
        part = np.where(last < 0, len(self.weights) - 1, part)
        rest = np.where(last < 0, uniform, rest)
        drawn = self.successors[last, np.minimum(part, num_successors - 1)]
        order, starts, cumulative = self._tables
        following = self.next_subcategories[
            self.subcategory[last], np.clip(part - num_successors, 0, num_following - 1)
        ]
        is_global = part == len(self.weights) - 1
        low = np.where(is_global, 0, starts[following])
        high = np.where(is_global, self.num_items, starts[following + 1])
        target = cumulative[low] + rest * (cumulative[high] - cumulative[low])
        place = np.clip(np.searchsorted(cumulative, target, side="right") - 1, low, high - 1)
        return np.where(part < num_successors, drawn, order[place])

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items by sub-category [N], where each begins [S + 1], popularity summed in that order [N + 1]."""
        order = np.argsort(self.subcategory, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.subcategory))])
        return order, starts, np.concatenate([[0.0], np.cumsum(self.popularity[order])])


def read_synthetic(
    raw_dir: Path | None = None,
    *,
    num_users: int = 2000,
    num_items: int = 500,
    num_categories: int = 12,
    min_length: int = 5,
    max_length: int = 20,
    immediate_repeats: bool = False,
    seed: int = 0,
) -> RawData:
    """Histories and item descriptions of a planted catalogue, as a source of raw data.

    Args:
        raw_dir: not read; sources share this argument.
        num_users: users "user-00000", ...
        num_items: as in `PlantedCatalogue.create`.
        num_categories: as in `PlantedCatalogue.create`.
        min_length: shortest history.
        max_length: longest history.
        immediate_repeats: whether an item may follow itself.
        seed: of catalogue and histories.

    Raises:
        ConfigError: a number is out of range.
    """
    catalogue = catalogue_of(
        num_items=num_items, num_categories=num_categories, immediate_repeats=immediate_repeats, seed=seed
    )
    users, items, timestamps = catalogue.sample(num_users, min_length, max_length, seed)
    width = max(5, len(str(num_users - 1)))
    user_ids = pl.Series([f"user-{index:0{width}d}" for index in range(num_users)], dtype=pl.String)
    interactions = pl.DataFrame(
        {
            "user_id": user_ids.gather(users),
            "item_id": catalogue.items["item_id"].gather(items),
            "timestamp": pl.Series(timestamps * 1000, dtype=pl.Int64),
        }
    )
    note = f"synthetic: {num_users} users and {num_items} items of a planted catalogue, seed {seed}"
    return RawData(interactions.lazy(), catalogue.items, notes=(note,))


def catalogue_of(
    raw_dir: Path | None = None,
    *,
    num_users: int = 2000,
    num_items: int = 500,
    num_categories: int = 12,
    min_length: int = 5,
    max_length: int = 20,
    immediate_repeats: bool = False,
    seed: int = 0,
) -> PlantedCatalogue:
    """The catalogue behind `read_synthetic` with the same options, to know the optimum of its cases."""
    return PlantedCatalogue.create(
        num_items=num_items, num_categories=num_categories, immediate_repeats=immediate_repeats, seed=seed
    )


def write_raw(folder: Path, raw: RawData, *, interactions_format: str = "parquet") -> tuple[Path, Path]:
    """Writes raw data as files that any table reader takes: interactions.parquet or .csv, and items.parquet.

    Args:
        folder: made if it is absent.
        raw: what a source delivers, with items, for instance `read_synthetic()`; timestamps stay in ms.
        interactions_format: `parquet` or `csv`; items hold lists, which CSV cannot.

    Returns:
        The two files.

    Raises:
        ConfigError: the format is unknown.
        DataError: the raw data have no items.
        RunError: a file is there already.
        StorageError: the files cannot be written.
    """
    if interactions_format not in ("parquet", "csv"):
        raise ConfigError("unknown interactions_format", expected="parquet or csv", found=repr(interactions_format))
    if raw.items is None:
        raise DataError("the raw data have no items to write", where=folder)
    targets = folder / f"interactions.{interactions_format}", folder / "items.parquet"
    for target in targets:
        if target.exists():
            raise RunError("the file is there already", where=target, fix="choose another folder")
    partial = [target.with_name(f".{target.name}.partial") for target in targets]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with writing_by_others(folder, inside=folder):
            write = raw.interactions.sink_csv if interactions_format == "csv" else raw.interactions.sink_parquet
            write(partial[0])
            raw.items.write_parquet(partial[1])
            for source, target in zip(partial, targets, strict=True):
                source.replace(target)
    finally:
        for file in partial:
            file.unlink(missing_ok=True)
    return targets


def _plan_subcategories(num_categories: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Next sub-categories [S, 2]: one in the same category, one in the next category of a random cycle.

    Each column is a permutation, so all sub-categories are visited about equally often.
    """
    subcategories = np.arange(num_categories * width)
    category, place = subcategories // width, subcategories % width
    cycle = rng.permutation(num_categories)
    next_category = np.empty_like(cycle)
    next_category[cycle] = np.roll(cycle, -1)
    places = np.stack([rng.permutation(width) for _ in range(num_categories)])
    within = category * width + (place + 1) % width
    across = next_category[category] * width + places[category, place]
    return np.stack([within, across], axis=1)


def _plan_successors(subcategory: np.ndarray, following: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Successors [N, 3]: two different items of the first next sub-category and one of the second.

    The items of a sub-category are dealt out in turn, so the unpopular ones are somebody's successors, too.
    """
    members = [np.flatnonzero(subcategory == index) for index in range(len(following))]
    successors = np.empty((len(subcategory), len(SUCCESSOR_WEIGHTS)), dtype=np.int64)
    for index, own in enumerate(members):
        near, far = (rng.permutation(members[target]) for target in following[index])
        turn = np.arange(len(own))
        successors[own, 0] = near[turn % len(near)]
        successors[own, 1] = near[(turn + 1) % len(near)]
        successors[own, 2] = far[turn % len(far)]
    return successors


def _draw_times(is_valid: np.ndarray, seed: int) -> np.ndarray:
    """Timestamps [U, T] in s; a history that would outlast the horizon is squeezed into it."""
    gaps = generator(seed, _GAPS).lognormal(np.log(MEDIAN_GAP), GAP_SIGMA, is_valid.shape) * is_valid
    gaps[:, 0] = 0.0
    total = gaps.sum(axis=1, keepdims=True)
    gaps = 1 + np.floor(gaps * np.minimum(1.0, HORIZON / np.maximum(total, 1.0)))  # at least a second apart
    start = generator(seed, _STARTS).random((len(gaps), 1)) * np.maximum(HORIZON - total, 0)
    return (FIRST_SECOND + np.floor(start) + np.cumsum(gaps, axis=1)).astype(np.int64)


def _check_range(name: str, value: float, low: float, high: float | None = None, *, fix: str | None = None) -> None:
    if not low <= value or not (high is None or value <= high):
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        raise ConfigError(f"{name} is out of range", expected=limits, found=value, fix=fix)


def _checked(k: int) -> int:
    _check_range("k", k, 1)
    return k
