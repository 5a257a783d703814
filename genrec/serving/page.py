"""The demonstration page: one file without outside assets, and the search of titles behind it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files

HTML = files("genrec.serving").joinpath("page.html").read_text(encoding="utf-8")


def _hash_of(element: str) -> str:
    """What a content security policy calls the only script, or style, of the page."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", HTML, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; connect-src 'self'; script-src {_hash_of('script')}; "
    f"style-src {_hash_of('style')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def search_titles(titles: Mapping[str, str], words: str, *, limit: int) -> list[str]:
    """Item ids whose title has all the words, in any case; in the order of the mapping.

    >>> search_titles({"a": "Red card", "b": "Blue card", "c": "Red box"}, "RED ca", limit=5)
    ['a']
    """
    wanted = words.casefold().split()
    found = []
    for item, title in titles.items():
        text = title.casefold()
        if all(word in text for word in wanted):
            found.append(item)
            if len(found) == limit:
                break
    return found
