"""A catalogue that changes from day to day through the command line, and the recommender that goes on with it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from command_line import RUNNER, fails, works

from genrec.baselines.base import count_items
from genrec.cli import app
from genrec.data.dataset import Dataset
from genrec.decoding.exhaustive import score_catalogue
from genrec.embeddings.combine import combine
from genrec.embeddings.store import load_embeddings, save_embeddings
from genrec.embeddings.tfidf import fit_tfidf
from genrec.pipeline.new_vectors import embed_new_items
from genrec.pipeline.published import Published, load_published
from genrec.pipeline.recommenders import build_generator, load_recommender, load_served
from genrec.semantic_ids.table import load_health
from oracles.versions_oracle import next_suffixes

MODEL = ["model.width=16", "model.hidden=32", "model.depth_hidden=16", "model.num_heads=2", "model.history_length=8"]
SHORT = ["stopping.max_epochs=2", "stopping.max_cases=40", "optimizer.batch_size=16", "accelerator=cpu"]
GATES = ["gates.max_collision_rate=1", "gates.max_dead_share=1", "gates.min_perplexity_share=0"]
NUM_ITEMS = 80


def tokenize(road: Path, embeddings: Path, output: Path, *more: str) -> None:
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={embeddings}", "tokenizer.codebook_sizes=[8,8,8]"]
    works("tokenize", f"dataset={road}/d", f"output={output}", *words, *GATES, *more)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset d, embeddings e, semantic IDs s, a recommender with a memory; new.csv with items w, x, y and z."""
    folder = tmp_path_factory.mktemp("road")
    size = ["source.num_users=150", f"source.num_items={NUM_ITEMS}", "source.num_categories=4"]
    works("prepare", "synthetic", *size, f"output={folder}/d")
    works("embed", f"dataset={folder}/d", f"output={folder}/e", "embedding=tfidf", "embedding.dimensions=16")
    tokenize(folder, folder / "e", folder / "s")
    words = [f"dataset={folder}/d", f"semantic_ids={folder}/s", f"run={folder}/run", "model.memory.followers=20"]
    works("train", *words, *MODEL, *SHORT)
    new_items(folder, ["x", "z", "w", "y"]).write_csv(folder / "new.csv")
    works("catalogue", "append", f"semantic_ids={folder}/s", f"items={folder}/new.csv", f"output={folder}/s2")
    return folder


def new_items(folder: Path, names: list[str], shift: int = 0) -> pl.DataFrame:
    """Items that are described as items of the dataset are: the i-th letter of the alphabet as row i + shift."""
    like = [ord(name[0]) - ord("a") + shift for name in names]
    rows = Dataset.load(folder / "d").items[like]
    categories = rows["categories"].list.join("|")
    return rows.select("title", "brand", "description").with_columns(pl.Series("item_id", names), categories)


def codes_of(published: Published) -> dict[str, list[int]]:
    return dict(zip(published.version.item_ids, published.version.table.codes.tolist(), strict=True))


def append(road: Path, items: Path, output: Path, *more: str, table: str = "s") -> list[str]:
    return ["catalogue", "append", f"semantic_ids={road}/{table}", f"items={items}", f"output={output}", *more]


def retire(road: Path, output: Path, *more: str, table: str = "s2") -> list[str]:
    return ["catalogue", "retire", f"semantic_ids={road}/{table}", f"output={output}", *more]


def test_files_of_new_items_are_read_whole_or_not_at_all(road: Path, tmp_path: Path) -> None:
    files = {
        "latin.csv": ("item_id,title\nq,Stift f\u00fcr B\u00fcro\n".encode("latin-1"), "save the file as UTF-8\n"),
        "sku.csv": (b"sku,title\nq,pen\n", "set source.item_id_column=... to the column of the item id"),
    }
    for name, (content, expected) in files.items():
        (tmp_path / name).write_bytes(content)
        line = fails(*append(road, tmp_path / name, tmp_path / "o"), code=3)
        assert expected in line
        assert "skip_bad_lines" not in line
        assert not (tmp_path / "o").exists()


