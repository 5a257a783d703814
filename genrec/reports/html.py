"""Elements of an HTML page as strings. What is text is escaped here and nowhere else; knows nothing of recommenders."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

VOID = frozenset({"meta", "link", "br", "img", "input"})


@dataclass(frozen=True)
class Html:
    """Markup that is safe to write as it is; everything else is text, and escaped."""

    markup: str

    def __str__(self) -> str:
        return self.markup


Content = Html | str | int | float | None | Iterable["Content"]


def text_of(content: Any) -> str:
    """Markup of a content: Html as it is, text escaped, None nothing, a list its parts one after the other.

    >>> text_of(["<b>", Html("<i>x</i>"), None, 3])
    '&lt;b&gt;<i>x</i>3'
    """
    if content is None:
        return ""
    if isinstance(content, Html):
        return content.markup
    if isinstance(content, str):
        return html.escape(content, quote=True)
    if isinstance(content, int | float):
        return html.escape(str(content))
    return "".join(text_of(part) for part in content)


def element(tag: str, /, *content: Any, **attributes: Any) -> Html:
    """One element. A trailing underscore as of `class_` is dropped, other underscores become hyphens; None leaves an
    attribute out, True writes it without a value.

    >>> print(element("a", "x & y", href="#top", class_="link", data_row=None))
    <a href="#top" class="link">x &amp; y</a>
    """
    parts = [tag]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.removesuffix("_").replace("_", "-")
        parts.append(written if value is True else f'{written}="{html.escape(str(value), quote=True)}"')
    head = f"<{' '.join(parts)}>"
    return Html(head if tag in VOID else f"{head}{text_of(content)}</{tag}>")


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1, strong: Iterable[int] = ()
) -> Html:
    """A table in a box that scrolls by itself; the first `left` columns are text, and its first one heads its row."""
    marked = frozenset(strong)

    kinds = ["text" if at < left else "number" for at in range(len(columns))]

    def cell(at: int, content: Any) -> Html:
        if at == 0:
            return element("th", content, scope="row", class_=kinds[at])
        return element("td", content, class_=kinds[at])

    heads = [element("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)]
    lines = [
        element("tr", [cell(*entry) for entry in enumerate(row)], class_="strong" if number in marked else None)
        for number, row in enumerate(rows)
    ]
    inner = [element("caption", caption), element("thead", element("tr", heads)), element("tbody", lines)]
    return element("div", element("table", inner), class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Mapping[str, Any] | Sequence[tuple[str, Any]]) -> Html:
    """Names and values in two columns; those without a value are left out."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    lines = [[element("dt", name), element("dd", value)] for name, value in items if value is not None]
    return element("dl", lines)


def data_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, name: str) -> Html:
    """What a figure draws, folded away, and as a CSV file to save."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([columns, *rows])
    link = element("a", f"{name}.csv", href=data_uri(buffer.getvalue().encode(), "text/csv"), download=f"{name}.csv")
    cells = [[_number(value) for value in row] for row in rows]
    body = table(f"Data of the figure {name.replace('_', ' ')}", columns, cells)
    return element("details", element("summary", "Data"), element("p", "As a file: ", link), body)


def _number(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def data_uri(content: bytes, kind: str) -> str:
    """The content itself in place of an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def section(title: str, name: str, *content: Any, source: Any = None) -> Html:
    """A section with its heading, and where its numbers come from."""
    note = None if source is None else element("p", "Source: ", source, class_="source")
    return element("section", element("h2", title), content, note, id=name, aria_label=title)


def page(title: str, body: Any, *, language: str = "en") -> str:
    """A whole document with its style and script inside, and nothing to fetch from anywhere."""
    assets = files("genrec.reports").joinpath("assets")
    style = Html(assets.joinpath("report.css").read_text(encoding="utf-8"))
    script = Html(assets.joinpath("report.js").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.markup.encode()).digest()).decode("ascii")
    # A second lock behind the escaping: nothing is fetched, and no script but ours runs.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    document = element("html", head, element("body", body, element("script", script)), lang=language)
    return f"<!doctype html>\n{document}\n"
