"""How many examples hypothesis tries: a third in the default suite, all of them in `make slow`."""

from __future__ import annotations

import os


def every_example() -> bool:
    """Whether this is the thorough run, GENREC_EXAMPLES=all."""
    return os.environ.get("GENREC_EXAMPLES") == "all"


def examples(most: int) -> int:
    """`most` where GENREC_EXAMPLES=all, otherwise a third of it, 5 at the least."""
    return most if every_example() else min(most, max(5, most // 3))
