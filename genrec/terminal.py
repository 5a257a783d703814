"""What a person sees: tables, progress, error lines. The only module that prints; knows nothing of what it shows."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table as RichTable

SECONDS_BETWEEN_LINES = 5.0

Progress = Callable[..., None]  # (task, done, total, and possibly a few words on how it goes)


@dataclass(frozen=True)
class Table:
    """A table to show: cells are text; columns named in `left` are left-aligned, the others right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[str, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a command hands back: facts for machines, tables for people, and the next command to try."""

    summary: dict[str, Any]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    next: str = ""


@dataclass
class Terminal:
    """Standard output for results, standard error for progress and errors.

    Attributes:
        as_json: the last line of standard output is the summary as JSON, and nothing else is printed there.
    """

    as_json: bool = False
    out: Console = field(default_factory=lambda: stdout_console())
    err: Console = field(default_factory=lambda: Console(stderr=True, soft_wrap=True, highlight=False))

    def show(self, outcome: Outcome) -> None:
        """Tables, notes and the next command; with `as_json` one line of JSON instead."""
        if self.as_json:
            sys.stdout.write(json.dumps(outcome.summary, allow_nan=False) + "\n")
            sys.stdout.flush()
            return
        for table in outcome.tables:
            self.out.print(f"[bold]{escape(table.title)}[/bold]", soft_wrap=True)
            self.out.print(rich_table(table))
            if table.caption:
                self.out.print(f"[dim]{escape(table.caption)}[/dim]", soft_wrap=True)
            self.out.print()
        for note in outcome.notes:
            self.out.print(f"[dim]note:[/dim] {escape(note)}", soft_wrap=True)
        if outcome.next:
            self.out.print(f"next: [bold]{escape(outcome.next)}[/bold]", soft_wrap=True)

    def error(self, line: str) -> None:
        self.err.print(f"[bold red]error:[/bold red] {escape(line)}")

    def text(self, text: str) -> None:
        """Plain text on standard output, as it is."""
        self.out.print(text, markup=False, soft_wrap=True, end="" if text.endswith("\n") else "\n")


def stdout_console() -> Console:
    """Standard output; a file or a pipe has no width that a table would have to be squeezed into."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, 120))


def rich_table(table: Table) -> RichTable:
    """The columns and rows of `table` for a rich console; cells are shown literally."""
    shown = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in table.columns:
        is_left = column in table.left
        shown.add_column(escape(column), justify="left" if is_left else "right", overflow="fold", no_wrap=not is_left)
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown


def quieten_lightning() -> None:
    """Lightning adds a handler and a level of its own when it is imported; its messages go the way of all others."""
    handlers = logging.getLogger().handlers
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(handlers[0].level if handlers else logging.WARNING)


class ProgressReporter:
    """A callback ``progress(task, done, total, note)``: a bar with rate and time left, else a line every 5 s.

    Use as a context manager; nothing is drawn before the first call.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: ProgressBar | None = None
        self.tasks: dict[str, Any] = {}
        self.started: dict[str, float] = {}
        self.last_line = 0.0

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        if self.console.is_terminal:
            self._draw(task, done, total, note)
        else:
            self._line(task, done, total, note)

    def _draw(self, task: str, done: int, total: int | None, note: str) -> None:
        if self.bar is None:
            columns: Sequence[Any] = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = ProgressBar(*columns, console=self.console)
            self.bar.start()
        if task not in self.tasks:
            self.tasks[task] = self.bar.add_task(escape(task), total=total, rate="")
            self.started[task] = time.monotonic()
        passed = time.monotonic() - self.started[task]
        rate = f"{done / passed:.3g}/s" if passed > 0 else ""
        rate = f"{rate}  {note}" if note else rate
        self.bar.update(self.tasks[task], completed=done, total=total, rate=rate)

    def _line(self, task: str, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        self.last_line = self.last_line or now  # work that is done within 5 s needs no line
        started = self.started.setdefault(task, now)
        if now - self.last_line < SECONDS_BETWEEN_LINES or now == started:
            return
        self.last_line = now
        rate = done / (now - started)
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        of = f"/{total}" if total else ""
        more = f", {note}" if note else ""
        self.console.print(f"{task}: {done}{of} ({rate:.3g}/s{left}{more})", markup=False)
