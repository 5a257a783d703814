"""What the documentation says is true of the code: commands, keys, names of functions, links, tables."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import typer
from markdown_blocks import DOCS, GENERATED, OTHERS, PAGES, PROJECT, Command, anchors, blocks, commands, links, spans

import genrec
from genrec import cli
from genrec.config.load import describe
from genrec.errors import ConfigError
from genrec.serving.messages import RecommendRequest

TEXTS = [*PAGES, *OTHERS]
SHELL = {"source", "cd", "mkdir", "ls", "kill"}  # nothing of ours to check
ALL_COMMANDS = [command for path in TEXTS for command in commands(path)]


def imported(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


generate = imported(DOCS / "generate.py", "docs_generate")
VERBS = dict(generate.verbs())
KEYS = {line.key.split("  ")[0] for verb in VERBS.values() if verb.root for line in describe(verb.root)}
OPEN = {line.key for verb in VERBS.values() if verb.root for line in describe(verb.root) if line.type == "section"}


# --- commands --------------------------------------------------------------------------------------------------------


def check_command(words: tuple[str, ...], place: str) -> None:
    program = words[0]
    if program == "make":
        targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, place
    elif program == "pip":
        extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for found in re.findall(r"^\.\[([\w,]+)\]", words[-1]) for name in found.split(",")]
        assert named, place
        assert set(named) <= set(extras), place
    elif program == "torchrun":
        check_command(words[words.index("-m") + 1 :], place)
    elif program == "python":
        assert (PROJECT / words[1]).is_file(), place
    elif program == "genrec":
        check_genrec(list(words[1:]), place)
    elif program == "curl":  # what it sends is a request
        RecommendRequest.model_validate_json(words[words.index("-d") + 1])
    elif "=" in program:  # VARIABLE=value before a command
        check_command(words[1:], place)
    else:
        assert program in SHELL, f"{place}: what is {program!r}?"


def check_genrec(words: list[str], place: str) -> None:
    name = " ".join(words[:2]) if words[0] in ("inspect", "catalogue") else words[0]
    assert name in VERBS, f"{place}: no command {name!r}"
    verb, rest = VERBS[name], words[len(name.split()) :]
    flags = {word for word in rest if word.startswith("-")}
    assert flags <= {"--json", "--dry-run", "--resume", "--help", "--verbose", "-v"}, place
    assert verb.resumable or "--resume" not in flags, place
    arguments = [word for word in rest if not word.startswith("-")]
    if verb.root is None or "--help" in flags:
        assert not arguments, place
        return
    mine = [word for word in arguments if "=" in word or not word.endswith(".yaml")]  # a run's own file is not here
    try:
        cli._configure(verb, mine)
    except ConfigError as error:
        if len(mine) == len(arguments) or not str(error).startswith("missing value"):  # else the file gives it
            pytest.fail(f"{place}: {' '.join(words)}\n{error}")


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=lambda command: command.place)
def test_every_command_is_one(command: Command) -> None:
    check_command(command.words, command.place)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_and_keys_in_the_text_are_real(path: Path) -> None:
    for span in spans(path):
        words = span.split()
        if words[0] in ("genrec", "make") and len(words) > 1 and words[1] not in ("VERB", "<verb>"):
            name = " ".join(words[1:3]) if words[1] in ("inspect", "catalogue") else words[1]
            known = name in VERBS if words[0] == "genrec" else f"\n{words[1]}:" in (PROJECT / "Makefile").read_text()
            assert known, f"{path.name}: `{span}`"
        for word in words if words[0] != "make" else []:
            key, equals, _ = word.partition("=")
            if equals and key != "key" and re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)*", key):
                assert is_key(key), f"{path.name}: `{span}` names no key {key!r}"


def is_key(key: str) -> bool:
    """A key of some command or its last parts, a section in place of its name, or a key that users name themselves."""
    is_open = any(key.startswith(f"{prefix}.") for prefix in OPEN)
    return is_open or any(f".{known}.".endswith((f".{key}.", f".{key}.name.")) for known in KEYS)


def test_the_site_lists_every_command_and_key() -> None:
    page = generate.commands_page()
    app = typer.main.get_command(cli.app)
    for name, command in app.commands.items():  # type: ignore[attr-defined]
        for words in [f"{name} {inner}" for inner in getattr(command, "commands", {})] or [name]:
            assert f"\n## {words}\n" in page
    for line in describe(VERBS["train"].root):
        assert f"`{line.key.split('  ')[0]}`" in page


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in TEXTS if any(blocks(path, "python"))], ids=lambda path: path.name)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a page, one after the other, in one namespace; their assertions hold."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks(path, "python"):
        exec(compile(block.body, block.place, "exec"), namespace)
    assert namespace


def test_the_site_describes_every_public_name() -> None:
    page = generate.api_page()
    for name in dir(genrec):
        assert name == "__version__" or f"\n## {name}\n\n`genrec." in page
    assert "- `num_items`: N, at least two a sub-category." in page
    assert "'" not in re.findall(r"```text\n(prepare\(.*?)```", page, re.DOTALL)[0].split("=")[0]


def test_docstrings_become_markdown() -> None:
    text = "Does ``it``.\n\nArgs:\n    k: length\n        of the list.\n\nRaises:\n    DataError: no.\n\n>>> 1 + 1\n2"
    lines = ["Does `it`.", "**Args**", "- `k`: length of the list.", "**Raises**", "- `DataError`: no."]
    assert generate.to_markdown(text) == "\n\n".join([*lines, "```text\n>>> 1 + 1\n2\n```"])


# --- methods ---------------------------------------------------------------------------------------------------------


def dotted_names(text: str) -> set[str]:
    """`package.module.name` spans whose first part is a package or module of genrec."""
    tops = {path.stem for path in (PROJECT / "genrec").iterdir() if path.suffix in ("", ".py")}
    found = re.findall(r"`([a-z_]+(?:\.\w+)+)`", text)
    return {name for name in found if name.split(".")[0] in tops and not name.endswith((".yaml", ".py"))}


def defined_in(path: Path) -> set[str]:
    """Names of functions, classes, methods (`Class.method`) and constants of a module, read and not imported."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = PROJECT.joinpath("genrec", *parts[:length])
        if length == len(parts) and path.is_dir():
            return True
        if path.with_suffix(".py").is_file():
            return length == len(parts) or ".".join(parts[length:]) in defined_in(path.with_suffix(".py"))
    return False


METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")


def test_there_are_names_to_check() -> None:
    assert len(dotted_names(METHODS)) > 80
    assert exists("decoding.beam_search.beam_search")
    assert not exists("decoding.beam_search.no_such_function")


@pytest.mark.parametrize("name", sorted({name for path in PAGES for name in dotted_names(path.read_text("utf-8"))}))
def test_functions_that_pages_name_exist(name: str) -> None:
    assert exists(name)


# --- links and tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if place in GENERATED:
            continue
        assert place.exists(), f"{path.name}: {target}"
        assert DOCS not in path.parents or DOCS in place.parents, f"{path.name}: {target} is not on the site"
        assert not anchor or anchor in anchors(place), f"{path.name}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    listed = re.findall(r"- (?:Home: )?([\w/-]+\.md)", navigation)
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in [*PAGES, *GENERATED])


def test_the_cost_sheet_is_what_was_measured() -> None:
    costs = imported(PROJECT / "benchmarks" / "costs.py", "benchmark_costs")
    found = json.loads((PROJECT / "benchmarks" / "costs.json").read_text(encoding="utf-8"))
    page = (DOCS / "costs.md").read_text(encoding="utf-8")
    assert costs.fill(page, found) == page
    assert page.count("<!-- end -->") == 5


def test_a_line_through_three_points() -> None:
    costs = imported(PROJECT / "benchmarks" / "costs.py", "benchmark_costs")
    points = [{"step": "embed", "size": size, "seconds": 3 + 2e-3 * size, "gigabytes": 0.2} for size in (10, 20, 40)]
    start, slope, largest = costs.line(points, "embed", "seconds")
    assert (round(start, 9), round(slope, 9), largest) == (3, 2e-3, 40)
    (_, _, row) = costs.growth(points, (40,), "items", ("embed",)).splitlines()
    assert row == "| 40 | ? | ? |"  # nearly all of it is start-up


def test_costs_beyond_what_was_measured_say_so() -> None:
    costs = imported(PROJECT / "benchmarks" / "costs.py", "benchmark_costs")
    sizes = (1_000, 2_000, 4_000)
    points = [{"step": "embed", "size": size, "seconds": 1 + 2e-3 * size, "gigabytes": None} for size in sizes]
    near, far = costs.growth(points, (4_000, 10**6), "items", ("embed",)).splitlines()[2:]
    assert near == "| 4,000 | 9 s | ? |"
    assert far == "| 1 million | 33 min * | ? |"
