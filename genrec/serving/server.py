"""``python -m genrec.serving.server BUNDLE``: an HTTP server of a bundle, on FastAPI and uvicorn.

Runs without torch, Lightning, Polars and OmegaConf; nothing that it imports may need them. ``genrec serve`` calls it.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import uvicorn

from genrec.config.serving import ServeConfig
from genrec.errors import ConfigError, GenrecError
from genrec.serving.app import build_app
from genrec.serving.open_bundle import open_bundle
from genrec.serving.patience import PatientProtocol
from genrec.serving.settings import read_key, read_settings
from genrec.serving.swap import Versions

logger = logging.getLogger(__name__)


def serve(config: ServeConfig) -> None:
    """Answers until SIGTERM or SIGINT, then ends what was begun. The first line of output is the address.

    Raises:
        GenrecError: no usable bundle or key, or the address cannot be had.
    """
    key = read_key(config.api_key_file)
    versions = Versions(config.bundle, partial(open_bundle, num_threads=config.num_threads))
    listener = listen(config.host, config.port)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(config, versions, key=key),
            http=partial(PatientProtocol, timeout_s=config.timeout_s),  # pyright: ignore[reportArgumentType]
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=config.shutdown_s,
        )
    )
    # Uvicorn ends in order and then raises the signal again, for the handler that was there before its own.
    before = signal.signal(signal.SIGTERM, _leave)
    version = versions.current
    port = listener.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    sys.stdout.write(f"http://{host}:{port} answers from model {version.model}, catalogue {version.catalogue}\n")
    sys.stdout.flush()
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections send at once what they are given.

    Connections inherit that. asyncio would see to it itself, but not for sockets made with the protocol left open; and
    an answer goes out in two parts, the second of which would wait 40 ms for the client's word that the first is there.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        fix = "set another port, or stop what listens there"
        raise ConfigError("cannot listen", where=f"{host}:{port}", found=error, fix=fix) from error


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


def main(words: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        serve(read_settings(sys.argv[1:] if words is None else words))
    except GenrecError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
