"""A real server in its own process: what it needs, how it ends, and what faults do to it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from command_line import fails
from served import Served

from genrec.serving.open_bundle import open_bundle
from genrec.serving.server import main
from genrec.serving.swap import publish, rollback
from oracles.table_bundle import expected, write

HEAVY = "torch lightning polars omegaconf scipy sklearn faiss typer rich yaml filelock matplotlib"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bundles") / "b", model="m1", catalogue="c1")


def test_a_server_answers_and_ends_in_order(bundle: Path, tmp_path: Path) -> None:
    with Served(bundle, "--max-wait-ms", "300", log=tmp_path / "log") as server:
        body = {"history": ["i3"], "k": 3, "exclude": ["i5"]}
        answer = server.client.post("/recommend", json=body).json()
        assert [(item["item_id"], item["score"]) for item in answer["items"]] == expected(["i3"], 3, exclude=["i5"])
        last: list[Any] = []
        asking = threading.Thread(target=lambda: last.append(httpx.post(f"{server.url}/recommend", json=body)))
        asking.start()
        while asking.is_alive() and "genrec_waiting_rows 1.0" not in server.client.get("/metrics").text:
            time.sleep(0.01)
        assert server.end() == 0  # the request waited for company, and is answered although the server ends
        asking.join()
        assert last[0].status_code == 200
        assert last[0].json() == answer


HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_who_sends_too_slowly_is_told_and_let_go(bundle: Path, tmp_path: Path) -> None:
    with Served(bundle, "--timeout-s", "0.2", log=tmp_path / "log") as server:
        url = httpx.URL(server.url)
        answer = send_slowly(url, HEAD + b"Content-Length: 500\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'{"error": "the body was not there within 0.2 s"}' in answer
        assert send_slowly(url, HEAD) == send_slowly(url, b"") == b""
        whole = HEAD + b'Content-Length: 15\r\n\r\n{"history": []}'
        answer = send_slowly(url, whole + b"G")  # a second request that never gets further
        assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 ") == 1
        assert server.client.post("/recommend", json={"history": ["i3"]}).status_code == 200
        assert 'genrec_errors_total{status="408"} 1.0' in server.client.get("/metrics").text
        assert server.end() == 0


def send_slowly(url: httpx.URL, start: bytes) -> bytes:
    """All that comes back after `start` and, as long as the server listens, a byte now and then."""
    with socket.create_connection((url.host, url.port or 0), timeout=20) as slow:
        slow.sendall(start)
        answer, ended = b"", threading.Event()
        drip = threading.Thread(target=lambda: drip_until(ended, slow))
        drip.start()
        while part := receive(slow):
            answer += part
        ended.set()
        drip.join()
    return answer


def drip_until(ended: threading.Event, slow: socket.socket) -> None:
    while not ended.wait(0.05):
        try:
            slow.sendall(b"x")
        except OSError:
            return


def receive(slow: socket.socket) -> bytes:
    """What comes next; nothing when the other side has ended, in order or because we went on sending."""
    try:
        return slow.recv(4096)
    except ConnectionError:
        return b""


def test_the_server_imports_none_of_the_heavy_packages() -> None:
    code = (
        f"import sys, genrec.serving.server\nfound = set('{HEAVY}'.split()) & set(sys.modules)\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_served_is_one_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, code, line in (
            ([str(tmp_path)], 3, "no bundle here"),
            ([str(bundle), "--port", port], 2, f"127.0.0.1:{port}: cannot listen"),
            ([str(bundle), "--max-batch", "0"], 2, "key 'max_batch': too small"),
            ([str(bundle), "--api-key-file", str(tmp_path / "none")], 2, "cannot read the key"),
        ):
            assert main(words) == code
            said = capsys.readouterr().err
            assert line in said
            assert said.count("\n") == 1
        assert "cannot listen" in fails("serve", f"bundle={bundle}", f"port={port}", code=2)
    assert "no bundle here" in fails("serve", f"bundle={tmp_path}", "--dry-run", code=3)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_triton_s_own_client_is_answered(bundle: Path, tmp_path: Path, binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http], which no extra brings")
    with Served(bundle, log=tmp_path / "log") as server:
        client = http.InferenceServerClient(server.url.removeprefix("http://"))
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("genrec")
        assert not client.is_model_ready("other")
        inputs = []
        for described in client.get_model_metadata("genrec")["inputs"]:
            name, datatype = described["name"], described["datatype"]
            value = {"history": [["i3", "i7"], ["", "i1"]], "deny_tags": [["digit=9"], [""]], "k": [3, 2]}.get(name)
            if value is not None:
                array = np.array(value, dtype=np.int64 if datatype == "INT64" else object)
                inputs.append(http.InferInput(name, array.shape, datatype))
                inputs[-1].set_data_from_numpy(array, binary_data=binary)
        names = ("item_id", "score", "num_items")
        outputs = None if binary else [http.InferRequestedOutput(name, binary_data=False) for name in names]
        found = client.infer("genrec", inputs, outputs=outputs)
        items, scores, sizes = (found.as_numpy(name).tolist() for name in names)
        assert [[item.decode() if binary else item for item in row] for row in items] == [
            ["i8", "i10", "i11"],
            ["i2", "i3", ""],
        ]
        assert (scores, sizes) == ([[0.5, -1.5, -2.5], [0.0, -1.0, 0.0]], [3, 2])
        wrong = http.InferInput("k", [1], "BYTES")
        wrong.set_data_from_numpy(np.array(["3"], dtype=object), binary_data=binary)
        with pytest.raises(Exception, match="expected the datatype INT64"):
            client.infer("genrec", [inputs[0], wrong])
        client.close()
        assert server.end() == 0


@pytest.mark.slow
def test_a_browser_shows_recommendations_and_why(bundle: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    look = ["--virtual-time-budget=20000", "--dump-dom"]
    with Served(bundle, log=tmp_path / "log") as server:
        done, tagged = (
            subprocess.run(
                [browser, "--headless", *quiet, *look, f"--user-data-dir={tmp_path}/profile", f"{server.url}/{page}"],
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            for page in ("#i3,i7", "?tag=digit%3D1&tag=parity%3Dodd&tag=digit%3Dx#i3,i7")
        )
    assert '<button type="button" title="take out">i3</button>' in done.stdout, done.stderr[-2000:]
    shown = re.findall(r"<li>(Title of [^<]*)<small>score", done.stdout)
    assert shown == [f"Title of &lt;b&gt;{number}&lt;/b&gt;" for number in range(8, 18)]
    assert "because of Title of &lt;b&gt;3&lt;/b&gt; (+0.50)" in done.stdout
    assert '<option value="parity=even">25 items</option>' in done.stdout
    assert '<button type="button" title="take out">parity=odd</button>' in tagged.stdout, tagged.stderr[-2000:]
    shown = re.findall(r"<li>Title of &lt;b&gt;(\d+)&lt;/b&gt;<small>score", tagged.stdout)
    assert shown == ["11", "13", "15", "17", "19", "21", "31", "41", "1"]
    assert "no item has 1 of the tags" in tagged.stdout
    assert "model m1, catalogue c1" in done.stdout


# --- under load ------------------------------------------------------------------------------------------------------


class Load:
    """Clients that ask without a pause until told to stop; every answer is checked.

    Attributes:
        answers: checked answers by (model, catalogue).
        problems: what was wrong with the others.
        broken: requests that found no server or lost it.
    """

    def __init__(self, url: str, shifts: dict[str, int], *, clients: int = 8) -> None:
        self.url, self.shifts = url, shifts
        self.answers: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self.broken = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, number: int, *, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while self.answers.total() < number and not self.problems:
            assert time.monotonic() < end, f"{self.answers.total()} of {number} answers"
            time.sleep(0.01)

    def _ask(self, number: int) -> None:
        step = 0
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                step += 1
                history, denied, k = [f"i{number}", f"i{step % 50}"], [f"i{(step + 2) % 50}"], 1 + step % 9
                try:
                    answer = client.post("/recommend", json={"history": history, "exclude": denied, "k": k})
                except httpx.TransportError:
                    self.broken += 1
                    time.sleep(0.01)
                    continue
                self._check(answer, history, denied, k)

    def _check(self, answer: httpx.Response, history: list[str], denied: list[str], k: int) -> None:
        if answer.status_code != 200:
            self.problems.append(f"{answer.status_code} {answer.text}")
            return
        body = answer.json()
        model, catalogue = body["model_version"], body["catalogue_version"]
        pairs = [(item["item_id"], item["score"]) for item in body["items"]]
        if model[1:] != catalogue[1:] or pairs != expected(history, k, exclude=denied, shift=self.shifts[model]):
            self.problems.append(f"{history} {k}: {body}")
        self.answers[model, catalogue] += 1


@pytest.mark.slow
def test_ten_thousand_answers_while_bundles_are_swapped(tmp_path: Path) -> None:
    """Not one fails, and each is what the one version that it names would say."""
    root, shifts = tmp_path / "root", {f"m{number}": number for number in range(1, 8)}
    new = [write(tmp_path / f"new{n}", model=f"m{n}", catalogue=f"c{n}", shift=n) for n in range(1, 8)]
    spoilt = write(tmp_path / "spoilt", model="m0", catalogue="c0", spoil=True)
    publish(root, new[0], open_bundle)
    with Served(root, "--check-s", "0.05", log=tmp_path / "log") as server:
        with Load(server.url, shifts) as load:
            for number, bundle in enumerate(new[1:], start=1):
                load.wait_for(1500 * number)
                publish(root, bundle, open_bundle)
                if number == 3:  # something that cannot be used comes in between
                    lead_to(root, spoilt)
                    wait_until_refused(server)
                    lead_to(root, root / "versions" / "4")
            load.wait_for(10_000)
            assert rollback(root, open_bundle).name == "6"
            load.wait_for(load.answers.total() + 1500)
        metrics = server.client.get("/metrics").text
        assert server.end() == 0
    assert load.problems == []
    assert load.broken == 0
    assert set(load.answers) == {(f"m{number}", f"c{number}") for number in range(1, 8)}
    assert 'genrec_swaps_total{outcome="refused"} 1.0' in metrics
    assert "genrec_errors_total" not in [line.split("{")[0] for line in metrics.splitlines() if "status" in line]


def wait_until_refused(server: Served, *, seconds: float = 60) -> None:
    """The server has looked at the bundle that `current` leads to, and does not take it."""
    end = time.monotonic() + seconds
    while 'genrec_swaps_total{outcome="refused"} 1.0' not in server.client.get("/metrics").text:
        assert time.monotonic() < end, "no bundle was refused"
        time.sleep(0.05)


def lead_to(root: Path, bundle: Path) -> None:
    """What a deployment without `publish` would do."""
    (root / "link").symlink_to(bundle)
    (root / "link").replace(root / "current")


@pytest.mark.slow
def test_a_killed_server_comes_back_as_it_was(bundle: Path, tmp_path: Path) -> None:
    """What was answered was right, what was lost is noticed by the client, and the next start is as ever."""
    port = str(free_port())
    words = ("--port", port)
    first = Served(bundle, *words, log=tmp_path / "log")
    with first, Load(first.url, {"m1": 1}) as load:
        for _ in range(3):
            load.wait_for(load.answers.total() + 300)
            first.process.kill()
            first.process.wait()
            first = Served(bundle, *words, log=tmp_path / "log")
        load.wait_for(load.answers.total() + 300)
        assert load.problems == []
        assert load.broken > 0
    assert first.end() == 0


@pytest.mark.slow
def test_a_stopped_server_answers_all_it_began(bundle: Path, tmp_path: Path) -> None:
    with Served(bundle, log=tmp_path / "log") as server, Load(server.url, {"m1": 1}) as load:
        load.wait_for(300)
        assert server.end() == 0
    refused = [problem for problem in load.problems if "503" not in problem]
    assert refused == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
