"""From what a source delivers to one clean, indexed, ordered and split dataset.

`prepare` is a chain of pure steps: read ids as integer codes, drop ratings, duplicates and rare users and items, index,
order, split, describe. Everything between reading and writing works on integer columns, so ten million rows need
seconds and about a gigabyte. Knows Polars and NumPy, and nothing of files, folders or configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.data.filters import FilterPolicy, filter_events, require_choice
from genrec.data.item_table import TextPolicy, build_item_codes, build_items
from genrec.data.schema import (
    INTERACTIONS,
    RAW_OPTIONAL,
    RAW_REQUIRED,
    SPLIT_DTYPE,
    SPLITS,
    USERS,
    RawData,
    check_frame,
)
from genrec.data.sources.lines import is_too_bad
from genrec.data.splits import SplitPolicy, assign_split
from genrec.errors import DataError


@dataclass(frozen=True)
class OrderPolicy:
    """What makes a user's events a sequence.

    Attributes:
        by: "timestamp" (every event needs one; milliseconds count where the source has them) or "file".
        ties: order of a user's events of one timestamp: "item_id" (ascending in the order of the item index, so that
            the result does not depend on the order of the rows) or "file".
    """

    by: str = "timestamp"
    ties: str = "item_id"

    def __post_init__(self) -> None:
        require_choice("order.by", self.by, ("timestamp", "file"))
        require_choice("order.ties", self.ties, ("item_id", "file"))


@dataclass(frozen=True)
class Prepared:
    """What `prepare` makes; `genrec.data.dataset.save_dataset` writes it.

    Attributes:
        interactions: columns `INTERACTIONS`, sorted by (user_index, position).
        items: columns `ITEMS`, row i is item_index i.
        users: columns `USERS`, row i is user_index i.
        item_codes: int32 [N, L] imported semantic IDs, rows by item_index, or None.
        facts: JSON-able: bad_lines and notes of the source; steps (interactions, users and items that reading and each
            filter left); num_interactions, num_users, num_items, num_train, num_validation, num_test; has_clock (every
            event has a timestamp), rows_without_timestamp, rows_in_ties (events at the same millisecond as the event
            before or after them); train_after_evaluation; users_without_evaluation (leave-one-out) or cuts (temporal);
            descriptions_repeated, descriptions_unused, items_without_description, codes_repeated, codes_unused;
            id_order; policy (the four policies).
        id_order: {"users", "items"}: how the ids were sorted, "numeric" or "lexicographic".
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    item_codes: np.ndarray | None
    facts: dict[str, Any]
    id_order: dict[str, str]


def prepare(
    raw: RawData,
    *,
    filters: FilterPolicy | None = None,
    order: OrderPolicy | None = None,
    split: SplitPolicy | None = None,
    text: TextPolicy | None = None,
) -> Prepared:
    """Filters, indexes, orders and splits the events of a source, and describes their items.

    With ties="item_id" the result does not depend on the order of the source's rows. Only the filters see held-out
    events (the k-core does in every published protocol); all other statistics are left to those who read the split.

    Args:
        raw: a source's events, descriptions and codes.
        filters: ratings, duplicates, k-core.
        order: time or file, and the tie rule. Under a provided split, a user's events of one timestamp come in the
            order train, validation, test before the tie rule applies, so that a tie cannot turn the split round.
        split: leave-one-out, temporal or provided.
        text: text fields and repeated descriptions.

    Raises:
        DataError: a needed column or value is absent, or a part of the split would be empty.
    """
    filters, order, split = filters or FilterPolicy(), order or OrderPolicy(), split or SplitPolicy()
    text = text or TextPolicy()
    where = _name_files(raw.files)
    events = read_events(raw, with_rating=filters.min_rating is not None, with_split=split.name == "provided")
    _check_clock(events, filters, order, split, first=raw.first_untimed, where=where)
    facts: dict[str, Any] = {"bad_lines": raw.num_bad_lines, "notes": list(raw.notes)}
    events, facts["steps"] = filter_events(events, filters, order=order.by, where=where)

    table, ids, id_order = _index_events(events)
    del events
    table = order_events(table, order)
    sizes = np.bincount(table.get_column("user_index").to_numpy())
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    parts, split_facts = assign_split(table, offsets, split, steps=facts["steps"], lower=filters.lower(), where=where)
    interactions = _finish_interactions(table, offsets, parts)
    users = pl.DataFrame({"user_id": ids["users"]}).with_row_index("user_index")
    users = users.with_columns(pl.Series("num_interactions", sizes)).select(pl.col(n).cast(t) for n, t in USERS.items())

    catalogue, item_facts = build_items(ids["items"], raw.items, text, where=raw.items_file or where)
    codes = None
    if raw.item_codes is not None:
        codes, code_facts = build_item_codes(ids["items"], raw.item_codes, text, where=raw.codes_file or where)
        item_facts |= code_facts
    facts |= {
        "num_interactions": len(interactions),
        "num_users": len(users),
        "num_items": len(catalogue),
        **{f"num_{name}": int(count) for name, count in zip(SPLITS, np.bincount(parts, minlength=3), strict=True)},
        "has_clock": interactions.get_column("timestamp").null_count() == 0,
        "rows_without_timestamp": interactions.get_column("timestamp").null_count(),
        "rows_in_ties": _count_ties(table),
        **split_facts,
        **item_facts,
        "id_order": id_order,
        "policy": {
            "filter": asdict(filters),
            "order": asdict(order),
            "split": asdict(split),
            "text": {"fields": list(text.fields), "duplicates": text.duplicates},
        },
    }
    return Prepared(interactions, catalogue, users, codes, facts, id_order)