def test_published_ids_stay_and_twins_get_the_next_suffix(road: Path) -> None:
    first, second = load_published(road / "s"), load_published(road / "s2")
    assert (first.number, second.number) == (1, 2)
    assert second.artifact.facts["identity"] == first.artifact.facts["identity"]
    assert second.artifact.parents["previous"] == first.artifact.identity
    assert set(second.artifact.parents) == {"dataset", "embeddings", "previous"}
    assert list(second.version.item_ids) == [*first.version.item_ids, "w", "x", "y", "z"]
    old, new = codes_of(first), codes_of(second)
    assert {name: new[name] for name in old} == old
    twins = [tuple(old[list(old)[ord(letter) - ord("a")]][:3]) for letter in "wxyz"]
    suffixes = next_suffixes(twins, [tuple(row) for row in old.values()])
    assert [new[letter] for letter in "wxyz"] == [[*row, last] for row, last in zip(twins, suffixes, strict=True)]
    assert second.items["origin"].to_list() == [1] * NUM_ITEMS + [2] * 4
    assert second.items["text"][NUM_ITEMS] == Dataset.load(road / "d").items["text"][ord("w") - ord("a")]
    health = load_health(second.artifact)
    assert health["change"] == {"name": "append", "added": 4, "returned": 0, "skipped": 0}
    assert health["drift"]["num_items"] == 4
    assert health["drift"]["num_fitted"] == NUM_ITEMS
    assert health["tokenizer"]["name"] == "residual_kmeans"


def test_the_order_and_the_format_of_the_file_do_not_matter(road: Path, tmp_path: Path) -> None:
    table = new_items(road, ["y", "w", "z", "x"])
    table.write_ndjson(tmp_path / "new.jsonl")
    table.with_columns(pl.col("categories").str.split("|")).rename({"item_id": "sku", "title": "name"}).write_parquet(
        tmp_path / "new.parquet"
    )
    words = ["source.item_id_column=sku", "source.title_column=name"]
    found = [
        works(*append(road, tmp_path / "new.jsonl", tmp_path / "a")),
        works(*append(road, tmp_path / "new.parquet", tmp_path / "b", *words)),
    ]
    expected = load_published(road / "s2").artifact.identity
    assert [outcome["identity"] for outcome in found] == [expected, expected]


def test_retired_ids_are_kept_and_come_back(road: Path, tmp_path: Path) -> None:
    second = codes_of(load_published(road / "s2"))
    gone = ["x", *list(second)[3:6]]
    (tmp_path / "gone.txt").write_text("\n".join(gone) + "\n\n")
    found = works(*retire(road, tmp_path / "s3", f"items={tmp_path}/gone.txt"))
    assert (found["version"], found["num_items"], found["num_retired"]) == (3, NUM_ITEMS, 4)
    third = load_published(tmp_path / "s3")
    assert codes_of(third) == {name: row for name, row in second.items() if name not in gone}
    assert third.items["item_id"].to_list() == list(third.version.item_ids)
    assert dict(third.retired_in) == dict.fromkeys(gone, 3)
    new_items(road, ["xa", "x"]).write_csv(tmp_path / "again.csv")  # a twin of x beside x itself
    words = append(tmp_path, tmp_path / "again.csv", tmp_path / "s4", table="s3")
    assert works(*words)["returned"] == 1
    fourth = load_published(tmp_path / "s4")
    assert list(fourth.version.item_ids)[-2:] == ["x", "xa"]
    assert codes_of(fourth)["x"] == second["x"]
    assert codes_of(fourth)["xa"] not in second.values()
    assert list(fourth.version.retired_ids) == gone[1:]
    assert fourth.items["origin"][-2:].to_list() == [4, 4]


def test_days_without_news_and_items_that_are_there(road: Path, tmp_path: Path) -> None:
    line = fails(*append(road, road / "new.csv", tmp_path / "o", table="s2"), code=3)
    assert "4 of 4 items are in the catalogue already (found 'w', 'x', 'y' and 1 more)" in line
    found = works(*append(road, road / "new.csv", tmp_path / "s3", "existing=skip", table="s2"))
    assert (found["added"], found["skipped"], found["drift"], found["version"]) == (0, 4, None, 3)
    assert codes_of(load_published(tmp_path / "s3")) == codes_of(load_published(road / "s2"))
    line = fails(*retire(road, tmp_path / "o", "ids=[w,nobody]"), code=3)
    assert "1 of 2 items to retire are not in the catalogue (found 'nobody'); leave them out, or set missing=s" in line
    assert works(*retire(road, tmp_path / "s4", "ids=w,nobody", "missing=skip"))["retired"] == 1


