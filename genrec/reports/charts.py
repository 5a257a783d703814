"""Charts as SVG inside the page: lines over steps, dots with intervals, bars. Draws the numbers it is given.

Colours are classes s1 to s8 of report.css, which the colour-blind can tell apart, in light and dark. Every mark carries
what it shows (`data-tip`, and as a title for readers without a script), every figure its data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from genrec.reports.html import Html, data_table, element

WIDTH, HEIGHT = 460.0, 270.0
NUM_COLOURS = 8


@dataclass(frozen=True)
class Series:
    """One line: its name and its points (x, y); an interval of each y where there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] | None = None


@dataclass(frozen=True)
class Dot:
    """One row of a plot of intervals; a dot without low and high has none."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 1


def short(value: float) -> str:
    """Four digits for small numbers, as people read them.

    >>> short(0.10573), short(12345.6), short(2.5), short(-0.00012)
    ('0.1057', '12,346', '2.5', '-0.00012')
    """
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if abs(value) >= 1 else 4
    text = f"{value:.{digits}f}" if abs(value) >= 0.001 else f"{value:.2g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two others, at most so many.

    >>> ticks(0.0, 0.23)
    [0.0, 0.05, 0.1, 0.15, 0.2]
    """
    if not high > low:
        return [low]
    base = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(base * factor for factor in (1, 2, 5, 10) if (high - low) / (base * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(
    title: str,
    name: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
    x_ticks: Sequence[float] | None = None,
    mark: tuple[float, str] | None = None,
) -> Html:
    """Lines over a common x. `x_ticks` places the x evenly in their order; `mark` is a vertical line with its word."""
    place = _even(x_ticks) if x_ticks is not None else (lambda x: x)
    xs = [place(x) for own in series for x, _ in own.points]
    ys = [y for own in series for _, y in own.points] + [
        y for own in series for pair in own.intervals or () for y in pair
    ]
    low, high = (min(0.0, *ys) if from_zero else min(ys)), max(ys)
    pad = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    low, high = (low if from_zero else low - pad), high + pad
    left, right, top, bottom = 52.0, 12.0, 12.0, 40.0
    x_of = _scale(min(xs), max(xs), left, WIDTH - right)
    y_of = _scale(low, high, HEIGHT - bottom, top)
    marks: list[Any] = _frame(ticks(low, high), y_of, left, WIDTH - right)
    shown = list(x_ticks) if x_ticks is not None else ticks(min(xs), max(xs))
    for x in shown:
        at = x_of(place(x))
        marks.append(_text(at, HEIGHT - bottom + 16, short(x), "middle", "faint"))
    marks.append(_text((left + WIDTH - right) / 2, HEIGHT - 6, x_label, "middle", "faint"))
    if mark is not None:
        at = x_of(place(mark[0]))
        marks.append(
            element("line", x1=_r(at), x2=_r(at), y1=top, y2=HEIGHT - bottom, class_="axis", stroke_dasharray="3 3")
        )
        marks.append(_text(min(at + 4, WIDTH - 70), top + 10, mark[1], "start", "faint"))
    for number, own in enumerate(series):
        marks += _line(own, number, lambda x: x_of(place(x)), y_of)
    rows = [
        (own.name, x, y, *(own.intervals[at] if own.intervals else ()))
        for own in series
        for at, (x, y) in enumerate(own.points)
    ]
    has_intervals = any(own.intervals for own in series)
    columns = ("series", x_label, y_label, *(("low", "high") if has_intervals else ()))
    legend = _legend([own.name for own in series]) if len(series) > 1 else None
    return _figure(title, name, marks, HEIGHT, legend, columns, rows, y_label)


def _line(own: Series, number: int, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> list[Html]:
    colour, points = f"s{number % NUM_COLOURS + 1}", [(x_of(x), y_of(y)) for x, y in own.points]
    marks = []
    if own.intervals:
        above = [(x, y_of(high)) for (x, _), (_, high) in zip(points, own.intervals, strict=True)]
        below = [(x, y_of(low)) for (x, _), (low, _) in zip(points, own.intervals, strict=True)]
        marks.append(
            element(
                "polygon", points=_points([*above, *reversed(below)]), class_=f"band {colour}", data_series=own.name
            )
        )
    marks.append(element("polyline", points=_points(points), class_=f"line {colour}", data_series=own.name))
    for at, ((x, y), (place, value)) in enumerate(zip(points, own.points, strict=True)):
        tip = f"{own.name}, {short(place)}: {short(value)}"
        if own.intervals:
            tip += f" [{short(own.intervals[at][0])}, {short(own.intervals[at][1])}]"
        marks.append(_dot(x, y, colour, tip, own.name))
    return marks


def dots(title: str, name: str, rows: Sequence[Dot], *, x_label: str, zero: bool = False, note: str = "") -> Html:
    """Values with their intervals, one below the other; `zero` draws the line that a difference has to leave."""
    spread = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    low, high = min(spread), max(spread)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - pad, high + pad
    longest = max(len(row.label) for row in rows)
    left, right, top, step = min(190.0, 16 + 6.2 * longest), 14.0, 8.0, 24.0
    height = top + step * len(rows) + 40
    x_of = _scale(low, high, left, WIDTH - right)
    marks: list[Any] = []
    for tick in ticks(low, high, 5):
        at = _r(x_of(tick))
        marks.append(element("line", x1=at, x2=at, y1=top, y2=height - 36, class_="grid"))
        marks.append(_text(x_of(tick), height - 22, short(tick), "middle", "faint"))
    if zero:
        at = _r(x_of(0.0))
        marks.append(element("line", x1=at, x2=at, y1=top, y2=height - 36, class_="axis"))
    marks.append(_text((left + WIDTH - right) / 2, height - 6, x_label, "middle", "faint"))
    most = max(8, int((left - 16) / 6.0))
    for number, row in enumerate(rows):
        y, colour = top + step * (number + 0.5), f"s{(row.colour - 1) % NUM_COLOURS + 1}"
        label = row.label if len(row.label) <= most else row.label[: most - 1] + "…"
        marks.append(_text(left - 8, y + 4, label, "end"))
        tip = f"{row.label}: {short(row.value)}"
        if row.low is not None and row.high is not None:
            marks.append(
                element("line", x1=_r(x_of(row.low)), x2=_r(x_of(row.high)), y1=y, y2=y, class_=f"whisker {colour}")
            )
            tip += f" [{short(row.low)}, {short(row.high)}]"
        marks.append(_dot(x_of(row.value), y, colour, tip))
    table_rows = [(row.label, row.value, row.low, row.high) for row in rows]
    return _figure(title, name, marks, height, None, ("row", x_label, "low", "high"), table_rows, note or x_label)


def bars(title: str, name: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, x_label: str) -> Html:
    """For each row parts that add up, drawn one after the other; the names of the parts are the legend."""
    names = [part for part, _ in rows[0][1]]
    longest = max(len(label) for label, _ in rows)
    left, right, top, step = min(190.0, 16 + 6.2 * longest), 14.0, 8.0, 28.0
    height = top + step * len(rows) + 40
    total = max(sum(value for _, value in parts) for _, parts in rows)
    x_of = _scale(0.0, total or 1.0, left, WIDTH - right)
    marks: list[Any] = []
    for tick in ticks(0.0, total or 1.0, 5):
        marks.append(_text(x_of(tick), height - 22, short(tick), "middle", "faint"))
    marks.append(_text((left + WIDTH - right) / 2, height - 6, x_label, "middle", "faint"))
    for number, (label, parts) in enumerate(rows):
        y, start = top + step * number + 4, 0.0
        marks.append(_text(left - 8, y + 14, label, "end"))
        for at, (part, value) in enumerate(parts):
            x, end = x_of(start), x_of(start + value)
            tip = f"{label}, {part}: {short(value)}"
            box = {"x": _r(x), "y": y, "width": _r(max(0.0, end - x)), "height": step - 8}
            kind = f"bar s{at % NUM_COLOURS + 1}"
            marks.append(element("rect", element("title", tip), **box, class_=kind, data_tip=tip, data_series=part))
            start += value
    table_rows = [(label, *(value for _, value in parts)) for label, parts in rows]
    return _figure(title, name, marks, height, _legend(names), ("row", *names), table_rows, x_label)


def _figure(
    title: str,
    name: str,
    marks: Sequence[Any],
    height: float,
    legend: Html | None,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    words: str,
) -> Html:
    drawing = element("svg", *marks, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=f"{title}: {words}")
    data = data_table(columns, rows, name=name)
    return element("figure", element("h3", title), legend, drawing, data, id=f"figure-{name}")


def _legend(names: Sequence[str]) -> Html:
    buttons = [
        element("button", own, type="button", data_series=own, aria_pressed="true", class_=f"s{at % NUM_COLOURS + 1}")
        for at, own in enumerate(names)
    ]
    return element("div", buttons, class_="legend")


def _frame(y_ticks: Sequence[float], y_of: Callable[[float], float], left: float, right: float) -> list[Any]:
    marks: list[Any] = []
    for tick in y_ticks:
        y = _r(y_of(tick))
        marks.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        marks.append(_text(left - 6, y_of(tick) + 4, short(tick), "end", "faint"))
    return marks


def _dot(x: float, y: float, colour: str, tip: str, series: str | None = None) -> Html:
    place = {"cx": _r(x), "cy": _r(y), "r": 3.5}
    return element("circle", element("title", tip), **place, class_=f"dot {colour}", data_tip=tip, data_series=series)


def _text(x: float, y: float, content: str, anchor: str, kind: str | None = None) -> Html:
    return element("text", content, x=_r(x), y=_r(y), text_anchor=anchor, class_=kind)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_r(x)},{_r(y)}" for x, y in points)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = high - low
    return lambda value: (start + end) / 2 if width == 0 else start + (value - low) / width * (end - start)


def _even(order: Sequence[float]) -> Callable[[float], float]:
    places = {value: float(at) for at, value in enumerate(order)}
    return lambda value: places[value]


def _r(value: float) -> str:
    return f"{value:.1f}"
