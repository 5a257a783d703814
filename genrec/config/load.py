"""YAML files and ``key=value`` items -> one frozen dataclass, or one error that names the file and the nearest key.

The only module that knows OmegaConf (it reads the YAML and resolves ``${oc.env:NAME}`` and ``${other.key}``). The
rules, in the order they apply:

- later layers win, mappings merge key by key, lists are replaced;
- a section that changes its ``name`` starts anew: the keys of the old variant do not leak into the new one;
- no value is converted between types; what was typed on the command line for a text or a path is taken as it was typed
  (`null` for an optional one is none);
- unknown keys and wrong types are reported one at a time, missing values all together.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genrec.errors import ConfigError

T = TypeVar("T")
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Leaf:
    """A value with where it came from; `text` is what was typed on the command line."""

    value: Any
    origin: str
    text: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """Text of the command line that is not YAML; it may still be what a string wants."""

    problem: str


@dataclass(frozen=True)
class KeyHelp:
    """One line of ``--help``: a key, its type, its default and its meaning."""

    key: str
    type: str
    default: str
    help: str


def load_config(
    root: type[T],
    files: Sequence[Path] = (),
    dotlist: Sequence[str] = (),
    *,
    fixed: Callable[[str, Set[str]], Mapping[str, Mapping[str, Any]]] | None = None,
) -> T:
    """Builds `root` from its defaults, then `files` in order, then `dotlist`.

    Args:
        root: a frozen dataclass of `genrec.config.schema`.
        files: YAML files, each with only what differs from the layers before.
        dotlist: ``key.sub=value`` items; the value is YAML, or plain text where the key is a string.
        fixed: from the value of ``output`` and the sections that are there, values that the root decides itself, by
            section and key (section.key).

    Raises:
        ConfigError: unreadable or malformed file, unknown key, wrong type or range, missing values.
    """
    tree: dict[str, Any] = {}
    for path in files:
        tree = _merge(tree, _annotate(read_yaml(path), str(path)))
    for item in dotlist:
        tree = _merge(tree, _parse_item(item))
    if fixed is not None:
        output = tree.get("output")
        text = (output.text or output.value) if isinstance(output, Leaf) else None
        tree = _fix(tree, fixed(text if isinstance(text, str) else ".", tree.keys()), root)
    return _finish(root, tree)


def from_values(root: type[T], layers: Mapping[str, Mapping[str, Any]]) -> T:
    """Builds `root` from plain values by (dotted) key, later layers over earlier ones; a layer's name is its origin.

    Raises:
        ConfigError: unknown key, wrong type or range, missing values.

    >>> from genrec.config.training import StoppingSection
    >>> from_values(StoppingSection, {"base": {"max_epochs": 3, "cutoff": 5}, "ours": {"max_epochs": 4}}).max_epochs
    4
    """
    tree: dict[str, Any] = {}
    for origin, values in layers.items():
        layer: dict[str, Any] = {}
        for key, value in values.items():
            layer = _merge(layer, _nest(key, _annotate(value, origin)))
        tree = _merge(tree, layer)
    return _finish(root, tree)


def _finish(root: type[T], tree: dict[str, Any]) -> T:
    missing: list[tuple[str, Any]] = []
    config = _build(root, tree, (), missing)
    if missing:
        names = ", ".join(f"{key} ({_type_name(kind)})" for key, kind in missing)
        first = missing[0][0]
        raise ConfigError(f"missing value{'s' if len(missing) > 1 else ''}: {names}", fix=f"add e.g. {first}=...")
    return typing.cast(T, config)


def to_yaml(config: object) -> str:
    """The resolved configuration as YAML text that `load_config` reads back to an equal object."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120)


