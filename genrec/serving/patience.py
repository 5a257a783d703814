"""Connections on which the head of a request does not come in time are closed; Uvicorn waits. For bodies see `gate`."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """Uvicorn's, with a clock that runs while the head of a request is awaited: the first one, or one that has begun.

    Between requests Uvicorn's own clock runs, that of connections kept alive.

    Args:
        timeout_s: seconds from the connection, or from the first byte of a later request, to the end of the head.
        config, server_state, app_state: Uvicorn's.
    """

    def __init__(self, *uvicorns: Any, timeout_s: float, **more: Any) -> None:
        super().__init__(*uvicorns, **more)
        self._timeout_s = timeout_s
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock starts."""
        super().connection_made(transport)
        self._set_clock()

    def data_received(self, data: bytes) -> None:
        """The clock stops when a request has begun, and runs otherwise."""
        super().data_received(data)
        self._set_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock any more."""
        super().connection_lost(exc)
        self._stop_clock()

    def _set_clock(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()
        elif self._clock is None:
            self._clock = self.loop.call_later(self._timeout_s, self.transport.close)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
