"""``genrec <verb> [config ...] [key=value ...]``: reads the words, calls one function in `genrec.pipeline`, shows it.

Imports what is heavy inside the verbs, so that ``--help`` is instant. Exit codes: 0 ok, 2 usage or configuration, 3
data or storage, 4 a gate failed, 5 lineage mismatch, 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from genrec.config import (
    comparison,
    export,
    finetune,
    fusion,
    recipe,
    report,
    reproduce,
    schema,
    search,
    serving,
    training,
)
from genrec.config.named import config_folders as config_folders
from genrec.config.named import find_config as find_config

INTERRUPTED = 130

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verb:
    """One sub-command: its configuration, the function it calls in ``genrec.pipeline.<module>``, if it can resume."""

    name: str
    root: type | None
    module: str
    function: str
    summary: str
    resumable: bool = False

    @property
    def folder(self) -> str:
        """Where its named configurations are."""
        return {recipe.RecipeConfig: "recipes", training.TrainConfig: "train"}.get(self.root, self.name)  # type: ignore[arg-type]


VERBS = (
    Verb(
        "quickstart",
        schema.QuickstartConfig,
        "run",
        "quickstart",
        "The whole road on a synthetic catalogue, nothing downloaded.",
    ),
    Verb(
        "run",
        recipe.RecipeConfig,
        "run",
        "run",
        "A recipe, from raw files to the table; re-uses what is unchanged.",
    ),
    Verb("prepare", schema.PrepareConfig, "prepare", "prepare", "Raw files -> an audited, split dataset."),
    Verb(
        "audit",
        schema.AuditConfig,
        "prepare",
        "audit",
        "What a dataset hides: leaks, ties, cold items, skew.",
    ),
    Verb("embed", schema.EmbedConfig, "embed", "embed", "Item text or signals -> vectors."),
    Verb("tokenize", training.TokenizeConfig, "tokenizer", "tokenize", "Embeddings -> semantic IDs and their health."),
    Verb("train", training.TrainConfig, "train", "train", "Semantic IDs -> a recommender.", resumable=True),
    Verb("find-lr", training.TrainConfig, "find_rate", "find_rate", "The words of train -> a learning rate for it."),
    Verb(
        "finetune",
        finetune.FinetuneConfig,
        "finetune",
        "finetune",
        "A recommender -> one tuned by rewards for what it recommends.",
        resumable=True,
    ),
    Verb("fuse", fusion.FuseConfig, "fuse", "fuse", "A generative and a dense recommender -> their hybrid."),
    Verb(
        "evaluate",
        schema.EvaluateConfig,
        "evaluate",
        "evaluate",
        "Full ranking, one table with intervals.",
    ),
    Verb(
        "compare", comparison.CompareConfig, "compare", "compare", "Evaluations side by side: what is more than luck."
    ),
    Verb("report", report.ReportConfig, "report", "report", "A run, an evaluation or a comparison -> one HTML file."),
    Verb("frontier", search.FrontierConfig, "frontier", "frontier", "A recommender -> recall against latency, here."),
    Verb("diagnose", search.DiagnoseConfig, "diagnose", "diagnose", "A recommender -> where its search loses targets."),
    Verb(
        "reproduce",
        reproduce.ReproduceConfig,
        "reproduce",
        "reproduce",
        "A published number, from raw files to a verdict; alone: the ledger of them.",
    ),
    Verb("recommend", training.RecommendConfig, "recommend", "recommend", "Histories in, recommended item ids out."),
    Verb(
        "export",
        export.ExportConfig,
        "export",
        "export",
        "A recommender -> a bundle that needs NumPy and ONNX Runtime alone.",
    ),
    Verb("triton", export.TritonConfig, "engines", "triton", "A bundle -> a model repository of Triton or KServe."),
    Verb("trie", export.TrieConfig, "engines", "trie", "Semantic IDs -> their trie, for other engines."),
    Verb("serve", serving.ServeConfig, "serve", "serve", "A bundle -> an HTTP server."),
    Verb("sweep", schema.SweepConfig, "sweep", "sweep", "Tune item-kNN or a training on validation.", resumable=True),
    Verb("doctor", None, "doctor", "doctor", "What this machine has, and what is missing."),
)
INSPECT = (
    Verb(
        "item",
        schema.InspectItemConfig,
        "inspect",
        "inspect_item",
        "One item: description, counts, what follows it.",
    ),
    Verb(
        "user",
        schema.InspectUserConfig,
        "inspect",
        "inspect_user",
        "One user: history, target, recommendations.",
    ),
    Verb(
        "search",
        schema.InspectSearchConfig,
        "inspect_search",
        "inspect_search",
        "One search: its beams level by level, and where it lost the target.",
    ),
    Verb(
        "ids",
        schema.InspectIdsConfig,
        "inspect_ids",
        "inspect_ids",
        "Tables of semantic IDs side by side: health, and how alike they are.",
    ),
)

CATALOGUE = (
    Verb(
        "append",
        schema.CatalogueAppendConfig,
        "catalogue",
        "append",
        "New items: semantic IDs from the codebooks there are, and whether these still fit.",
    ),
    Verb(
        "retire",
        schema.CatalogueRetireConfig,
        "catalogue",
        "retire",
        "Items that are gone: out of the table, their semantic IDs kept for them.",
    ),
    Verb("publish", serving.PublishConfig, "serve", "publish", "A bundle -> the next version, which servers take."),
    Verb("diff", serving.DiffConfig, "catalogue_diff", "diff", "Two catalogues: what came, went, changed."),
    Verb("rollback", serving.RollbackConfig, "serve", "rollback", "Servers back to the version before."),
)

app = typer.Typer(
    name="genrec",
    help="Generative recommendation, from raw interactions to the served item id.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
inspect_app = typer.Typer(
    no_args_is_help=True, help="Look at one item, user or search, or at tables of semantic IDs.", rich_markup_mode=None
)
catalogue_app = typer.Typer(
    no_args_is_help=True,
    help="Add items to published semantic IDs, or take them out; publish bundles.",
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the ``genrec`` command."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        import genrec

        typer.echo(genrec.__version__)
        raise typer.Exit


def _command(verb: Verb, words: str) -> Callable[..., None]:
    def command(
        arguments: Annotated[list[str] | None, typer.Argument(help="YAML files, names in configs/, key=value")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Print the resolved configuration; do nothing.")
        ] = False,
        resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run, exactly.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log.")] = False,
        show_help: Annotated[bool, typer.Option("--help", "-h", help="Every key, and leave.")] = False,
    ) -> None:
        if show_help:
            _show_keys(verb, words)
            return
        _log_to_stderr(logging.INFO if verbose else logging.WARNING)
        _run(verb, arguments or [], as_json=as_json, dry_run=dry_run, resume=resume)

    return command


def _log_to_stderr(level: int) -> None:
    # The level is the handler's: a run folder's log.txt listens to more than the screen does.
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger("genrec").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")  # not for our users to mend


@contextmanager
def _packages() -> Iterator[None]:
    """In the block, a package that a slim installation lacks is one line."""
    from genrec.errors import ConfigError

    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "genrec").startswith("genrec"):
            raise
        what, fix = f"this needs the package {error.name}, which is not installed", "install genrec with all it needs"
        raise ConfigError(what, fix=fix) from error


def _run(verb: Verb, arguments: list[str], *, as_json: bool, dry_run: bool, resume: bool) -> None:
    """Configuration -> pipeline -> terminal; errors become one line and an exit code."""
    from genrec.errors import ConfigError, GateError, GenrecError, StorageError
    from genrec.processes import is_follower
    from genrec.terminal import ProgressReporter, Terminal, quieten_lightning

    # Idle OpenMP threads that spin cost up to ten times the work itself when cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    terminal = Terminal(as_json=as_json)
    try:
        if resume and not verb.resumable:
            raise ConfigError(f"{verb.name} has nothing to resume", where="--resume", fix="leave it out")
        keywords: dict[str, Any] = {"resume": resume} if verb.resumable else {}
        positional = []
        if verb.root is None:
            if arguments:
                raise ConfigError(f"{verb.name} takes no arguments", found=" ".join(arguments))
        else:
            positional = [_configure(verb, arguments)]
        if dry_run:
            _show_plan(terminal, positional)
            return
        follows = any(is_follower(getattr(config, "devices", 1)) for config in positional)
        with _packages(), ProgressReporter(terminal.err) as progress:
            module = importlib.import_module(f"genrec.pipeline.{verb.module}")
            quieten_lightning()
            outcome = getattr(module, verb.function)(*positional, progress=progress, **keywords)
        if not follows:
            terminal.show(outcome)
    except GenrecError as error:
        if isinstance(error, GateError) and error.evidence is not None:
            terminal.show(error.evidence)
        terminal.error(str(error))
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        terminal.error(f"{error.filename or 'input or output'}: {error.strerror or error}")
        raise typer.Exit(StorageError.exit_code) from error
    except KeyboardInterrupt as error:
        terminal.error("interrupted" + ("; go on with --resume" if verb.resumable else ""))
        raise typer.Exit(INTERRUPTED) from error


def _configure(verb: Verb, arguments: list[str]) -> Any:
    from genrec.config.load import load_config

    assert verb.root is not None
    files = [find_config(verb.folder, word) for word in arguments if "=" not in word]
    fixed = recipe.decided_by if verb.root is recipe.RecipeConfig else None
    return load_config(verb.root, files, [word for word in arguments if "=" in word], fixed=fixed)


def _show_plan(terminal: Any, positional: list[Any]) -> None:
    from genrec.config.load import to_plain, to_yaml
    from genrec.terminal import Outcome

    plan = importlib.import_module("genrec.pipeline.plan")
    cost = plan.expected_cost(*positional)
    if terminal.as_json:
        configuration = to_plain(positional[0]) if positional else {}
        terminal.show(Outcome({"configuration": configuration, "expected_cost": cost}))
        return
    for config in positional:
        terminal.text(to_yaml(config))
    for line in cost:
        terminal.text(f"# {line}")


def _show_keys(verb: Verb, words: str) -> None:
    from rich.markup import escape

    from genrec.config.load import describe
    from genrec.terminal import Terminal

    terminal = Terminal()
    usage = "" if verb.root is None else " [config.yaml or name ...] [key=value ...]"
    terminal.text(f"usage: genrec {words}{usage} [--json] [--dry-run]{' [--resume]' if verb.resumable else ''} [-v]")
    terminal.text(verb.summary)
    if verb.root is None:
        return
    folders = config_folders()
    named = sorted({file.stem for folder in folders for file in (folder / verb.folder).glob("*.yaml")})
    if named:
        terminal.text(f"named configurations: {', '.join(named)}")
    for line in describe(verb.root):
        terminal.out.print(
            f"  [bold]{escape(line.key)}[/bold] = {escape(line.default)}  [dim]({escape(line.type)})[/dim]"
        )
        terminal.out.print(f"      {escape(line.help)}")


for _verb in VERBS:
    app.command(_verb.name, help=_verb.summary, add_help_option=False)(_command(_verb, _verb.name))
for _verb in INSPECT:
    inspect_app.command(_verb.name, help=_verb.summary, add_help_option=False)(_command(_verb, f"inspect {_verb.name}"))
app.add_typer(inspect_app, name="inspect")
for _verb in CATALOGUE:
    catalogue_app.command(_verb.name, help=_verb.summary, add_help_option=False)(
        _command(_verb, f"catalogue {_verb.name}")
    )
app.add_typer(catalogue_app, name="catalogue")

if __name__ == "__main__":
    main()
