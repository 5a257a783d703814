"""The ``space`` of a sweep: which values each key may take. Knows of no search, and of no command but its keys.

Values stand at a key of what is tuned, dotted (``optimizer.learning_rate: [...]``) or in sections, as a list or as a
range ``{low: 1e-4, high: 1e-2, log: true, num: 5}``, which is short for a list.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from genrec.config.fields import key
from genrec.config.load import from_values, to_plain
from genrec.errors import ConfigError

T = TypeVar("T")
Build = Callable[[Mapping[str, Any]], T]  # from values by dotted key to the configuration that has them


@dataclass(frozen=True, kw_only=True)
class RangeSection:
    """Values between two ends, evenly spaced."""

    low: float = key("lowest value")
    high: float = key("highest value")
    log: bool = key("spaced by equal factors, not by equal steps", False)
    num: int = key("how many values, both ends included", 5, minimum=2)

    def values(self) -> tuple[float, ...]:
        """The ends as given, and between them three significant digits, or as many as tell the values apart.

        >>> RangeSection(low=1e-4, high=1e-2, log=True, num=3).values()
        (0.0001, 0.001, 0.01)
        >>> RangeSection(low=0.1, high=0.5).values()
        (0.1, 0.2, 0.3, 0.4, 0.5)
        """
        shares = [number / (self.num - 1) for number in range(1, self.num - 1)]
        if self.log:
            inner = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            inner = [self.low + (self.high - self.low) * share for share in shares]
        rounded = [float(f"{value:.3g}") for value in inner]
        rises = all(before < after for before, after in itertools.pairwise([self.low, *rounded, self.high]))
        return (self.low, *(rounded if rises else inner), self.high)


def read_space(space: Mapping[str, Any], build: Build[object]) -> dict[str, tuple[Any, ...]]:
    """The values to search, by dotted key, each of its key's type.

    Args:
        space: as it stands in a configuration.
        build: refuses what is wrong by ConfigError.

    Returns:
        Values in the order given, as YAML has them. Those of a range are whole numbers where its key's are.

    Raises:
        ConfigError: no list and no range, a range that is none, a section in place of a value, or whatever `build`
            raises for a value.
    """
    entries = dict(_flatten(space))
    names = {name: _listed(name, entry) for name, entry in entries.items() if name.split(".")[-1] == "name"}
    variants = [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*names.values())]
    found = {}
    for name, entry in entries.items():
        values = names.get(name) or _choices(name, entry, lambda chosen: build({**variants[0], **chosen}))
        # Which keys and values a section accepts depends on its variant alone: so each is tried beside each variant.
        built = [[build({**variant, name: value}) for variant in variants] for value in values]
        found[name] = tuple(_as_built(name, configs[0]) for configs in built)
    return found


def _flatten(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    ends = {field.name for field in dataclasses.fields(RangeSection)}
    for name, entry in space.items():
        if isinstance(entry, Mapping) and not ends & entry.keys():
            yield from _flatten(entry, f"{prefix}{name}.")
        else:
            yield prefix + name, entry


def _choices(name: str, entry: Any, build: Build[object]) -> list[Any]:
    if not isinstance(entry, Mapping):
        return _listed(name, entry)
    where = f"key 'space.{name}'"
    section = from_values(RangeSection, {where: entry})
    if not section.low < section.high or (section.log and section.low <= 0):
        expected = "0 < low < high" if section.log else "low < high"
        raise ConfigError("not a range", where=where, expected=expected, found=f"{section.low:g}, {section.high:g}")
    low, high = section.low, section.high
    # What the key itself has decides: a width of 32 is whole, a dropout of 0 is not.
    if low.is_integer() and high.is_integer() and isinstance(_value_at(build({name: int(low)}), name), int):
        return list(dict.fromkeys(round(value) for value in section.values()))
    return list(section.values())


def _listed(name: str, entry: Any) -> list[Any]:
    if not isinstance(entry, list) or not entry:
        expected = "a list of values, or a range such as {low: 1e-4, high: 1e-2, log: true}"
        raise ConfigError("no values to search", where=f"key 'space.{name}'", expected=expected, found=entry)
    return entry


def _as_built(name: str, config: object) -> Any:
    """The value as the configuration has it: 1 is 1.0 where the key is a number."""
    found = _value_at(config, name)
    if dataclasses.is_dataclass(found):
        fix = f"search the keys below it, its variants with space.{name}.name"
        raise ConfigError("a section cannot be searched", where=f"key 'space.{name}'", fix=fix)
    return to_plain(found)


def _value_at(config: object, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)