def test_what_cannot_be_is_refused_and_nothing_is_written(road: Path, tmp_path: Path) -> None:
    output = tmp_path / "o"
    assert "set items=..." in fails(*append(road, tmp_path / "none.csv", output), code=3)
    pl.concat([new_items(road, ["w", "x"])] * 2).write_csv(tmp_path / "twice.csv")
    assert "2 item ids are there more than once" in fails(*append(road, tmp_path / "twice.csv", output), code=3)
    pl.DataFrame({"item_id": ["w", "q"], "title": ["", "zzzz qqqq"]}).write_csv(tmp_path / "empty.csv")
    line = fails(*append(road, tmp_path / "empty.csv", output), code=3)
    assert "2 of 2 new items have a vector of zeros" in line
    assert "'q', 'w'" in line
    names = [f"w{number:02d}" for number in range(30)]
    new_items(road, names).write_csv(tmp_path / "full.csv")
    line = fails(*append(road, tmp_path / "full.csv", output), code=3)
    assert "new items find no free suffix, the first is 'w" in line
    assert "larger tokenizer.reserve=..." in line
    everybody = ",".join(load_published(road / "s2").version.item_ids)
    assert "no item would be left" in fails(*retire(road, output, f"ids={everybody}"), code=3)
    assert "set items=... or ids=..." in fails(*retire(road, output), code=2)
    assert "items are needed once" not in fails(*retire(road, output, "ids=w", "items=a", "missing=x"), code=2)
    assert not output.exists()


def test_codebooks_that_no_longer_fit_warn_and_can_stop(road: Path, tmp_path: Path) -> None:
    names = [f"n{item:02d}" for item in range(12)]
    pl.DataFrame({"item_id": names}).write_csv(tmp_path / "odd.csv")
    vectors = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
    pl.DataFrame({"item_id": names, "vector": vectors.tolist()}).write_parquet(tmp_path / "odd.parquet")

    def words(output: str, *more: str) -> list[str]:
        return append(road, tmp_path / "odd.csv", tmp_path / output, f"vectors={tmp_path}/odd.parquet", *more)

    found = works(*words("warned"))
    assert found["drift"]["levels"][0]["ratio"] > 1.5
    assert "the codebooks fit the new items badly" in found["warnings"][0]
    quiet = works(*words("quiet", "drift.warn_ratio=1000"))
    assert quiet["warnings"] == []
    line = fails(*words("o", "drift.max_ratio=1.5"), code=4)
    assert "the codebooks no longer fit the new items (expected at most 1.5 times" in line
    assert not (tmp_path / "o").exists()
    works(*words("few", "drift.max_ratio=1.5", "drift.min_items=13"))


def test_a_later_version_is_recommended_from_exactly(road: Path, tmp_path: Path) -> None:
    """Scores of the search are the model's own, new items are found where allowed, retired ones never."""
    works(*retire(road, tmp_path / "s3", f"ids=y,{Dataset.load(road / 'd').item_ids[5]}"))
    dataset, recommender = Dataset.load(road / "d"), road / "run" / "recommender"
    counts = count_items(dataset.train(), dataset.num_items)
    served = load_served(recommender, dataset, tmp_path / "s3")
    _, old = load_recommender(recommender, dataset)
    width = len(served.item_ids)
    generator = build_generator(served.model, dataset, served.move(counts), beam_width=width, item_ids=served.item_ids)
    histories = [["w", dataset.item_ids[1]], [dataset.item_ids[3], "z", dataset.item_ids[7]], ["x"]]
    found = generator.recommend(histories, width)
    known = {name: place for place, name in enumerate(served.item_ids)}
    for history, items, scores in zip(histories, found.item_ids, found.scores, strict=True):
        rows = torch.tensor([[known[name] for name in history]])
        with torch.no_grad():
            context = served.model.encode(rows, torch.tensor([len(history)]))
            exact = score_catalogue(served.model, served.model.trie, context)[0]
        assert sorted(items) == sorted(served.item_ids)
        np.testing.assert_allclose(scores, exact[[known[name] for name in items]], rtol=1e-5)
        assert abs(float(exact.exp().sum()) - 1) < 1e-4
    allowed = generator.recommend(histories, 3, allow=["w", "x", "y", "z"])
    for items, scores, every, all_scores in zip(
        allowed.item_ids, allowed.scores, found.item_ids, found.scores, strict=True
    ):
        assert items == [name for name in every if name in ("w", "x", "z")]
        np.testing.assert_allclose(scores, [all_scores[every.index(name)] for name in items], rtol=1e-5)
    assert allowed.num_unknown_items == 1  # y is retired
    popular = generator.recommend([[]], width).item_ids[0]
    assert set(popular[-3:]) == {"w", "x", "z"}
    assert old.memory is not None
    assert served.model.memory is not None
    rows = torch.tensor([[2, 9], [11, 4]])
    before = old.memory.last_scores(rows, torch.tensor([2, 2]))
    after = served.model.memory.last_scores(torch.from_numpy(served.places)[rows], torch.tensor([2, 2]))
    is_here = served.places >= 0
    torch.testing.assert_close(after[:, served.places[is_here]], before[:, is_here])
    assert not after[:, -3:].any()


