"""Downloads against a local server that drops, refuses, lies and forgets."""

from __future__ import annotations

import hashlib
import io
import os
import random
import socket
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from genrec.data.download import Patience, RemoteFile, download, unpack
from genrec.errors import DataError, StorageError

CONTENT = random.Random(0).randbytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, backoff_seconds=0.001, timeout_seconds=5)


class Server:
    """One file behind HTTP, and how the server is to misbehave."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.has_ranges = True
        self.sends_length = True
        self.drop_after: list[int] = []  # one entry an answer: bytes of the body before the connection breaks
        self.statuses: list[int] = []  # one entry an answer: this status instead of the file
        self.requests: list[dict[str, str | None]] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/a.bin"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                server.answer(self)

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
        self.requests.append({"range": asked, "if-range": condition})
        request.close_connection = True
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start, total = 0, len(self.content)
        if asked and self.has_ranges and (condition is None or condition == self.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{total}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            request.send_response(200)
        body = self.content[start:]
        if self.sends_length:
            request.send_header("Content-Length", str(len(body)))
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        body = body[: self.drop_after.pop(0)] if self.drop_after else body
        request.wfile.write(body)

    def ranges(self) -> list[str | None]:
        return [request["range"] for request in self.requests]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def remote(server: Server, **changed: Any) -> RemoteFile:
    return RemoteFile(**{"name": "a.bin", "url": server.url, "sha256": SHA256, "size": len(CONTENT), **changed})


def test_a_file_arrives_whole_and_progress_is_told(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    paths = download([remote(server)], tmp_path / "new", progress=lambda *word: told.append(word), patience=QUICK)
    assert paths == (tmp_path / "new" / "a.bin",)
    assert paths[0].read_bytes() == CONTENT
    assert [path.name for path in paths[0].parent.iterdir()] == ["a.bin"]
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("a.bin", len(CONTENT), len(CONTENT))
    assert len(told) > 1


def test_a_complete_file_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    download([remote(server)], tmp_path, patience=QUICK)
    assert server.requests == []


@pytest.mark.parametrize("content", [CONTENT[:-1], bytes(len(CONTENT))])
def test_another_file_in_the_way_is_not_overwritten(server: Server, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.bin: wrong (size|checksum) .*delete it to get it again"):
        download([remote(server)], tmp_path, patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == content
    assert server.requests == []


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_dropped_connections_are_resumed(server: Server, tmp_path: Path, sha256: str | None) -> None:
    server.drop_after = [300_000, 200_000]
    download([remote(server, sha256=sha256, size=None)], tmp_path, patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=300000-", "bytes=500000-"]
    assert server.requests[1]["if-range"] == '"v1"'


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    server.drop_after = [400_000]
    with pytest.raises(StorageError, match=r"failed 1 times.*the connection ended after 400000 of 700000 bytes"):
        download([remote(server)], tmp_path, patience=Patience(attempts=1))
    assert (tmp_path / "a.bin.partial").stat().st_size == 400_000
    assert not (tmp_path / "a.bin").exists()
    download([remote(server)], tmp_path, patience=QUICK)
    assert server.ranges() == [None, "bytes=400000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_that_changed_meanwhile_starts_anew(server: Server, tmp_path: Path) -> None:
    server.drop_after = [400_000]
    with pytest.raises(StorageError):
        download([remote(server)], tmp_path, patience=Patience(attempts=1))
    server.content, server.etag = CONTENT[::-1], '"v2"'
    download([RemoteFile("a.bin", server.url)], tmp_path, patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]
    assert server.requests[-1] == {"range": "bytes=400000-", "if-range": '"v1"'}


@pytest.mark.parametrize(
    ("etag", "sha256", "resumes"), [(None, SHA256, True), (None, None, False), ('W/"v"', None, False)]
)
def test_without_anything_to_tell_versions_apart_it_starts_anew(
    server: Server, tmp_path: Path, etag: str | None, sha256: str | None, resumes: bool
) -> None:
    server.etag, server.drop_after = etag, [400_000]
    download([remote(server, sha256=sha256)], tmp_path, patience=QUICK)
    assert server.ranges() == [None, "bytes=400000-" if resumes else None]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.has_ranges, server.drop_after = False, [300_000]
    download([remote(server)], tmp_path, patience=QUICK)
    assert server.ranges() == [None, "bytes=300000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_partial_file_that_is_complete_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.partial").write_bytes(CONTENT)
    download([remote(server)], tmp_path, patience=QUICK)
    assert server.ranges() == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_partial_file_that_is_too_long_starts_anew(server: Server, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "a.bin.partial").write_bytes(CONTENT + b"x")
    download([remote(server, size=size)], tmp_path, patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_always_drops_is_given_up(server: Server, tmp_path: Path) -> None:
    server.drop_after = [100_000, 0, 0, 0, 0]
    with pytest.raises(StorageError, match=r"failed 3 times.*try again later, or get it by hand from http://127"):
        download([remote(server)], tmp_path, patience=QUICK)
    assert len(server.requests) == 3  # the first brought bytes and counts as one, the next two bring none


def test_passing_errors_are_tried_again_and_others_are_not(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download([remote(server)], tmp_path / "a", patience=QUICK)
    assert len(server.requests) == 3
    server.statuses = [404]
    with pytest.raises(StorageError, match=r"http://.*a\.bin answers 404 Not Found; get it by hand from .* into .*b"):
        download([remote(server)], tmp_path / "b", patience=QUICK)
    assert len(server.requests) == 4
    assert not (tmp_path / "b").exists()
    server.statuses = [503] * 9
    with pytest.raises(StorageError, match="failed 3 times: 503"):
        download([remote(server)], tmp_path / "c", patience=QUICK)


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"wrong checksum \(expected sha256 {'0' * 64}, found {SHA256}\); try again"):
        download([remote(server, sha256="0" * 64)], tmp_path, patience=QUICK)
    with pytest.raises(DataError, match="wrong size"):
        download([remote(server, size=5)], tmp_path, patience=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_without_length_the_checksum_finds_a_cut_file(server: Server, tmp_path: Path) -> None:
    server.sends_length, server.drop_after = False, [100_000]
    with pytest.raises(DataError, match="wrong size"):
        download([remote(server)], tmp_path, patience=QUICK)
    download([remote(server)], tmp_path, patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"  # bound, but nobody listens
        with pytest.raises(
            StorageError, match=rf"cannot reach {url}: .*check the network, or get it by hand from {url}"
        ):
            download([RemoteFile("a.bin", url)], tmp_path / "raw" / "card", patience=Patience())
    assert list(tmp_path.iterdir()) == []


def test_addresses_and_names_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has no address to download from; get it by hand from its authors into"):
        download([RemoteFile("a.bin")], tmp_path)
    by_hand = r"get it by hand from its authors \(see https://example\.org\) into"
    with pytest.raises(StorageError, match=by_hand):
        download([RemoteFile("a.bin", homepage="https://example.org")], tmp_path)
    with pytest.raises(StorageError, match="only http and https"):
        download([RemoteFile("a.bin", "file:///etc/hostname")], tmp_path)
    for name in ("", "..", "a/b", "/etc/x"):
        with pytest.raises(DataError, match="needs a plain name"):
            download([RemoteFile(name, "http://127.0.0.1:1/x")], tmp_path)


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the download"):
        download([remote(server)], tmp_path / "file" / "below", patience=QUICK)


# --- archives --------------------------------------------------------------------------------------------------------


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in members.items():
            content.writestr(name, data)
    return stream.getvalue()


def test_an_archive_is_unpacked_without_its_one_folder(server: Server, tmp_path: Path) -> None:
    server.content = archive({"ml/": b"", "ml/u.data": b"1", "ml/sub/x": b"2"})
    file = RemoteFile("ml.zip", server.url, hashlib.sha256(server.content).hexdigest(), unpack=True)
    expected = (tmp_path / "ml.zip", tmp_path / "u.data", tmp_path / "sub" / "x")
    assert download([file], tmp_path, patience=QUICK) == expected
    assert [path.read_bytes() for path in expected[1:]] == [b"1", b"2"]
    (tmp_path / "u.data").unlink()
    assert download([file], tmp_path, patience=QUICK) == expected
    assert len(server.requests) == 1
    (tmp_path / "u.data").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"u\.data: another file is in the place"):
        download([file], tmp_path, patience=QUICK)


def test_members_of_more_than_one_folder_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive({"a/x": b"1", "b/x": b"2"}))
    assert unpack(tmp_path / "a.zip", tmp_path) == (tmp_path / "a" / "x", tmp_path / "b" / "x")
    (tmp_path / "b.zip").write_bytes(archive({"c/x": b"1", "top": b"2"}))
    assert unpack(tmp_path / "b.zip", tmp_path) == (tmp_path / "c" / "x", tmp_path / "top")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:evil"])
def test_no_member_leaves_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.zip").write_bytes(archive({"good": b"1", name: b"2"}))
    with pytest.raises(DataError, match="unsafe member"):
        unpack(folder / "a.zip", folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in"]


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as content:
        content.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="unsafe member"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"a\.zip: cannot unpack the archive"):
        unpack(path, tmp_path)
    content = bytearray(archive({"x": os.urandom(5000)}))
    content[2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot unpack the archive"):
        unpack(path, tmp_path)
    assert not (tmp_path / "x").exists()
