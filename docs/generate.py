"""Writes the pages that nobody writes by hand: every key of every command, and the public names with their docstrings.

    python docs/generate.py [FOLDER]      # commands.md and api.md into FOLDER, by default the one of this file

Git ignores both: they are made of the code before the site is built (`make docs`), so nothing in them can go stale.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import genrec
from genrec import cli
from genrec.config.load import KeyHelp, describe

SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields")


def main(folder: Path) -> None:
    """Writes both pages."""
    (folder / "commands.md").write_text(commands_page(), encoding="utf-8")
    (folder / "api.md").write_text(api_page(), encoding="utf-8")


# --- commands --------------------------------------------------------------------------------------------------------


def verbs() -> Iterator[tuple[str, cli.Verb]]:
    """(words after ``genrec``, verb) of the whole command line."""
    yield from ((verb.name, verb) for verb in cli.VERBS)
    for group, members in (("inspect", cli.INSPECT), ("catalogue", cli.CATALOGUE)):
        yield from ((f"{group} {verb.name}", verb) for verb in members)


def commands_page() -> str:
    """What `--help` of each verb prints, as tables."""
    parts = [
        "# Commands",
        "`genrec VERB [config.yaml or name ...] [key=value ...]`. Later words win over earlier ones, `--dry-run` shows "
        "the resolved configuration and what it would cost, `--json` one line for machines, `--resume` goes on with "
        "an interrupted run. A section that has variants is chosen by its name: `loss=prefix_pointwise` is short for "
        "`loss.name=prefix_pointwise`, and the keys of a variant say so in brackets.",
    ]
    for words, verb in verbs():
        parts.append(f"## {words}\n\n{verb.summary}")
        named = sorted({file.stem for folder in cli.config_folders() for file in (folder / verb.folder).glob("*.yaml")})
        if named and verb.root is not None:
            parts.append(f"Named configurations: {', '.join(f'`{name}`' for name in named)}.")
        if verb.root is not None:
            parts.append(_keys_table(_without_recipes(list(describe(verb.root)), verb)))
    return "\n\n".join(parts) + "\n"


def _without_recipes(keys: list[KeyHelp], verb: cli.Verb) -> list[KeyHelp]:
    """A recipe's sections are the configurations of other verbs, which have tables of their own."""
    if verb.name != "run":
        return keys
    own = [key for key in keys if "." not in key.key]
    names = sorted({key.key.split(".")[0] for key in keys if "." in key.key})
    return [*own, *(KeyHelp(f"{name}.*", "section", "", f"the keys of `genrec {name}`") for name in names)]


def _keys_table(keys: list[KeyHelp]) -> str:
    lines = ["| key | default | type | meaning |", "|---|---|---|---|"]
    for key in keys:
        name, _, variant = key.key.partition("  ")
        shown = f"`{name}`" + (f" {variant}" if variant else "")
        default = f"`{key.default}`" if key.default else ""
        lines.append(f"| {shown} | {_cell(default)} | {_cell(key.type)} | {_cell(key.help)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


# --- public names ----------------------------------------------------------------------------------------------------


def api_page() -> str:
    """Signature and docstring of each name that ``import genrec`` offers, by the module that it lives in."""
    parts = [
        "# Python\n\nThe names that `import genrec` offers, each imported when it is first used. Everything else is "
        "importable from its module as well, and may change.",
    ]
    for name in dir(genrec):
        if not name.startswith("__"):
            parts += _describe(name, getattr(genrec, name))
    return "\n\n".join(parts) + "\n"


def _describe(name: str, thing: Any) -> list[str]:
    parts = [f"## {name}", f"`{thing.__module__}`", _signature(name, thing), to_markdown(inspect.getdoc(thing) or "")]
    if inspect.isclass(thing):
        for method, member in sorted(vars(thing).items()):
            function = inspect.unwrap(getattr(member, "__func__", member))
            if not method.startswith("_") and inspect.isfunction(function):
                parts += [
                    f"### {name}.{method}",
                    _signature(method, function),
                    to_markdown(inspect.getdoc(function) or ""),
                ]
    return parts


def _signature(name: str, thing: Any) -> str:
    """As it is written in the source, one argument a line where they are many."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return ""
    parameters = [value for key, value in inspect.signature(thing).parameters.items() if key not in ("self", "cls")]
    arguments = [_argument(parameter) for parameter in parameters]
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        arguments.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returns = inspect.signature(thing).return_annotation
    ending = "" if inspect.isclass(thing) or returns is inspect.Signature.empty else f" -> {returns}"
    short = f"{name}({', '.join(arguments)}){ending}"
    if len(short) > 100:
        short = f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){ending}"
    return f"```text\n{short}\n```"


def _argument(parameter: inspect.Parameter) -> str:
    kind = "" if parameter.annotation is inspect.Parameter.empty else f": {parameter.annotation}"
    value = parameter.default
    has_none = value is inspect.Parameter.empty
    shown = "..." if repr(value).startswith("<") else repr(value)  # made anew for each, or a function
    default = "" if has_none else f" = {shown}"
    return f"{parameter.name}{kind}{default}"


def to_markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown: sections become lists, examples become code.

    >>> print(to_markdown("Does it.\\n\\nArgs:\\n    k: length\\n        of the list.\\n\\n>>> 1 + 1\\n2"))
    Does it.
    <BLANKLINE>
    **Args**
    <BLANKLINE>
    - `k`: length of the list.
    <BLANKLINE>
    ```text
    >>> 1 + 1
    2
    ```
    """
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", docstring.strip()) if block.strip())


def _block(block: str) -> str:
    first, _, rest = block.partition("\n")
    if first.startswith(">>>") or first.startswith("    "):
        return f"```text\n{block}\n```"
    if first.rstrip(":") in SECTIONS and first.endswith(":"):
        return f"**{first.rstrip(':')}**\n\n" + "\n".join(_entries(rest))
    return block.replace("``", "`")


def _entries(text: str) -> Iterator[str]:
    """`name: meaning` lines of a section, continued lines joined."""
    entries: list[str] = []
    for line in textwrap.dedent(text).splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    for entry in entries:
        name, colon, meaning = entry.partition(": ")
        yield (f"- `{name}`: {meaning}" if colon else f"- {entry}").replace("``", "`")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
