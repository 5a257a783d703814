"""A bundle that is a table: what follows an item is written down, so that every answer of a server can be foretold.

Its folder holds manifest.json and table.json; `write` is atomic for one reader at a time, by a rename of its folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace


def write(
    folder: Path, *, model: str, catalogue: str, num_items: int = 50, seconds: float = 0.0, shift: int = 1
) -> Path:
    """Items i0 ...; after item n come n + shift, n + 2 shift, ... in a circle. `seconds` is what a search takes."""
    folder.mkdir(parents=True)
    table = {"num_items": num_items, "seconds": seconds, "shift": shift}
    names = {"model": model, "catalogue": catalogue, "created": "2026-01-01T00:00:00+00:00"}
    (folder / "table.json").write_text(json.dumps(table))
    (folder / "manifest.json").write_text(
        json.dumps(names)
    )
    return folder


@dataclass
class TableGenerator:
    version: SimpleNamespace
    limits: SimpleNamespace
    item_ids: list[str]
    titles: list[str]
    num_items: int
    seconds: float
    shift: int

    @classmethod
    def load(cls, folder: Path) -> TableGenerator:
        names = json.loads((folder / "manifest.json").read_text())
        del names["created"]
        table = json.loads((folder / "table.json").read_text())
        numbers = range(table["num_items"])
        return cls(
            version=SimpleNamespace(**names),
            limits=SimpleNamespace(max_candidates=20, history_length=50),
            item_ids=[f"i{number}" for number in numbers],
            titles=[f"Title of <b>{number}</b>" for number in numbers],
            **table,
        )

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        *,
        exclude: Sequence[Sequence[str]] | None = None,
        allow: Sequence[Sequence[str] | None] | None = None,
    ) -> SimpleNamespace:
        time.sleep(self.seconds)
        rows = [
            self._row(history, k, exclude[row] if exclude else (), allow[row] if allow else None)
            for row, history in enumerate(histories)
        ]
        columns = ("item_ids", "scores", "num_unknown", "is_popular")
        return SimpleNamespace(**{name: [row[at] for row in rows] for at, name in enumerate(columns)})

    def _row(
        self, history: Sequence[str], k: int, exclude: Sequence[str], allow: Sequence[str] | None
    ) -> tuple[list[str], list[float], int, bool]:
        known = [item for item in history if item in self.item_ids]
        unknown = sum(item not in self.item_ids for item in (*history, *exclude, *(allow or ())))
        last = int(known[-1][1:]) if known else 0
        ranked = [f"i{(last + self.shift * step) % self.num_items}" for step in range(1, self.num_items + 1)]
        # An item of the history two places back adds to the score, so that there is something to explain.
        bonus = 0.5 * (len(known) > 1)
        pairs = [(item, -float(place) + bonus) for place, item in enumerate(ranked)]
        kept = [pair for pair in pairs if pair[0] not in exclude and (allow is None or pair[0] in allow)]
        return [item for item, _ in kept[:k]], [score for _, score in kept[:k]], unknown, not known