def test_the_command_takes_any_version_and_the_trained_one_changes_nothing(road: Path, tmp_path: Path) -> None:
    words = ["recommend", f"dataset={road}/d", f"recommender={road}/run/recommender", "k=5"]
    works(*words, f"output={tmp_path}/trained.parquet")
    works(*words, f"output={tmp_path}/same.parquet", f"semantic_ids={road}/s")
    trained, same = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("trained", "same"))
    assert trained.equals(same)
    pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["w", "x", "nobody"]}).write_csv(tmp_path / "h.csv")
    words.append(f"histories={tmp_path}/h.csv")
    found = works(*words, f"output={tmp_path}/new.parquet", f"semantic_ids={road}/s2")
    assert (found["num_unknown_items"], found["num_popular"]) == (1, 1)
    assert works(*words, f"output={tmp_path}/old.parquet")["num_popular"] == 2
    gone = pl.read_parquet(tmp_path / "new.parquet")["item_id"].to_list()[0]
    works(*retire(road, tmp_path / "s3", f"ids={gone}"))
    works(*words, f"output={tmp_path}/less.parquet", f"semantic_ids={tmp_path}/s3")
    assert gone not in pl.read_parquet(tmp_path / "less.parquet")["item_id"].to_list()


def test_what_does_not_descend_is_refused(road: Path, tmp_path: Path) -> None:
    recommend = ["recommend", f"dataset={road}/d", f"recommender={road}/run/recommender", f"output={tmp_path}/r"]
    tokenize(road, road / "e", tmp_path / "other", "tokenizer.seed=1")
    line = fails(*recommend, f"semantic_ids={tmp_path}/other", code=5)
    assert "the recommender was trained on other semantic IDs" in line
    train = ["train", f"dataset={road}/d", f"semantic_ids={road}/s2", f"run={tmp_path}/run", *MODEL, *SHORT]
    line = fails(*train, code=5)
    assert "version 2 of the semantic IDs has its own items, not those of the dataset" in line
    assert "tokenizer=published" in line
    plan = works(*append(road, road / "new.csv", tmp_path / "o"), "--dry-run")
    assert plan["expected_cost"] == [f"reads {NUM_ITEMS} items"]


def write_newer(road: Path, folder: Path) -> None:
    """All events of the dataset as a table, and later ones of w and z by every third user; item 0 has gone."""
    dataset = Dataset.load(road / "d")
    events = dataset.load_interactions().join(dataset.users, on="user_index").join(dataset.items, on="item_index")
    events = events.filter(pl.col("item_index") != 0).select("user_id", "item_id", "timestamp")
    users = dataset.user_ids.gather_every(3)
    latest = int(events["timestamp"].max())  # pyright: ignore[reportArgumentType]
    parts = [
        pl.DataFrame({"user_id": users, "item_id": name}).with_columns(timestamp=pl.lit(latest + day, dtype=pl.Int64))
        for day, name in enumerate(("w", "z", "w"), start=1)
    ]
    pl.concat([events, *parts]).write_csv(folder / "events.csv")
    columns = ["item_id", "title", "brand", "description"]
    described = pl.concat([dataset.items.select(columns), new_items(road, ["w", "z"]).select(columns)])
    described.write_csv(folder / "items.csv")
    files = ["source.interactions=events.csv", "source.items=items.csv"]
    no_core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0", "text.fields=[title]"]
    works("prepare", "source=table", *files, *no_core, f"raw_dir={folder}", f"output={folder}/newer")


