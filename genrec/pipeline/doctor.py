"""``genrec doctor``: what this machine has, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from typing import Any

from genrec.quantization.faiss_training import num_gpus
from genrec.runs import environment
from genrec.terminal import Outcome, Progress, Table

# Packages whose module has another name.
MODULES = {"faiss-cpu": "faiss", "scikit-learn": "sklearn", "pyyaml": "yaml"}


def doctor(*, progress: Progress) -> Outcome:
    """What this machine has, and what is missing."""
    facts = environment()
    needs = importlib.metadata.requires("genrec") or []
    names = [re.split(r"[^A-Za-z0-9_.-]", need, maxsplit=1)[0] for need in needs if "extra ==" not in need]
    facts["missing"] = [name for name in names if importlib.util.find_spec(MODULES.get(name, name)) is None]
    if "faiss-cpu" not in facts["missing"]:
        facts["faiss_gpus"] = num_gpus()  # that k-means can train on; a GPU may be there and not be seen
    facts["disk_free_bytes"] = shutil.disk_usage(".").free
    rows = [(name.replace("_", " "), _doctor_cell(name, value)) for name, value in facts.items() if name != "packages"]
    rows += [(f"package {name}", version) for name, version in facts["packages"].items()]
    return Outcome(facts, (Table("doctor", ("what", "found"), tuple(rows), left=("what", "found")),))


def _doctor_cell(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value / 1e9:.1f} GB" if value else "unknown"
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