def to_plain(value: object) -> Any:
    """Dataclasses, paths and tuples -> dicts, strings and lists, for YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def describe(root: type, prefix: str = "") -> Iterator[KeyHelp]:
    """Every key of `root` with type, default and meaning, sections flattened, variants one after the other."""
    hints = typing.get_type_hints(root)
    for field in dataclasses.fields(root):
        key, kind = prefix + field.name, hints[field.name]
        text, default = field.metadata.get("help", ""), _default(field)
        sections = [option for option in _options(kind) if dataclasses.is_dataclass(option)]
        if not sections:
            shown = "required" if default is MISSING else _show(default)
            yield KeyHelp(key, _type_name(kind) + _limits(field, ", "), shown, text)
        elif len(sections) == 1 and "name" not in {f.name for f in dataclasses.fields(sections[0])}:
            if default is None:
                yield KeyHelp(key, "section or null", "null", text)
            yield from describe(typing.cast(type, sections[0]), key + ".")
        else:
            chosen = "required" if default is MISSING else _show(getattr(default, "name", default))
            yield KeyHelp(key + ".name", "one of " + ", ".join(map(_tag, sections)), chosen, text)
            for section in sections:
                for line in describe(typing.cast(type, section), f"{key}."):
                    if line.key != f"{key}.name":
                        yield dataclasses.replace(line, key=f"{line.key}  [{_tag(section)}]")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain content of a configuration file; ConfigError if it is not one."""
    try:
        loaded = OmegaConf.load(path)
        content = OmegaConf.to_container(loaded, resolve=True)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("the configuration is not UTF-8", where=path, fix="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', None) or error}", where=where) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot resolve a value: {error.msg or error}", where=path) from error
    if not isinstance(content, dict):
        raise ConfigError("not a configuration", where=path, expected="a mapping of keys", found="a list")
    return typing.cast(dict[str, Any], content)


def _annotate(value: Any, origin: str) -> Any:
    if isinstance(value, dict):
        return {str(key): _annotate(entry, origin) for key, entry in value.items()}
    return Leaf(value, origin)


def _parse_item(item: str) -> dict[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"cannot read {item!r}", where=COMMAND_LINE, expected="key=value")
    # What the text means depends on the type of its key, which is not known yet: it is parsed here, but kept as well.
    try:
        value: Any = typing.cast(dict[str, Any], OmegaConf.to_object(OmegaConf.from_dotlist([f"value={text}"])))[
            "value"
        ]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        value = Unreadable(str(error).splitlines()[0])
    return _nest(key.strip(), Leaf(value, COMMAND_LINE, text))


