"""Dataset cards: the shipped ones are right, and a wrong one says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from genrec.data.cards import Counts, card_folders, find_card, list_cards, load_card
from genrec.data.download import RemoteFile
from genrec.errors import ConfigError, StorageError

PROJECT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((PROJECT / "data" / "cards").glob("*.yaml"))
COUNTS = {  # users, items, interactions of the raw files and of the prepared data
    "amazon2014_beauty": ((22363, 12101, 198502), (22363, 12101, 198502)),
    "amazon2018_allbeauty": ((991, 85, 5269), (137, 24, 686)),
    "amazon2018_giftcards": ((458, 148, 2972), (453, 147, 2941)),
    "amazon2023_allbeauty": ((253, 356, 2535), (253, 356, 2535)),
    "apao_office": ((4905, 2420, 53258), (4905, 2420, 53258)),
    "ml-100k": ((943, 1682, 100000), (943, 1682, 100000)),
    "ml-1m": ((6040, 3706, 1000209), (6040, 3416, 999611)),
    "s3rec_beauty": ((22363, 12101, 198502), (22363, 12101, 198502)),
}
GOOD = {
    "name": "x",
    "title": "X",
    "licence": "none",
    "homepage": "https://example.org",
    "citation": "Nobody.",
    "files": [{"name": "a", "url": None}],
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_cards(path: Path) -> None:
    card = load_card(path)
    assert (card.raw, card.prepared) == tuple(Counts(*counts) for counts in COUNTS[card.name])
    assert card.files
    assert all(len(text) > 5 for text in (card.title, card.licence, card.citation, card.notes))
    for address in [card.homepage, *(file.url for file in card.files if file.url is not None)]:
        assert re.fullmatch(r"https://[\w.-]+/[\w./~-]*", address)


def test_the_cards_are_all_there() -> None:
    assert [path.stem for path in SHIPPED] == sorted(COUNTS)
    assert set(COUNTS) <= set(list_cards())
    assert find_card("ml-1m").files[0].unpack
    for name in ("ml-1m", "ml-100k"):
        assert "no redistribution" in find_card(name).licence


def write(folder: Path, content: object, name: str = "x") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_small_card(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, GOOD))
    assert (card.raw, card.prepared, card.notes) == (Counts(), Counts(), "")
    assert card.files == (
        RemoteFile("a", url=None, sha256=None, size=None, unpack=False, homepage="https://example.org"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", r"x\.yaml:\d: not valid YAML"),
        ("[1]", "the card is no section of keys"),
        (GOOD | {"licens": "a"}, r"unknown key 'licens'; did you mean 'licence'\? \(accepted: name"),
        ({k: v for k, v in GOOD.items() if k not in ("title", "files")}, "the card lacks 'title', 'files'"),
        (GOOD | {"title": 5}, r"key 'title' has the wrong type \(expected text, found 5\)"),
        (GOOD | {"name": "y"}, "key 'name' is not the file's name"),
        (GOOD | {"files": "a"}, r"key 'files' has the wrong type \(expected a list"),
        (GOOD | {"files": ["a"]}, r"key 'files\.0' is no section"),
        (GOOD | {"files": [{"url": "u"}]}, r"key 'files\.0' lacks 'name'"),
        (GOOD | {"files": [{"name": "a", "md5": "x"}]}, r"unknown key 'files\.0\.md5'"),
        (GOOD | {"files": [{"name": "a", "sha256": "abc"}]}, r"key 'files\.0\.sha256' is no checksum"),
        (GOOD | {"files": [{"name": "a", "size": True}]}, r"key 'files\.0\.size' has the wrong type"),
        (GOOD | {"files": [{"name": "a", "unpack": 1}]}, r"key 'files\.0\.unpack' has the wrong type"),
        (GOOD | {"expected": {"raw": {"users": "many"}}}, r"key 'expected\.raw\.users' has the wrong type"),
        (GOOD | {"expected": {"raw": {"user": 1}}}, r"unknown key 'expected\.raw\.user'; did you mean 'users'"),
    ],
)
def test_malformed_cards(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_card(write(tmp_path, content))


def test_an_unknown_card_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no dataset card 'ml1m'; did you mean 'ml-1m'\? \(known: amazon2014_beauty"):
        find_card("ml1m")
    with pytest.raises(ConfigError, match="no dataset card"):
        find_card("../cards/ml-1m")
    with pytest.raises(StorageError, match="cannot read"):
        find_card("a" * 300)


def test_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "cards").mkdir(parents=True)
    write(tmp_path / "data" / "cards", GOOD | {"name": "ml-1m", "title": "mine"}, "ml-1m")
    monkeypatch.chdir(tmp_path)
    assert find_card("ml-1m").title == "mine"
    assert find_card("ml-100k").title == "MovieLens 100K"
    assert card_folders()[0] == Path("data") / "cards"


def test_an_unreadable_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the dataset card"):
        load_card(tmp_path / "x.yaml")
