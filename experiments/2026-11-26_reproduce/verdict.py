"""The part of a verdict that names no folder: ``python verdict.py work/CELL.json > results/CELL.json``."""

import json
import sys
from pathlib import Path

KEPT = ("cell", "verdict", "is_settled", "protocol", "seeds", "changes", "numbers")

found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
print(json.dumps({name: found[name] for name in KEPT}, indent=1))
