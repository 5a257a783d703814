"""The socket that the server listens on."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from genrec.errors import ConfigError
from genrec.serving.server import listen


def test_answers_are_sent_at_once() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_that_is_taken_is_one_line() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: cannot listen"):
            listen("127.0.0.1", port)
