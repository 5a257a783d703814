"""A server in a process of its own, as a test meets it: started on a free port, asked, told to end or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import httpx


class Served:
    """A context manager; `client` asks the server.

    Attributes:
        process: the server.
        url: where it listens.
        client: with that base address.
    """

    def __init__(self, bundle: Path, *words: str, log: Path) -> None:
        command = [sys.executable, "-m", "genrec.serving.server", str(bundle), "--port", "0", *words]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("http://"), (line, log.read_text())
        self.url = line.split()[0]
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)