def test_training_goes_on_with_published_ids_on_newer_data(road: Path, tmp_path: Path) -> None:
    write_newer(road, tmp_path)
    tokenizer = ["tokenize", f"dataset={tmp_path}/newer", "tokenizer=published", *GATES]
    line = fails(*tokenizer, f"tokenizer.semantic_ids={road}/s", f"output={tmp_path}/o", code=3)
    assert "2 of 81 items of the dataset have no published semantic ID (found 'w', 'z'); add them first: genr" in line
    works(*retire(road, tmp_path / "s3", "ids=w,x"))
    shown = RUNNER.invoke(app, [*tokenizer, f"tokenizer.semantic_ids={tmp_path}/s3", f"output={tmp_path}/ids"])
    assert "1 retired items have events in the dataset and are back: 'w'" in shown.stdout
    published, second = load_published(tmp_path / "ids"), codes_of(load_published(road / "s2"))
    newer = Dataset.load(tmp_path / "newer")
    assert list(published.version.item_ids) == newer.item_ids.to_list()
    assert codes_of(published) == {name: second[name] for name in newer.item_ids}
    assert published.artifact.facts["identity"] == load_published(road / "s").artifact.facts["identity"]
    assert set(published.version.retired_ids) == {"x", "y", Dataset.load(road / "d").item_ids[0]}
    words = [f"dataset={tmp_path}/newer", f"semantic_ids={tmp_path}/ids", f"run={tmp_path}/run"]
    memory = ["model.memory.followers=20", f"initial={road}/run/recommender"]
    told = works("train", *words, *MODEL, *SHORT, *memory)["initial"]
    assert told["items"] == {"shared": 79, "new": 2, "gone": 1}
    new_items(road, ["y", "xb"]).write_csv(tmp_path / "more.csv")
    found = works(*append(tmp_path, tmp_path / "more.csv", tmp_path / "s5", table="ids"))
    assert (found["version"], found["added"], found["returned"]) == (5, 1, 1)
    fifth = codes_of(load_published(tmp_path / "s5"))
    assert fifth["y"] == second["y"]
    assert fifth["xb"] not in second.values()
    assert fifth["xb"][:3] == second["x"][:3]  # encoded from a text like those that the codebooks were fitted on
    served = load_served(tmp_path / "run" / "recommender", newer, tmp_path / "s5")
    assert served.item_ids[-2:] == ["xb", "y"]
    line = fails(
        "recommend",
        f"dataset={road}/d",
        f"recommender={road}/run/recommender",
        f"semantic_ids={tmp_path}/s5",
        f"output={tmp_path}/r",
        code=5,
    )
    assert "was made from another 'dataset'" in line


def test_dataset_and_embeddings_may_be_elsewhere_but_not_others(road: Path, tmp_path: Path) -> None:
    for name in ("d", "e"):
        shutil.copytree(road / name, tmp_path / name)
    works("embed", f"dataset={road}/d", f"output={tmp_path}/e8", "embedding=tfidf", "embedding.dimensions=8")
    tokenize(road, tmp_path / "e", tmp_path / "s")
    (tmp_path / "e").rename(tmp_path / "moved")
    assert "no such artifact" in fails(*append(tmp_path, road / "new.csv", tmp_path / "o"), code=3)
    where = [f"dataset={tmp_path}/d", f"embeddings={tmp_path}/moved"]
    works(*append(tmp_path, road / "new.csv", tmp_path / "s2", *where))
    works(*retire(tmp_path, tmp_path / "s3", "ids=w", *where))
    where[1] = f"embeddings={tmp_path}/e8"
    assert "made from another 'embeddings'" in fails(
        *append(tmp_path, road / "new.csv", tmp_path / "o", *where), code=5
    )


@pytest.mark.parametrize(("policy", "sizes"), [("reassign", "[8,8,16]"), ("reassign_or_suffix", "[8,8,8]")])
def test_other_policies_place_new_items_too(road: Path, tmp_path: Path, policy: str, sizes: str) -> None:
    tokenize(road, road / "e", tmp_path / "s", f"tokenizer.collisions={policy}", f"tokenizer.codebook_sizes={sizes}")
    found = works(*append(tmp_path, road / "new.csv", tmp_path / "s2"))
    assert found["placing"]["moved"] + found["placing"]["suffixed"] >= 4  # each is somebody's twin
    first, second = (load_published(tmp_path / name) for name in ("s", "s2"))
    assert np.array_equal(second.version.table.codes[:NUM_ITEMS], first.version.table.codes)
    assert second.artifact.facts["identity"] == first.artifact.facts["identity"]