def read_events(raw: RawData, *, with_rating: bool = False, with_split: bool = False) -> pl.DataFrame:
    """Collects a source's events in one streaming pass, ids as categories, so that strings are held once.

    Returns:
        In file order: user, item (Categorical), time (Int64 ms, null where unknown), and on request rating (Float64)
        and split (UInt8).

    Raises:
        DataError: a file cannot be read, a column is absent or of another type, or an id or a split is null or empty.
    """
    where = _name_files(raw.files)
    # categories of its own: the default ones are shared by the whole process and never shrink
    categories = {name: pl.Categorical(pl.Categories.random()) for name in ("user", "item")}
    columns = [pl.col(f"{name}_id").cast(dtype).alias(name) for name, dtype in categories.items()]
    try:
        check_frame(raw.interactions, RAW_REQUIRED, RAW_OPTIONAL, where=where)
        present = raw.interactions.collect_schema()
        time = pl.col("timestamp") if "timestamp" in present else pl.lit(None, dtype=pl.Int64)
        columns.append(time.alias("time"))
        for name, wanted in (("rating", with_rating), ("split", with_split)):
            if wanted and name not in present:
                reason = {"rating": "filter.min_rating", "split": "split=provided"}[name]
                what, fix = f"{reason} needs a column {name!r}", f"set source.{name}_column=... (with source=table)"
                raise DataError(what, where=where, found=", ".join(present), fix=fix)
        columns += [pl.col("rating")] * with_rating + [pl.col("split").to_physical().cast(pl.UInt8)] * with_split
        events = raw.interactions.select(columns).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"cannot read the interactions: {error}", where=where) from error
    if events.is_empty():
        raise DataError("there are no interactions", where=where)
    checks = [(pl.col(name).is_null() | (pl.col(name) == "")).sum().alias(f"{name}_id") for name in categories]
    checks += [pl.col("split").is_null().sum()] * with_split
    for name, missing in events.select(checks).row(0, named=True).items():
        if missing:
            raise DataError(f"{missing} of {len(events)} rows have no {name}", where=where)
    return events


def sort_ids(ids: pl.Series) -> tuple[np.ndarray, str]:
    """The order of an index map: numeric if every id is a canonical non-negative integer, else by code points.

    Args:
        ids: String [N], distinct.

    Returns:
        order: [N], ``ids[order]`` is sorted.
        name: "numeric" or "lexicographic".

    >>> [(pl.Series(ids).gather(order).to_list(), name)
    ...  for ids in (["10", "9", "0"], ["10", "9", "01"]) for order, name in [sort_ids(pl.Series(ids))]]
    [(['0', '9', '10'], 'numeric'), (['01', '10', '9'], 'lexicographic')]
    """
    if ids.str.contains(r"^(0|[1-9][0-9]*)$").all():
        # without leading zeros the longer number is the larger one, however many digits it has
        keys = pl.DataFrame({"length": ids.str.len_bytes(), "id": ids})
        return keys.select(pl.arg_sort_by("length", "id")).to_series().to_numpy(), "numeric"
    return ids.arg_sort().to_numpy(), "lexicographic"


