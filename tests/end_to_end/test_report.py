"""Reports through the command line: numbers are those of files, titles cannot break the page, a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import fails, works

from genrec.files import read_json, sha256_file

QUICK, CUTOFFS = ["num_resamples=100", "num_permutations=100"], "cutoffs=[1,5,10]"
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset d with hostile ids and titles, an evaluation of baselines e, a comparison c."""
    folder = tmp_path_factory.mktemp("report")
    events = [
        f"<b>u{user},i{(3 * user + 2 * step) % 24},{1600000000 + 100 * user + step}"
        for user in range(60)
        for step in range(6)
    ]
    (folder / "events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(events) + "\n")
    titles = [f'i{item},"</script> ""pen"" & paper {item}"' for item in range(24)]
    (folder / "items.csv").write_text("item_id,title\n" + "\n".join(titles) + "\n")
    source = ["source=table", f"raw_dir={folder}", "source.interactions=events.csv", "source.items=items.csv"]
    works("prepare", *source, f"output={folder}/d")
    works("evaluate", f"dataset={folder}/d", f"output={folder}/e", "models=[popularity,item_knn]", CUTOFFS, *QUICK)
    systems = [f"systems.{name}={folder}/e:{name}" for name in ("item_knn", "popularity")]
    works("compare", *systems, f"output={folder}/c", *QUICK)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    words = [f"evaluation={folder}/e", f"comparison={folder}/c", f"output={folder}/report.html", "title=A & B"]
    found = works("report", *words)
    assert found["sections"] == ["comparison", "results", "slices", "users", "data", "lineage"]
    return folder / "report.html"


@pytest.fixture(scope="module")
def run_page(folder: Path) -> Path:
    """The page of a run r, with its evaluation in r/evaluation."""
    works("embed", f"dataset={folder}/d", f"output={folder}/v", "embedding=cooccurrence", "embedding.dimensions=4")
    words = ["tokenizer=residual_kmeans", f"tokenizer.embeddings={folder}/v", "tokenizer.codebook_sizes=[4,4]"]
    works("tokenize", f"dataset={folder}/d", f"output={folder}/ids", *words, "gates.max_collision_rate=1")
    model = ["model.width=16", "model.hidden=32", "model.num_heads=2", "model.depth_hidden=16"]
    short = ["stopping.max_epochs=2", "stopping.prefix_negatives=0", "optimizer.batch_size=32", "accelerator=cpu"]
    works("train", f"dataset={folder}/d", f"semantic_ids={folder}/ids", f"run={folder}/r", *model, *short)
    rows = ["models=[popularity,item_knn]", f"recommenders.ours={folder}/r/recommender", "search.beam_width=20"]
    works("evaluate", f"dataset={folder}/d", f"output={folder}/r/evaluation", *rows, CUTOFFS, *QUICK)
    found = works("report", f"run={folder}/r", f"comparison={folder}/c", f"output={folder}/run.html")
    wanted = {"comparison", "results", "slices", "users", "training", "semantic-ids", "data", "lineage", "cost"}
    assert set(found["sections"]) == wanted
    return folder / "run.html"


class Tables(HTMLParser):
    """Rows of cells of each table, by its caption."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.caption, self.place, self.ids, self.headings = "", "", [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.place = tag if tag in ("caption", "th", "td", "tr", "h1", "title") else self.place
        if (own := dict(attrs).get("id")) is not None:
            self.ids.append(own)
        if tag == "caption":
            self.caption = ""
        if tag == "tr":
            self.tables.setdefault(self.caption, []).append([])
        if tag in ("th", "td"):
            self.tables[self.caption][-1].append("")
        if tag == "h1":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        self.place = "" if tag in ("caption", "th", "td", "h1", "title") else self.place

    def handle_data(self, data: str) -> None:
        if self.place == "caption":
            self.caption += data
        if self.place in ("th", "td"):
            self.tables[self.caption][-1][-1] += data
        if self.place == "h1":
            self.headings[-1] += data


def test_every_number_of_the_table_is_that_of_the_evaluation(folder: Path, made: Path) -> None:
    parser = Tables()
    parser.feed(made.read_text())
    assert parser.headings == ["A & B"]
    assert len(parser.ids) == len(set(parser.ids))
    report = read_json(folder / "e" / "report.json")
    for mask, word in (("none", "no mask"), ("seen", "seen items masked")):
        header, *rows = parser.tables[f"Models, {word}"]
        assert header[:3] == ["model", "recall@10", "95% interval"]
        expected = [row for row in report["rows"] if row["mask"] == mask]
        assert [row[0] for row in rows] == [row["model"] for row in expected]
        for row, own in zip(rows, expected, strict=True):
            recall, ndcg = (own["metrics"][name] for name in ("recall@10", "ndcg@10"))
            assert row[1:3] == [f"{recall['mean']:.4f}", f"{recall['low']:.4f} to {recall['high']:.4f}"]
            assert row[5] == f"{ndcg['mean']:.4f}"
    compared = read_json(folder / "c" / "report.json")["comparisons"]
    found = {row[2] for row in parser.tables["Differences"]} - {"minus item_knn"}
    assert found == {f"{row['difference']:+.4f}" for row in compared}
    files = dict(parser.tables["sha256"][1:])
    assert files["evaluation/report.json"] == sha256_file(folder / "e" / "report.json")
    assert files["dataset/audit.json"] == sha256_file(folder / "d" / "audit.json")
    size = dict(parser.tables["Size"][1:])
    assert size["users"] == f"{read_json(folder / 'd' / 'audit.json')['counts']['users']:,}"


def test_a_second_page_has_the_same_bytes(folder: Path, made: Path, tmp_path: Path) -> None:
    words = [f"evaluation={folder}/e", f"comparison={folder}/c", "title=A & B"]
    works("report", *words, f"output={tmp_path}/again.html")
    assert (tmp_path / "again.html").read_bytes() == made.read_bytes()
    assert "is no recommender whose lists could be made again" in made.read_text()


def test_what_cannot_be_reported(folder: Path, tmp_path: Path) -> None:
    output, words = f"output={tmp_path}/n.html", ["report", f"evaluation={folder}/e"]
    assert "nothing to report" in fails("report", output, code=2)
    assert "the file is there already" in fails(*words, f"output={folder}/events.csv", code=2)
    assert "no such row" in fails(*words, "row=knn", output, code=2)
    assert "wrong kind of artifact" in fails("report", f"comparison={folder}/d", output, code=3)
    assert "this is inside of an artifact" in fails(*words, f"output={folder}/d/n.html", code=2)
    assert not (tmp_path / "n.html").exists()


@pytest.mark.slow
def test_the_page_of_a_run(folder: Path, run_page: Path, tmp_path: Path) -> None:
    text = run_page.read_text()
    assert "&lt;b&gt;u" in text
    assert "&quot;pen&quot; &amp; paper" in text
    assert text.count("</script>") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    words = [f"run={folder}/r", f"evaluation={folder}/e", f"output={tmp_path}/n.html"]
    assert "other recommenders than that of the run" in fails("report", *words, code=5)


def pixels(path: Path) -> bytes:
    """The decompressed lines of a PNG file."""
    data, place, parts = path.read_bytes(), 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            parts.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    return zlib.decompress(b"".join(parts))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [500, 1280])  # headless windows are at least 500 wide; a frame makes a phone of 390
def test_a_browser_shows_it_without_overflow(run_page: Path, tmp_path: Path, theme: str, width: int) -> None:
    text = run_page.read_text().replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">')
    probe = "<script>document.body.dataset.seen = JSON.stringify([innerWidth, document.documentElement.scrollWidth, "
    probe += "document.querySelectorAll('.choices').length, document.title, "
    probe += "getComputedStyle(document.body).backgroundColor])"
    assert '"default-src &#x27;none&#x27;; ' in text
    unlocked = text.replace("http-equiv=", "data-http-equiv=")  # for the probe, which is not the page's own script
    (tmp_path / "page.html").write_text(unlocked.replace("</body>", f"{probe}</script></body>"))
    (tmp_path / "locked.html").write_text(text.replace("</body>", "<script>document.title = 1</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile"]
    size, page = f"--window-size={width},2000", f"file://{tmp_path}/page.html"
    assert BROWSER is not None
    dump = subprocess.run([BROWSER, *flags, size, "--dump-dom", page], capture_output=True, text=True, check=True)
    (seen,) = re.findall(r'data-seen="([^"]*)"', dump.stdout)
    inner, scrolled, choices, title, ground = json.loads(seen.replace("&quot;", '"'))
    assert scrolled <= inner
    assert choices >= 3, "the script has run"
    assert title == "r: report", "titles of items are no scripts"
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[theme]
    locked = [BROWSER, *flags, size, "--dump-dom", f"file://{tmp_path}/locked.html"]
    dump = subprocess.run(locked, capture_output=True, text=True, check=True)
    assert "<title>r: report</title>" in dump.stdout, "a script of somebody else has run"
    assert 'class="legend choices"' in dump.stdout, "ours has not"
    shot = [BROWSER, *flags, size, f"--screenshot={tmp_path}/page.png", page]
    subprocess.run(shot, capture_output=True, check=True)
    assert len(set(pixels(tmp_path / "page.png"))) > 50, "not a blank page"
