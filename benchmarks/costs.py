"""What each step of the road costs in time and memory: measured at three sizes, a line through them, where it leads.

    python benchmarks/costs.py > costs.json                    # measures (a quarter of an hour on one core)
    python benchmarks/costs.py --page benchmarks/costs.json    # writes its tables into docs/costs.md

Every step is one command in a fresh process on a planted catalogue; its CPU seconds and its peak resident memory are
those that the kernel counted for it. A line a + b x through the three sizes (least squares) gives the cost b of one
more unit and the start-up a; rows beyond the largest size are such lines and say so. CPU time is stated because it
depends least on what else the machine does; one thread each, so wall time is not less than it. No bound is checked.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import genrec

EVENTS = (1_000_000, 2_000_000, 4_000_000)  # of `prepare`
ITEMS = (10_000, 20_000, 40_000)  # of all later steps; as many users, 12.5 events each
TRIE_ITEMS = (2_000_000, 4_000_000, 8_000_000)
MEAN_LENGTH = 12.5
PAGE = Path(__file__).resolve().parent.parent / "docs" / "costs.md"
GENREC = [sys.executable, "-m", "genrec"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

# step: (what its cost grows with, a word for the size of a row of the tables)
UNITS = {
    "prepare": "interactions",
    "embed": "items",
    "tokenize": "items",
    "trie": "items",
    "train": "interactions",
    "recommend": "requests",
    "evaluate": "requests",
    "evaluate_knn": "requests x items",
}


def main() -> int:
    """Measures, or prints tables of an earlier measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="a JSON of an earlier measurement, whose tables go into the page")
    parser.add_argument("--scale", type=float, default=1.0, help="all sizes times this, for a quick look")
    parser.add_argument("--trie", type=int, help=argparse.SUPPRESS)  # children of this process
    parser.add_argument("--plant", nargs=3, metavar=("FOLDER", "ITEMS", "USERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trie:
        build_trie(arguments.trie)
    elif arguments.plant:
        folder, items, users = arguments.plant
        write_planted(Path(folder), num_items=int(items), num_users=int(users))
    elif arguments.page:
        text = fill(PAGE.read_text(encoding="utf-8"), json.loads(arguments.page.read_text(encoding="utf-8")))
        PAGE.write_text(text, encoding="utf-8")
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = [point for point in measure(Path(folder), arguments.scale)]
        print(json.dumps({"machine": machine(), "points": found}, indent=1))
    return 0


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(folder: Path, scale: float) -> Iterator[dict[str, Any]]:
    """The points {step, size, seconds, gigabytes}, as they come."""
    for events in (round(events * scale) for events in EVENTS):
        plant(folder, max(200, events // 25), round(events / MEAN_LENGTH))
        yield point("prepare", events, prepare_words(folder, "big"))
    for items in (round(items * scale) for items in ITEMS):
        plant(folder, items, items)
        run(prepare_words(folder, "d"))
        yield from measure_road(folder, items)
    for items in (round(items * scale) for items in TRIE_ITEMS):
        yield point("trie", items, [sys.executable, __file__, "--trie", str(items)])


def measure_road(folder: Path, items: int) -> Iterator[dict[str, Any]]:
    """All that follows `prepare`, with the settings that the commands have by themselves."""
    events = round(items * MEAN_LENGTH)
    data = f"dataset={folder}/d"

    def step(name: str, size: int, *words: str, output: str) -> dict[str, Any]:
        return point(name, size, [*GENREC, name.split("_")[0], data, *words, output, *again(output)])

    def again(output: str) -> list[str]:
        return [] if output.startswith("run=") else ["overwrite=true"]

    yield step("embed", items, output=f"output={folder}/e")
    tokenizer = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/e"]
    yield step("tokenize", items, *tokenizer, output=f"output={folder}/s")
    short = ["stopping.max_epochs=1", "stopping.max_cases=100", "stopping.prefix_negatives=0", "accelerator=cpu"]
    run_folder = folder / f"run_{items}"
    yield step("train", events, f"semantic_ids={folder}/s", *short, output=f"run={run_folder}")
    recommender = f"{run_folder}/recommender"
    words = [f"recommender={recommender}", "k=20", "search.beam_width=20", f"semantic_ids={folder}/s"]
    yield step("recommend", items, *words, output=f"output={folder}/top.parquet")
    words = ["models=[]", f"recommenders.mine={recommender}", "search.beam_width=20", "cutoffs=[10,20]"]
    yield step("evaluate", items, *words, output=f"output={folder}/table")
    yield step("evaluate_knn", items * items, "models=[item_knn]", output=f"output={folder}/table_knn")


def prepare_words(folder: Path, name: str) -> list[str]:
    columns = ["source=table", "source.interactions=events.parquet", "source.items=items.parquet"]
    keep_all = ["filter.min_user_interactions=0", "filter.min_item_interactions=0"]
    places = [f"raw_dir={folder}/raw", f"output={folder}/{name}", "overwrite=true"]
    return [*GENREC, "prepare", *columns, *keep_all, *places]


def plant(folder: Path, num_items: int, num_users: int) -> None:
    """In a process of its own: Linux counts the peak of whoever starts a command as the command's."""
    run([sys.executable, __file__, "--plant", str(folder / "raw"), str(num_items), str(num_users)])


def write_planted(folder: Path, *, num_items: int, num_users: int) -> None:
    """A planted catalogue and its histories as the Parquet files that a user has."""
    folder.mkdir(exist_ok=True)
    catalogue = genrec.PlantedCatalogue.create(num_items=num_items)
    users, items, times = catalogue.sample(num_users)
    ids = catalogue.items["item_id"]
    events = pl.DataFrame({"user_id": users, "item_id": ids.gather(items), "timestamp": times})
    names = pl.format("user-{}", pl.col("user_id").cast(pl.String).str.zfill(9))
    events.with_columns(names.alias("user_id")).write_parquet(folder / "events.parquet")
    catalogue.items.write_parquet(folder / "items.parquet")


def build_trie(num_items: int) -> None:
    """Random codes, four levels of 256 and a suffix to part them, as a trie."""
    from genrec.semantic_ids.trie import SemanticIdTrie

    codes = np.random.default_rng(0).integers(0, 256, (num_items, 5), dtype=np.int32)
    codes = np.unique(codes, axis=0)
    SemanticIdTrie.build(codes, [256] * 5)


def point(step: str, size: int, words: list[str]) -> dict[str, Any]:
    seconds, gigabytes = run(words)
    print(f"{step} {size:,}: {seconds:.1f} s, {gigabytes:.2f} GB", file=sys.stderr)
    return {"step": step, "size": size, "seconds": round(seconds, 2), "gigabytes": round(gigabytes, 3)}


def run(words: list[str]) -> tuple[float, float]:
    """CPU seconds and peak resident memory (GB) of one process; Linux counts kilobytes.

    Raises:
        SystemExit: the command failed; with what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, env={**os.environ, **ONE_THREAD}, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            said.seek(0)
            sys.exit(f"{' '.join(words)}\n{said.read()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def machine() -> dict[str, Any]:
    """What was measured on, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    versions = {name: importlib.metadata.version(name) for name in ("torch", "polars", "numpy", "faiss-cpu")}
    return {
        "date": date.today().isoformat(),
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        **versions,
    }


# --- lines and tables ------------------------------------------------------------------------------------------------


def line(points: list[dict[str, Any]], step: str, value: str) -> tuple[float, float, int]:
    """(a, b, largest size) of the least-squares line value = a + b size; neither is below 0; NaN below two points."""
    chosen = [(point["size"], point[value]) for point in points if point["step"] == step and point[value] is not None]
    if len(chosen) < 2:
        return math.nan, math.nan, 0
    sizes, values = np.array(chosen, dtype=float).T
    slope = max(0.0, float(np.polyfit(sizes, values, 1)[0]))
    return max(0.0, float(np.mean(values - slope * sizes))), slope, int(sizes.max())


def fill(page: str, found: dict[str, Any]) -> str:
    """The page with its parts, each between a comment of its name and `<!-- end -->`, written anew."""
    points, where = found["points"], found["machine"]
    versions = ", ".join(f"{name} {where[name]}" for name in ("python", "torch", "polars", "numpy", "faiss-cpu"))
    computer = f"{where['cores']} cores of {where['processor']}, {where['gigabytes']} GB"
    parts = {
        "machine": f"{where['date']}, {computer}, {versions}.",
        "measured": measured(points),
        "interactions": growth(points, (10**7, 10**8, 10**9), "interactions", ("prepare", "train")),
        "items": growth(points, (10**6, 10**7, 10**8, 10**9), "items", ("embed", "tokenize", "trie")),
        "requests": growth(points, (10**6, 10**7), "requests", ("recommend", "evaluate")),
    }
    for name, text in parts.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        page = marks.sub(lambda match, text=text: f"{match[1]}\n{text}\n{match[2]}", page)
    return page


def measured(points: list[dict[str, Any]]) -> str:
    rows = []
    for step, unit in UNITS.items():
        sizes = [point for point in points if point["step"] == step]
        scale, word = (1e9, "billion") if " x " in unit else (1e6, "million")

        def shown(value: str, write: Callable[[float], str], step: str = step, scale: float = scale) -> str:
            a, b, largest = line(points, step, value)
            return f"{write(a)} + {write(b * scale)}" if tells(a, b, largest) else "?"

        rows.append(
            [
                f"`{step}`",
                f"{' / '.join(count(point['size']) for point in sizes)} {unit}",
                " / ".join(duration(point["seconds"]) for point in sizes),
                f"{shown('seconds', duration)} a {word}".replace(f"? a {word}", "?"),
                " / ".join(storage(point["gigabytes"]) for point in sizes),
                shown("gigabytes", storage),
            ]
        )
    return table(["step", "sizes", "CPU time", "its line", "peak memory", "its line"], rows)


def tells(a: float, b: float, largest: int) -> bool:
    """Whether a line says anything of other sizes: where nearly all of it is start-up, its slope is noise."""
    return b * largest >= a / 2


def growth(points: list[dict[str, Any]], sizes: tuple[int, ...], unit: str, steps: tuple[str, ...]) -> str:
    """A row a size, time and memory a step, from the lines; * beyond what was measured, ? where that cannot tell."""

    def cell(size: int, step: str, value: str, write: Callable[[float], str]) -> str:
        a, b, largest = line(points, step, value)
        if not tells(a, b, largest):
            return "?"
        return write(a + b * size) + ("" if size <= largest else " *")

    rows = []
    for size in sizes:
        row = [count(size)]
        for step in steps:
            row += [cell(size, step, "seconds", duration), cell(size, step, "gigabytes", storage)]
        rows.append(row)
    return table([unit, *(head for step in steps for head in (f"`{step}`: CPU time", "memory"))], rows)


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def count(number: float) -> str:
    for unit, word in ((1e9, " billion"), (1e6, " million"), (1e3, ",000")):
        if number >= unit:
            return f"{number / unit:.3g}{word}" if word != ",000" else f"{round(number):,}"
    return f"{round(number)}"


def duration(seconds: float) -> str:
    for unit, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.2g} {word}" if seconds < 100 * unit else f"{round(seconds / unit):,} {word}"
    return f"{seconds:.2g} s" if seconds < 100 else f"{round(seconds)} s"


def storage(gigabytes: float | None) -> str:
    if gigabytes is None or math.isnan(gigabytes):
        return "?"
    if gigabytes >= 1000:
        return f"{gigabytes / 1000:.2g} TB"
    return f"{gigabytes:.2g} GB" if gigabytes < 100 else f"{round(gigabytes)} GB"


if __name__ == "__main__":
    sys.exit(main())