def _nest(key: str, node: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        node = {part: node}
    return node


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, node in layer.items():
        old = merged.get(key)
        if isinstance(old, dict) != isinstance(node, dict):  # `split=temporal` beside `split.name`, `split.test_from`
            old, node = _as_section(old), _as_section(node)
        if isinstance(old, dict) and isinstance(node, dict) and not _renamed(old, node):
            merged[key] = _merge(old, node)
        else:
            merged[key] = node
    return merged


def _fix(tree: dict[str, Any], fixed: Mapping[str, Mapping[str, Any]], root: type) -> dict[str, Any]:
    """Adds what the root decides; an optional section that is not there stays away."""
    required = {field.name for field in dataclasses.fields(root) if _default(field) is MISSING}
    for section, values in fixed.items():
        node = tree.setdefault(section, {}) if section in required else tree.get(section)
        if not isinstance(node, dict):
            continue
        for key, value in values.items():
            if key in node:
                what = f"key {section + '.' + key!r} is decided by the recipe"
                raise ConfigError(what, where=_origin(node[key]), fix="set output=... of the recipe instead")
            _merge_into(node, key.split("."), Leaf(value, "the recipe"))
    return tree


def _merge_into(node: dict[str, Any], path: list[str], leaf: Leaf) -> None:
    for part in path[:-1]:
        node = node.setdefault(part, {})
    node[path[-1]] = leaf


def _as_section(node: Any) -> Any:
    """``section=variant`` is short for ``section.name=variant``; ``section={name: variant}`` is a section too."""
    if isinstance(node, Leaf) and isinstance(node.value, dict):
        return _annotate(node.value, node.origin)
    return {"name": node} if isinstance(node, Leaf) and isinstance(node.value, str) else node


def _renamed(old: dict[str, Any], new: dict[str, Any]) -> bool:
    before, after = old.get("name"), new.get("name")
    return isinstance(before, Leaf) and isinstance(after, Leaf) and before.value != after.value


# --- building --------------------------------------------------------------------------------------------------------


def _build(kind: Any, node: Any, path: tuple[str, ...], missing: list[tuple[str, Any]], default: Any = MISSING) -> Any:
    """One value of type `kind` from its node; missing required keys are collected in `missing`."""
    options = _options(kind)
    if isinstance(node, Leaf) and node.value is None and types.NoneType in options and node.text != "":
        return None
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    if sections:
        section_node = _as_section(node)
        is_short = isinstance(node, Leaf) and isinstance(node.value, str)
        if isinstance(section_node, Leaf) or (is_short and not _tag(sections[0])):
            raise _wrong(node, path, "a section of keys")
        section = _choose(sections, section_node, path, default)
        if section is None:
            missing.append((".".join((*path, "name")), kind))
            return None
        return _build_section(section, section_node, path, missing, default)
    if typing.get_origin(kind) is dict:
        return _build_mapping(typing.get_args(kind)[1], node, path, missing, default)
    if isinstance(node, dict):
        origin = _origin(node)
        raise ConfigError(f"key {'.'.join(path)!r} is not a section", where=origin, expected=_type_name(kind))
    for option in options:
        converted = _convert(option, node)
        if converted is not MISSING:
            return converted
    raise _wrong(node, path, _type_name(kind))


def _build_mapping(inner: Any, node: Any, path: tuple[str, ...], missing: list[tuple[str, Any]], default: Any) -> Any:
    node = _annotate(node.value, node.origin) if isinstance(node, Leaf) and isinstance(node.value, dict) else node
    if isinstance(node, Leaf):
        raise _wrong(node, path, f"names of your own, {'.'.join(path)}.NAME=...")
    base = default if isinstance(default, Mapping) else {}
    if inner is Any:
        return {**base, **_plain(node)}
    return {**base, **{key: _build(inner, node[key], (*path, key), missing, base.get(key, MISSING)) for key in node}}


def _plain(node: Any) -> Any:
    """Values whose types whoever reads them knows."""
    if isinstance(node, dict):
        return {key: _plain(entry) for key, entry in node.items()}
    return node.text if isinstance(node.value, Unreadable) else node.value


def _build_section(
    section: Any, node: dict[str, Any], path: tuple[str, ...], missing: list[tuple[str, Any]], default: Any
) -> Any:
    fields = {field.name: field for field in dataclasses.fields(section)}
    hints = typing.get_type_hints(section)
    for key in node:
        if key not in fields:
            raise _unknown((*path, key), section, _origin(node[key]))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        # A section that is only partly given keeps the rest of the default section, not of the class.
        inherited = getattr(default, name) if isinstance(default, section) else _default(field)
        if "name" in node and typing.get_origin(hints[name]) is dict:
            inherited = _default(field)  # who names the variant names its parts too
        if name in node:
            values[name] = _build(hints[name], node[name], (*path, name), missing, inherited)
            _check_range(field, values[name], node[name], (*path, name))
        elif inherited is not MISSING:
            values[name] = inherited
        else:
            missing.append((".".join((*path, name)), hints[name]))
    return None if missing else section(**values)


def _choose(sections: list[Any], node: dict[str, Any], path: tuple[str, ...], default: Any) -> Any:
    """The variant that the section's ``name`` selects; without a name that of the default, None if there is none."""
    if len(sections) == 1 and not _tag(sections[0]):
        return sections[0]
    tags = {_tag(section): section for section in sections}
    name = node.get("name")
    if name is None:
        return None if default is MISSING or default is None else type(default)
    if not isinstance(name, Leaf) or not isinstance(name.value, str) or name.value not in tags:
        found = name.value if isinstance(name, Leaf) else "a section"
        close = difflib.get_close_matches(str(found), list(tags), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        key = ".".join((*path, "name"))
        raise ConfigError(f"unknown {key} {found!r}{hint}", where=_origin(node), expected=f"one of {', '.join(tags)}")
    return tags[name.value]


def _convert(kind: Any, leaf: Leaf) -> Any:
    """The leaf as `kind`, or MISSING where it is of another type."""
    value = leaf.value
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value if value in typing.get_args(kind) and type(value) in map(type, typing.get_args(kind)) else MISSING
    if origin in (tuple, list):
        if not isinstance(value, list):
            return MISSING
        inner = typing.get_args(kind)[0]
        entries = tuple(_convert_any(inner, Leaf(entry, leaf.origin)) for entry in value)
        return MISSING if MISSING in entries else entries
    if kind in (str, Path):
        text = value if leaf.text is None else leaf.text
        if not isinstance(text, str) or text == "":
            return MISSING
        return Path(text).expanduser() if kind is Path else text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if type(value) is kind else MISSING


def _convert_any(kind: Any, leaf: Leaf) -> Any:
    converted = [value for option in _options(kind) if (value := _convert(option, leaf)) is not MISSING]
    return converted[0] if converted else MISSING


def _check_range(field: dataclasses.Field[Any], value: Any, node: Any, path: tuple[str, ...]) -> None:
    low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        if not (low is None or number >= low) or not (high is None or number <= high):
            limits = " and ".join(
                f"{word} {limit}" for word, limit in (("at least", low), ("at most", high)) if limit is not None
            )
            raise ConfigError(
                f"key {'.'.join(path)!r} is out of range", where=_origin(node), expected=limits, found=number
            )


# --- types and messages ----------------------------------------------------------------------------------------------


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union; (kind,) for anything else."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def _tag(section: Any) -> str:
    """The value of ``name`` that selects a variant; '' for a plain section."""
    for field in dataclasses.fields(section):
        if field.name == "name":
            return str(field.default)
    return ""


def _limits(field: dataclasses.Field[Any], before: str = "") -> str:
    limits = (("at least", field.metadata.get("minimum")), ("at most", field.metadata.get("maximum")))
    text = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    return before + text if text else ""


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _type_name(kind: Any) -> str:
    origin = typing.get_origin(kind)
    options = _options(kind)
    tags = [_tag(option) for option in options if dataclasses.is_dataclass(option)]
    if len(tags) > 1:
        return "one of " + ", ".join(tags)
    if len(options) > 1:
        return " or ".join(_type_name(option) for option in options)
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if origin in (tuple, list):
        return f"list of {_type_name(typing.get_args(kind)[0])}"
    if origin is dict:
        return "section"
    if kind is types.NoneType:
        return "null"
    if dataclasses.is_dataclass(kind):
        return "section"
    return {str: "text", Path: "path", int: "integer", float: "number", bool: "true or false"}.get(kind, str(kind))


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    return str(value)


def _origin(node: Any) -> str:
    while isinstance(node, dict):
        if not node:
            return COMMAND_LINE
        node = next(iter(node.values()))
    return node.origin


def _wrong(leaf: Leaf, path: tuple[str, ...], expected: str) -> ConfigError:
    if isinstance(leaf.value, Unreadable):
        key = ".".join(path)
        return ConfigError(
            f"cannot read the value of {key!r}: {leaf.value.problem}", where=leaf.origin, expected=expected
        )
    found = repr(leaf.text if leaf.text is not None and not isinstance(leaf.value, str) else leaf.value)
    if leaf.value is None:
        found = "nothing" if not leaf.text else leaf.text
    return ConfigError(f"key {'.'.join(path)!r} has the wrong type", where=leaf.origin, expected=expected, found=found)


def _unknown(path: tuple[str, ...], section: Any, origin: str) -> ConfigError:
    accepted = [field.name for field in dataclasses.fields(section)]
    # A key of a section that was given without its section is likelier than a slip of the pen.
    whole = [".".join((*path[:-1], place)) for place in _places_below(section, path[-1])]
    close = whole or difflib.get_close_matches(path[-1], accepted, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return ConfigError(f"unknown key {'.'.join(path)!r}{hint} (accepted: {', '.join(accepted)})", where=origin)


def _places_below(section: Any, key: str) -> list[str]:
    """Where a key stands in the sections below, the nearest ones only.

    >>> from genrec.config.training import TrainConfig
    >>> _places_below(TrainConfig, "learning_rate"), _places_below(TrainConfig, "run")
    (['optimizer.learning_rate'], [])
    """
    level = [((), section)]
    while level:
        below = [
            ((*path, field.name), option)
            for path, owner in level
            for field in dataclasses.fields(owner)
            for option in _options(typing.get_type_hints(owner)[field.name])
            if dataclasses.is_dataclass(option)
        ]
        places = [(*path, key) for path, owner in below if key in {field.name for field in dataclasses.fields(owner)}]
        if places:
            return list(dict.fromkeys(map(".".join, places)))
        level = below
    return []
