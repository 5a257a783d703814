"""The ledger of published numbers: its cells, what each of them runs, and the table of all."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from genrec.config import reproduce, schema, training
from genrec.config.load import from_values, load_config, read_yaml, to_plain
from genrec.config.named import find_config, named_configs
from genrec.errors import ConfigError
from genrec.evaluation.metrics import parse_metric
from genrec.evaluation.summary import CUTOFFS, MASKS
from genrec.terminal import Table

T = TypeVar("T")
FOLDER = "reproduce"
ROW = "trained"  # of the evaluation table, where something is trained
# Where a cell runs and what it reads: no change of what it is.
NEUTRAL = {"prepare.raw_dir", "train.accelerator", "train.devices", "train.compile", "evaluate.devices"}
COMMANDS = ("prepare", "embed", "tokenize", "train", "evaluate")


@dataclass(frozen=True)
class Plan:
    """A cell and what it runs: the configuration of each command; None: the command is left out.

    Attributes:
        cell: its name.
        claim: what was published.
        data: the named configuration of its data.
        output: folder of everything.
        train: of the first seed; see `seeded`.
        evaluate: likewise.
        row: row of the evaluation table that is compared.
    """

    cell: str
    claim: reproduce.ClaimSection
    data: str
    output: Path
    prepare: schema.PrepareConfig
    embed: schema.EmbedConfig | None
    tokenize: training.TokenizeConfig | None
    train: training.TrainConfig | None
    evaluate: schema.EvaluateConfig
    row: str

    def seeded(self, seed: int) -> tuple[training.TrainConfig, schema.EvaluateConfig]:
        """Training and evaluation of one seed, in a folder of its own."""
        assert self.train is not None
        folder = self.output / f"seed_{seed}"
        rows = {ROW: folder / "train" / "recommender"}
        return (
            replace(self.train, run=folder / "train", seed=seed),
            replace(self.evaluate, output=folder / "evaluation", recommenders=rows),
        )


@dataclass(frozen=True)
class Number:
    """One published number of a cell."""

    metric: str
    mask: str
    value: float
    tolerance: float


def read_ledger() -> dict[str, reproduce.ReproduceConfig]:
    """Every cell that has a name, by its name."""
    return {
        name: load_config(reproduce.ReproduceConfig, [file]) for name, file in sorted(named_configs(FOLDER).items())
    }


def claim_of(config: reproduce.ReproduceConfig) -> tuple[str, reproduce.ClaimSection]:
    """Name and claim of a cell.

    Raises:
        ConfigError: a name without a claim, or a claim without a name.
    """
    if config.cell is not None and config.claim is not None:
        return config.cell, config.claim
    names = list(named_configs(FOLDER))
    if config.cell is None:
        raise ConfigError("a cell needs a name", where="key 'cell'", fix="set cell=NAME")
    close = difflib.get_close_matches(config.cell, names, n=1, cutoff=0.4)
    hint = f"genrec reproduce {close[0]}" if close else "genrec reproduce NAME"
    raise ConfigError(
        "nothing is known of this cell but its name", where="key 'cell'", found=config.cell, fix=f"try {hint}"
    )


def numbers_of(claim: reproduce.ClaimSection) -> list[Number]:
    """The published numbers, those without a mask first.

    Raises:
        ConfigError: none, an unknown metric, or one without a tolerance.
    """
    numbers = []
    for mask in MASKS:
        for metric, value in getattr(claim.published, mask).items():
            parse_metric(metric)
            if not claim.tolerance.get(metric, -1.0) >= 0.0:
                what = "a published number has no tolerance, from 0 on"
                raise ConfigError(what, where="key 'claim.tolerance'", expected=metric)
            numbers.append(Number(metric, mask, value, claim.tolerance[metric]))
    if not numbers:
        raise ConfigError("a cell without a published number", where="key 'claim.published'")
    return numbers


def resolve(config: reproduce.ReproduceConfig) -> Plan:
    """What a cell runs.

    Raises:
        ConfigError: unknown names, keys, metrics or tolerances; keys that the cell's folders decide; not exactly one
            row to compare; no seeds.
    """
    name, claim = claim_of(config)
    output = config.output or Path("runs") / "reproduce" / name
    dataset = {"dataset": str(output / "dataset")}
    trains, embeds, tokenizes = (_is_there(config, command) for command in ("train", "embed", "tokenize"))
    raw = {} if config.raw_dir is None else {"raw_dir": str(config.raw_dir)}
    decided: dict[str, dict[str, Any]] = {
        "prepare": {"output": dataset["dataset"], "overwrite": True, "download": config.download, **raw},
        "embed": {**dataset, "output": str(output / "embeddings"), "overwrite": True},
        "tokenize": {**dataset, "output": str(output / "semantic_ids"), "overwrite": True},
        "train": {**dataset, "run": str(output / "train"), "seed": min(config.seeds, default=0)},
        "evaluate": {**dataset, "output": str(output / "evaluation"), "overwrite": True, "recommenders": {}},
    }
    if embeds:
        decided["tokenize"]["tokenizer.embeddings"] = str(output / "embeddings")
    if tokenizes:
        decided["train"]["semantic_ids"] = str(output / "semantic_ids")
    evaluate = _section(schema.EvaluateConfig, config, "evaluate", decided, {"models": []} if trains else {})
    _check_row(config, evaluate, trains)
    _check_cutoffs(numbers_of(claim), evaluate)
    return Plan(
        cell=name,
        claim=claim,
        data=config.named.prepare or "data of its own",
        output=output,
        prepare=_section(schema.PrepareConfig, config, "prepare", decided),
        embed=_section(schema.EmbedConfig, config, "embed", decided) if embeds else None,
        tokenize=_section(training.TokenizeConfig, config, "tokenize", decided) if tokenizes else None,
        train=_section(training.TrainConfig, config, "train", decided) if trains else None,
        evaluate=evaluate,
        row=ROW if trains else evaluate.models[0],
    )


def changes(config: reproduce.ReproduceConfig) -> list[str]:
    """``key=value`` of all that matters and is not as the ledger has it; nothing for a cell that is not in it."""
    name, _ = claim_of(config)
    file = named_configs(FOLDER).get(name)
    if file is None:
        return []
    known, here = (
        dict(_leaves({part: to_plain(getattr(entry, part)) for part in ("claim", "named", *COMMANDS)}))
        for entry in (load_config(reproduce.ReproduceConfig, [file]), config)
    )
    differing = {key for key in known.keys() | here.keys() if known.get(key) != here.get(key)}
    return [f"{key}={here.get(key)}" for key in sorted(differing - NEUTRAL)]


def ledger_table(plans: Iterable[Plan]) -> Table:
    """A row a cell: what is claimed, under which protocol, what we have, and what it costs to run."""
    columns = ("cell, data [trust]", "protocol", "published", "here", "recorded in", "cost")
    return Table(
        "published numbers and the way to them",
        columns,
        tuple(map(_row, plans)),
        left=columns,
        caption="R: recall, N: NDCG, always of a full ranking; *: the items of the history masked. Trust: read in the "
        "paper, in its code, at a third party, or measured on the same files",
    )


def describe(plan: Plan) -> dict[str, Any]:
    """A cell as plain facts, with the protocol that it is run under."""
    return {"cell": plan.cell, "data": plan.data, **to_plain(plan.claim), "ours": protocol_of(plan)}


def protocol_of(plan: Plan) -> str:
    """Split, search and ties of our evaluation, in a few words."""
    beams = [] if plan.tokenize is None else [f"{plan.evaluate.search.beam_width} beams"]
    return ", ".join([plan.evaluate.split, *beams, f"{plan.evaluate.ties} ties"])


def short_metric(metric: str) -> str:
    """R@10 for recall@10.

    >>> short_metric("ndcg@10"), short_metric("mrr@5")
    ('N@10', 'M@5')
    """
    name, _, cutoff = metric.partition("@")
    return f"{name[0].upper()}@{cutoff}"


def show(value: float) -> str:
    """Four digits, or five where the fifth says something, without the zero before the point.

    >>> show(0.0972), show(0.00005), show(0.5)
    ('.0972', '.00005', '.5000')
    """
    return f"{value:.5f}".rstrip("0").removeprefix("0").ljust(5, "0")


def _row(plan: Plan) -> tuple[str, ...]:
    numbers, recorded = numbers_of(plan.claim), plan.claim.recorded
    published = [
        f"{short_metric(number.metric)}{'*' * (number.mask == 'seen')} {show(number.value)} ±{show(number.tolerance)}"
        for number in numbers
    ]
    if recorded is None:
        here, place = ["-"] * len(numbers), "not run yet"
    else:
        found = [getattr(recorded, number.mask).get(number.metric) for number in numbers]
        here = ["-" if value is None else show(value) for value in found]
        remark = f": {recorded.remark}" if recorded.remark else ""
        place = f"{Path(recorded.where).parts[:2][-1]}{remark}"
    return (
        f"{plan.cell}\n{plan.data} [{plan.claim.trust}]",
        textwrap.fill(protocol_of(plan), 16),
        "\n".join(published),
        "\n".join(here),
        textwrap.fill(place, 20, break_on_hyphens=False),
        textwrap.fill(plan.claim.cost, 16),
    )


def _is_there(config: reproduce.ReproduceConfig, command: str) -> bool:
    return getattr(config.named, command) is not None or bool(getattr(config, command))


def _section(
    root: type[T],
    config: reproduce.ReproduceConfig,
    command: str,
    decided: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """The configuration of one command: its named one, what the cell changes, and the folders."""
    changed, layers = getattr(config, command), {"defaults of a cell": defaults or {}}
    if taken := sorted(changed.keys() & decided[command].keys()):
        raise ConfigError(
            f"key '{command}.{taken[0]}' is decided by the cell",
            where=f"the cell {config.cell}",
            fix="set output=..., raw_dir=... or seeds=[...] instead",
        )
    word = getattr(config.named, command)
    if word is not None:
        file = find_config(command, word, where=f"key 'named.{command}'")
        layers[str(file)] = read_yaml(file)
    return from_values(root, {**layers, f"section {command!r}": changed, "the cell": decided[command]})


def _check_row(config: reproduce.ReproduceConfig, evaluate: schema.EvaluateConfig, trains: bool) -> None:
    if trains and (not config.seeds or len(set(config.seeds)) < len(config.seeds)):
        raise ConfigError(
            "a training needs seeds that differ", where="key 'seeds'", found=list(config.seeds), fix="set seeds=[0,1,2]"
        )
    if not trains and len(evaluate.models) != 1:
        raise ConfigError(
            "a cell that trains nothing compares one baseline",
            where="key 'evaluate.models'",
            expected="one name",
            found=", ".join(evaluate.models) or "none",
        )


def _check_cutoffs(numbers: list[Number], evaluate: schema.EvaluateConfig) -> None:
    cutoffs = evaluate.cutoffs or CUTOFFS
    for number in numbers:
        if parse_metric(number.metric)[1] not in cutoffs:
            raise ConfigError(
                f"{number.metric} is published, and not measured",
                where="key 'evaluate.cutoffs'",
                found=", ".join(map(str, cutoffs)),
            )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a tree of mappings."""
    if not isinstance(tree, Mapping):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
