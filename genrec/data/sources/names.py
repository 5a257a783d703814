"""Names that a user gave against names that are there: the nearest match in the error."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from genrec.errors import DataError


def nearest(name: str, accepted: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the end of a message, or nothing if no name is near.

    >>> nearest("user", ["user_id", "item_id"])
    "; did you mean 'user_id'?"
    """
    by_lower = {known.lower(): known for known in accepted}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def missing_columns(found: Collection[str], wanted: Iterable[str], *, where: object, fix: str | None = None) -> None:
    """DataError that names the first column of `wanted` that is not in `found`, the nearest one, and all of `found`."""
    missing = [name for name in wanted if name not in found]
    if missing:
        names = ", ".join(map(repr, missing))
        raise DataError(
            f"missing column{'s' if len(missing) > 1 else ''} {names}{nearest(missing[0], found)}",
            where=where,
            found=f"columns {', '.join(found) or 'none'}",
            fix=fix,
        )