def test_imported_tables_can_lose_items_but_not_gain_any(road: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    events = {f"u{user}": ["a", "b", "c"][:: 1 - 2 * (user % 2)] for user in range(4)}
    (raw / "inter.json").write_text(json.dumps(events))
    (raw / "codes.json").write_text(json.dumps({"a": ["<a_0>"], "b": ["<a_1>"], "c": ["<a_2>"]}))
    core = ["filter.min_user_interactions=0", "filter.min_item_interactions=0", "order.by=file"]
    files = ["source=letter", "source.interactions=inter.json", "source.codes=codes.json"]
    works("prepare", *files, *core, f"raw_dir={raw}", f"output={tmp_path}/d")
    works("tokenize", "tokenizer=imported", *GATES, f"dataset={tmp_path}/d", f"output={tmp_path}/s")
    line = fails(*append(tmp_path, road / "new.csv", tmp_path / "o"), code=3)
    assert "the semantic IDs were imported without codebooks, so new items cannot be encoded" in line
    works(*retire(tmp_path, tmp_path / "s2", "ids=b", table="s"))
    assert codes_of(load_published(tmp_path / "s2")) == {"a": [0], "c": [2]}


PARTS = [
    "embedding=combined",
    "embedding.parts.text.name=tfidf",
    "embedding.parts.text.dimensions=8",
    "embedding.parts.clicks.name=cooccurrence",
    "embedding.parts.clicks.dimensions=4",
    "embedding.parts.clicks.weight=0.5",
]


def embed_new(folder: Path, name: str, items: pl.DataFrame, vectors: Path | None = None) -> np.ndarray:
    artifact, stored = load_embeddings(folder / name)
    return embed_new_items(
        artifact,
        stored,
        Dataset.load(folder / "d"),
        items.with_columns(text=pl.col("title")),
        vectors=vectors,
        vector_ids=None,
        progress=lambda *_: None,
    )


def test_a_combination_is_made_block_by_block(road: Path, tmp_path: Path) -> None:
    works("embed", f"dataset={road}/d", f"output={road}/both", *PARTS)
    items = new_items(road, ["w", "x"])
    texts = Dataset.load(road / "d").items["text"].to_list()
    text = fit_tfidf(texts, dimensions=8).fold_in(items["title"].to_list())
    expected = combine([("text", text, 1.0), ("clicks", np.zeros((2, 4), dtype=np.float32), 0.5)])
    np.testing.assert_array_equal(embed_new(road, "both", items), expected)
    whole = np.random.default_rng(0).standard_normal((2, 12)).astype(np.float32)
    pl.DataFrame({"item_id": ["x", "w"], "vector": whole[::-1].tolist()}).write_parquet(tmp_path / "v.parquet")
    np.testing.assert_array_equal(embed_new(road, "both", items, tmp_path / "v.parquet"), whole)


def test_a_precomputed_part_is_weighted_as_it_was(road: Path, tmp_path: Path) -> None:
    """Alone in its combination too, where its file is as wide as the whole row."""
    items = new_items(road, ["w", "x"])
    vectors = np.random.default_rng(2).standard_normal((NUM_ITEMS, 5)).astype(np.float32)
    np.save(tmp_path / "old.npy", vectors)
    new = vectors[[ord("w") - ord("a"), ord("x") - ord("a")]]
    pl.DataFrame({"item_id": ["w", "x"], "vector": new.tolist()}).write_parquet(tmp_path / "v.parquet")
    part = ["embedding.parts.own.name=precomputed", f"embedding.parts.own.path={tmp_path}/old.npy"]
    for name, more in (("alone", []), ("beside", PARTS[3:])):
        works("embed", f"dataset={road}/d", f"output={road}/{name}", "embedding=combined", *part, *more)
        stored = load_embeddings(road / name)[1]
        found = embed_new(road, name, items, tmp_path / "v.parquet")
        expected = combine([("own", new, 1.0)])
        np.testing.assert_array_equal(found[:, :5], expected)
        np.testing.assert_array_equal(found[:, :5], stored[[ord("w") - ord("a"), ord("x") - ord("a")], :5])
        assert found.shape[1] == stored.shape[1]
        assert not found[:, 5:].any()


@pytest.mark.slow
def test_signals_alone_say_nothing_of_a_new_item(road: Path, tmp_path: Path) -> None:
    words = ["embedding=cooccurrence", "embedding.dimensions=6"]
    works("embed", f"dataset={road}/d", f"output={tmp_path}/e", *words)
    tokenize(road, tmp_path / "e", tmp_path / "s")
    line = fails(*append(tmp_path, road / "new.csv", tmp_path / "o"), code=3)
    assert "4 of 4 new items have a vector of zeros" in line


@pytest.mark.slow
def test_precomputed_vectors_have_to_be_given_and_to_fit(road: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((NUM_ITEMS, 5)).astype(np.float32)
    np.save(tmp_path / "old.npy", vectors)
    where = ["embedding=precomputed", f"embedding.path={tmp_path}/old.npy"]
    works("embed", f"dataset={road}/d", f"output={tmp_path}/e", *where)
    tokenize(road, tmp_path / "e", tmp_path / "s")
    line = fails(*append(tmp_path, road / "new.csv", tmp_path / "o"), code=3)
    assert "the embeddings were precomputed, so the new items' vectors have to be given; set vectors=..." in line
    new = pl.DataFrame({"item_id": list("wxyz"), "vector": vectors[:4].tolist()})
    new.write_parquet(tmp_path / "new.parquet")
    works(*append(tmp_path, road / "new.csv", tmp_path / "s2", f"vectors={tmp_path}/new.parquet"))
    first, second = (load_published(tmp_path / name).version.table.codes for name in ("s", "s2"))
    assert np.array_equal(second[NUM_ITEMS:, :3], first[:4, :3])
    new.with_columns(pl.col("vector").list.head(4)).write_parquet(tmp_path / "narrow.parquet")
    line = fails(*append(tmp_path, road / "new.csv", tmp_path / "o", f"vectors={tmp_path}/narrow.parquet"), code=3)
    assert "another width (expected 5, found 4)" in line


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs the extra `sentence`")
def test_a_sentence_model_embeds_new_items_too_and_another_is_noticed(road: Path, tmp_path: Path) -> None:
    """The model counts words; it is saved to a folder, so that nothing is downloaded."""
    from sentence_transformers import SentenceTransformer, models  # pyright: ignore[reportMissingImports]

    dataset = Dataset.load(road / "d")
    words = sorted({word.lower() for text in dataset.items["text"] for word in text.split()})
    SentenceTransformer(modules=[models.BoW(vocab=words)], device="cpu").save(str(tmp_path / "model"))
    works("embed", f"dataset={road}/d", f"output={tmp_path}/e", *sentence(tmp_path / "model"))
    tokenize(road, tmp_path / "e", tmp_path / "s")
    works(*append(tmp_path, road / "new.csv", tmp_path / "s2"))
    codes = load_published(tmp_path / "s2").version.table.codes[:, :3]
    twins = [ord(letter) - ord("a") for letter in "wxyz"]
    assert np.array_equal(codes[NUM_ITEMS:], codes[twins])
    SentenceTransformer(modules=[models.BoW(vocab=words[::-1])], device="cpu").save(str(tmp_path / "model"))
    line = fails(*append(tmp_path, road / "new.csv", tmp_path / "o"), code=5)
    assert f"the model {tmp_path}/model does not give the vectors that the embeddings hold" in line


def sentence(model: Path) -> list[str]:
    return ["embedding=sentence", f"embedding.model={model}", "embedding.device=cpu"]


@pytest.mark.slow
def test_embeddings_that_cannot_be_made_again_are_refused(road: Path, tmp_path: Path) -> None:
    """As if another version of a package had given other vectors."""
    artifact, stored = load_embeddings(road / "e")
    turned = np.array(stored)
    turned[:, 0] *= -1
    blocks = {"tfidf": artifact.facts["blocks"][0]}
    dataset = Dataset.load(road / "d").artifact
    save_embeddings(tmp_path / "e", turned, dataset=dataset, num_items=NUM_ITEMS, blocks=blocks)
    tokenize(road, tmp_path / "e", tmp_path / "s")
    line = fails(*append(tmp_path, road / "new.csv", tmp_path / "o"), code=5)
    assert "the TF-IDF of the texts does not give the vectors that the embeddings hold" in line
    assert "set vectors=..." in line
