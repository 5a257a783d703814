"""``tokenizer=published``: the items of a newer dataset keep the semantic IDs that they have."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import polars as pl

from genrec.config import training
from genrec.data.dataset import Dataset
from genrec.data.overlap import match_rows
from genrec.errors import DataError, GateError
from genrec.pipeline.catalogue_tables import version_summary, version_table
from genrec.pipeline.health import examples_table, facts_of_histories, write_figures
from genrec.pipeline.published import load_published, save_version
from genrec.quantization.diagnostics import check_gates, health, health_rows
from genrec.semantic_ids.versions import Version, some_ids
from genrec.terminal import Outcome, Table


def republish(config: training.TokenizeConfig, tokenizer: training.PublishedTokenizer) -> Outcome:
    """Gives the items of a newer dataset the semantic IDs that they have, so that training can go on with them.

    Items that the dataset does not have keep theirs as retired ones; a retired item that it has is back.
    """
    before, dataset = load_published(tokenizer.semantic_ids), Dataset.load(config.dataset)
    version = before.version
    names = [*version.item_ids, *version.retired_ids]
    codes = np.concatenate([version.table.codes, version.retired_codes])
    rows = match_rows(dataset.item_ids, pl.Series(names, dtype=pl.String))
    if (rows < 0).any():
        missing = dataset.item_ids.filter(pl.Series(rows < 0)).to_list()
        raise DataError(
            f"{len(missing)} of {dataset.num_items} items of the dataset have no published semantic ID",
            where=tokenizer.semantic_ids,
            found=some_ids(missing),
            fix="add them first: genrec catalogue append",
        )
    left = np.setdiff1d(np.arange(len(names)), rows)
    table = replace(version.table, codes=codes[rows])
    after = Version(dataset.item_ids.to_list(), table, [names[row] for row in left], codes[left])
    back = [names[row] for row in sorted(rows[rows >= len(version.item_ids)].tolist())]
    num_levels = table.num_levels - (table.collisions in ("suffix", "reassign_or_suffix"))
    found = health(
        table.codes[:, :num_levels],
        table.codes,
        codebook_sizes=table.codebook_sizes,
        categories=dataset.items["categories"].to_list(),
    )
    found |= facts_of_histories(config, dataset, table.codes[:, :num_levels])
    shown = (
        Table(f"{config.output}: health", ("what", "value", "remark"), tuple(health_rows(found)), ("what", "remark")),
        examples_table(found["examples"]),
    )
    try:
        check_gates(found, **asdict(config.gates), are_given=True)
    except GateError as error:
        error.evidence = Outcome({"health": found}, shown, notes=("a gate failed, nothing was written",))
        raise
    change = {"name": "published", "returned": len(back), "retired": int((left < len(version.item_ids)).sum())}
    artifact = save_version(
        config.output,
        before,
        after,
        rows=dataset,
        change=change,
        health={**found, "tokenizer": before.tokenizer},
        write_more=partial(write_figures, found) if config.figures else None,
        overwrite=config.overwrite,
    )
    notes = ()
    if back:
        notes = (f"{len(back)} retired items have events in the dataset and are back: {some_ids(back)}",)
    summary = {**version_summary(config.output, artifact, after), **change}
    follow = f"genrec train dataset={config.dataset} semantic_ids={config.output} initial=... run=..."
    return Outcome(summary, (version_table(config.output, before.number + 1, summary), *shown), notes, follow)
