"""What a person sees of a version of a catalogue, and the facts of it for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genrec.artifacts import Artifact
from genrec.semantic_ids.versions import Version
from genrec.terminal import Table


def version_summary(output: Path, artifact: Artifact, after: Version) -> dict[str, Any]:
    """What every change of a catalogue tells machines."""
    return {
        "output": str(output),
        "identity": artifact.identity,
        "table": after.table.identity,
        "version": artifact.facts["version"],
        "num_items": after.table.num_items,
        "num_retired": len(after.retired_ids),
    }


def version_table(output: Path, number: int, summary: dict[str, Any]) -> Table:
    """What happened, as far as `summary` says it, and how much room is left in the suffix level."""
    labels = {
        "added": "new items",
        "returned": "retired items that came back",
        "retired": "items that went",
        "skipped": "skipped",
        "num_items": "items now",
        "num_retired": "semantic IDs kept for retired items",
    }
    rows = [(label, f"{summary[name]:,}") for name, label in labels.items() if name in summary]
    placing = summary.get("placing", {})
    rows += [("new items moved to a free last code", f"{placing['moved']:,}")] if placing.get("moved") else []
    if "suffix_size" in placing:
        rows.append(("new items with a suffix above 0", f"{placing['suffixed']:,}"))
        rows.append(("largest suffix, of", f"{placing['largest_suffix']} of 0 to {placing['suffix_size'] - 1}"))
    return Table(f"{output}: version {number}", ("what", "value"), tuple(rows), left=("what",))


def drift_table(found: dict[str, Any], titles: dict[str, str | None]) -> Table:
    """The facts of `quantization.drift.drift`, level by level, and the worst items by id and title."""
    columns = ("level", "fitted", "new", "ratio", "unexplained", "beyond 95 %", "beyond 99 %")
    rows = [
        (
            str(level["level"]),
            f"{level['fitted_mean']:.4g}",
            f"{level['mean']:.4g}",
            "-" if level["ratio"] is None else f"{level['ratio']:.3g}",
            "-" if level["unexplained"] is None else f"{level['unexplained']:.1%}",
            f"{level['beyond_95']:.0%}",
            f"{level['beyond_99']:.0%}",
        )
        for level in found["levels"]
    ]
    worst = "; ".join(
        f"{item['item_id']} ({titles[item['item_id']] or 'no title'}): {item['error']:.3g}" for item in found["worst"]
    )
    title = f"drift: squared errors of {found['num_items']:,} new items and of those the codebooks were fitted on"
    return Table(title, columns, tuple(rows), caption=f"worst: {worst}")
