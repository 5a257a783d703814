"""How many examples hypothesis tries: a third in the default suite, all of them in `make slow`."""

from __future__ import annotations

import os


def examples(most: int) -> int:
    """`most` where GENREC_EXAMPLES=all, otherwise a third of it, 5 at the least."""
    return most if os.environ.get("GENREC_EXAMPLES") == "all" else min(most, max(5, most // 3))
