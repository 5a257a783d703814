"""The commands of the cookbook, one page after the other, on small planted files: they run, or leave as promised."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from markdown_blocks import DOCS, PROJECT, Command, blocks, commands

import genrec

NUM_ITEMS, NUM_USERS = 300, 400  # enough items survive for vectors of 192 numbers
NOT_HERE = {"pip", "torchrun", "source"}  # checked word by word in tests/unit/test_docs.py
SHORT = {"stopping.max_epochs": "1", "stopping.max_cases": "30"}
# Words that make a command small, for those that its page leaves as they are. The page's own words come first.
SMALL = {
    "tokenize": {"tokenizer.codebook_sizes": "[16,16,16]", "gates.max_collision_rate": "0.9"},
    "train": SHORT | {"accelerator": "cpu", "model.width": "16", "model.hidden": "24", "model.num_heads": "2"},
    "find-lr": {"accelerator": "cpu", "model.width": "16"},
    "finetune": SHORT | {"accelerator": "cpu", "targets": "last"},
    "evaluate": {"models": "[popularity,item_knn]", "num_resamples": "100", "num_permutations": "100"},
    "fuse": {"max_cases": "30"},
}
# Words that make a command small whatever its page says.
SMALLER = {"sweep": {"num_trials": "3", "num_random": "2"}}
SMALL_MODELS = {
    "encoder_decoder": {"model.encoder_layers": "1", "model.decoder_layers": "1", "model.head_width": "8"},
    "decoder_only": {"model.num_layers": "1"},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def pages() -> list[Path]:
    """The cookbook in the order of the navigation."""
    found = re.findall(r"cookbook/[\w-]+\.md", (PROJECT / "mkdocs.yml").read_text(encoding="utf-8"))
    return [DOCS / name for name in found]


class Cook:
    """A folder with the reader's files, and the pages that have been followed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, []
        write_files(folder)

    def follow(self, page: Path) -> int:
        """Runs a page after those before it, each once; how many commands of it ran."""
        ran = 0
        for each in pages()[: pages().index(page) + 1]:
            if each not in self.done:
                write_recipes(each, self.folder)
                ran = sum(cook(command) for command in commands(each))
                self.done.append(each)
        return ran


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Cook:
    return Cook(tmp_path_factory.mktemp("cookbook"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_page_can_be_followed(page: Path, kitchen: Cook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kitchen.folder)
    assert kitchen.follow(page) > 0


# --- running ---------------------------------------------------------------------------------------------------------


def cook(command: Command) -> bool:
    """Whether the command was one to run here; it did what its page says."""
    words = list(command.words)
    if words[0] in NOT_HERE or needs_what_is_not_here(words):
        return False
    if words[0] != "genrec":
        subprocess.run(words, check=True)
        return True
    words = [*words[1:], *smaller(words[1:])]
    # Each in a process of its own, as a reader starts them.
    start = [sys.executable, "-m", "genrec", *words]
    found = subprocess.run(start, env=environment(), capture_output=True, text=True, check=False)
    code, said = found.returncode, found.stdout + found.stderr
    assert code == command.exit_code, f"{command.place}: genrec {' '.join(words)}\n{said}"
    return True


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def needs_what_is_not_here(words: list[str]) -> bool:
    """Real data, or the package of a sentence model."""
    wants_model = any(word.startswith("minilm") for word in words)
    return "dataset=data/office" in words or (wants_model and find_spec("sentence_transformers") is None)


def smaller(words: list[str]) -> list[str]:
    """The words that are added; none for what the command does not read, or names itself."""
    verb, given = words[0], {word.partition("=")[0] for word in words}
    if any(word.endswith(".yaml") for word in words) and verb in ("train", "evaluate"):
        return [f"{key}={value}" for key, value in SMALL[verb].items() if key in SHORT and key not in given]
    extra = dict(SMALL.get(verb, {}))
    model = next((word.removeprefix("model=") for word in words if word.startswith("model=")), "hierarchical")
    extra |= SMALL_MODELS.get(model, {})
    if model == "huggingface":
        extra = {key: value for key, value in extra.items() if not key.startswith("model.")}
    if verb == "tokenize" and not given & {"tokenizer.embeddings"}:
        extra = {key: value for key, value in extra.items() if key.startswith("gates.")}
    if verb == "sweep" and "target=train" in words:
        forced = {f"train.{key}": value for key, value in SMALL["train"].items()}
    else:
        forced = {}
    forced |= SMALLER.get(verb, {})
    kept = {key: value for key, value in extra.items() if key not in given}
    return [f"{key}={value}" for key, value in (kept | forced).items()]


# --- the reader's files ----------------------------------------------------------------------------------------------


def write_recipes(page: Path, folder: Path) -> None:
    """YAML blocks that begin with the name of a file."""
    for block in blocks(page, "yaml"):
        name = re.match(r"# ([\w.-]+\.yaml)\n", block.body)
        if name:
            (folder / name[1]).write_text(block.body.replace("max_epochs: 20", "max_epochs: 1"), encoding="utf-8")


def write_files(folder: Path) -> None:
    """The folder `my` of the pages: events of two periods, items, vectors, codes, new and retired items, a network."""
    catalogue = genrec.PlantedCatalogue.create(num_items=NUM_ITEMS, num_categories=6, seed=5)
    users, items, times = catalogue.sample(NUM_USERS, min_length=8, seed=6)
    names = [f"sku-{number:04d}" for number in range(NUM_ITEMS)]
    described = catalogue.items.with_columns(pl.Series("item_id", names), pl.col("categories").list.join("|"))
    events = pl.DataFrame(
        {"customer": [f"c{user:04d}" for user in users], "sku": [names[item] for item in items], "time": times}
    )
    my = folder / "my"
    for name in ("events", "events_2", "network"):
        (my / name).mkdir(parents=True)
    events[: len(events) // 2].write_parquet(my / "events" / "a.parquet")
    events[len(events) // 2 :].write_parquet(my / "events" / "b.parquet")
    table = described.select("item_id", "title", "brand", "categories", "description")
    table.rename({"item_id": "sku"}).write_csv(my / "items.csv")
    new = table[:3].with_columns(pl.Series("item_id", ["new-1", "new-2", "new-3"]))
    new.write_csv(my / "new_items.csv")
    (my / "gone.txt").write_text("sku-0005\nsku-0006\n", encoding="utf-8")
    later = pl.DataFrame(
        {
            "customer": [f"c{user:04d}" for user in range(20) for _ in range(2)],
            "sku": ["new-1", "new-2"] * 20,
            "time": [int(times.max()) + 60 * number for number in range(40)],
        }
    )
    pl.concat([events, later]).write_parquet(my / "events_2" / "a.parquet")
    pl.concat([table, new]).rename({"item_id": "sku"}).write_csv(my / "items_2.csv")
    vectors = [[float(number % 7), float(number % 11), float(number % 13)] for number in range(NUM_ITEMS)]
    pl.DataFrame({"item_id": names, "vector": vectors}).write_parquet(my / "vectors.parquet")
    codes = {name: [number // 60, number // 8 % 8, number % 8] for number, name in enumerate(names)}
    (my / "codes.json").write_text(json.dumps(codes), encoding="utf-8")
    pl.DataFrame({"user_id": ["x", "x", "y"], "item_id": names[:3]}).write_csv(my / "today.csv")
    write_network(my / "network")


def write_network(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `huggingface`")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=30, hidden_size=16, intermediate_size=24, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