def order_events(table: pl.DataFrame, policy: OrderPolicy) -> pl.DataFrame:
    """Sorts by user and within a user by the policy.

    Args:
        table: user_index, item_index, time (ms), and split where the source provides it; in file order.
        policy: time or file, and the tie rule.
    """
    keys = ["user_index"]
    if policy.by == "timestamp":
        keys += ["time", *(["split"] if "split" in table.columns else [])]
        keys += ["item_index"] if policy.ties == "item_id" else []
    return table.sort(keys, maintain_order="item_index" not in keys)


def _name_files(files: Sequence[Path]) -> str:
    if not files:
        return "interactions"
    return str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _check_clock(
    events: pl.DataFrame,
    filters: FilterPolicy,
    order: OrderPolicy,
    split: SplitPolicy,
    *,
    first: str | None,
    where: str,
) -> None:
    """Raises DataError if a policy needs times that the events lack; `first` is the place of the first such event."""
    unknown = events.get_column("time").null_count()
    if not unknown:
        return
    found = "no timestamps" if unknown == len(events) else f"{unknown} of {len(events)} rows without"
    skip = ""
    if first is not None and unknown < len(events):
        found += f", the first is {first}"
        # more of them would be refused
        skip = "" if is_too_bad(unknown, len(events)) else "set source.skip_bad_lines=true to leave such rows out, or "
    if split.name == "temporal":
        fix = skip + "set split=leave_one_out order.by=file"
        raise DataError("split=temporal needs a timestamp for every row", where=where, found=found, fix=fix)
    if order.by == "timestamp":
        fix = skip + "set order.by=file to take the rows in the order of the file"
        raise DataError("order.by=timestamp needs a timestamp for every row", where=where, found=found, fix=fix)
    if filters.duplicates == "exact":
        fix = skip + "set filter.duplicates=first, last or keep"
        raise DataError("filter.duplicates=exact needs a timestamp for every row", where=where, found=found, fix=fix)


def _index_events(events: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, pl.Series], dict[str, str]]:
    """Replaces the codes, which depend on the order of reading, by contiguous integers in the order of the ids."""
    columns, ids, names = {}, {}, {}
    for name in ("user", "item"):
        present = events.get_column(name).unique()
        texts, codes = present.cast(pl.String), present.to_physical().to_numpy()
        order, names[f"{name}s"] = sort_ids(texts)
        index = np.zeros(int(codes.max()) + 1, dtype=np.uint32)
        index[codes[order]] = np.arange(len(order), dtype=np.uint32)
        columns[f"{name}_index"] = index[events.get_column(name).to_physical().to_numpy()]
        ids[f"{name}s"] = texts.gather(order)
    return pl.DataFrame(columns).hstack(events.drop("user", "item")), ids, names


def _finish_interactions(table: pl.DataFrame, offsets: np.ndarray, parts: np.ndarray) -> pl.DataFrame:
    position = np.arange(len(table)) - np.repeat(offsets[:-1], np.diff(offsets))
    return table.select(
        "user_index",
        "item_index",
        _to_seconds(table).alias("timestamp"),
        pl.Series("position", position.astype(np.uint32)),
        pl.Series("split", SPLITS, dtype=SPLIT_DTYPE).gather(parts),
    ).select(list(INTERACTIONS))


def _to_seconds(table: pl.DataFrame) -> pl.Series:
    return table.get_column("time") // 1000  # floors, before 1970 too


def _count_ties(table: pl.DataFrame) -> int:
    """Events that share user and time, to the millisecond, with a neighbour."""
    same = [pl.col(name) == pl.col(name).shift() for name in ("user_index", "time")]
    tied = table.select(pl.all_horizontal(same).fill_null(False)).to_series()
    return int((tied | tied.shift(-1, fill_value=False)).sum())
