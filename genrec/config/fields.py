"""How a configuration field is declared: with one line of meaning, and a range where it has one."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any


def key(help: str, default: Any = MISSING, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field with one line of meaning and an optional range; without a default it is required."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum}
    if default is not MISSING and callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)
