"""What every request passes first: the key, size and speed of its body, the clock. Plain ASGI; knows no route."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Observe = Callable[[str, int, float], None]

OPEN = ("/", "/v2/health/live", "/v2/health/ready")  # asked by load balancers, and by people who have yet to type a key
DRAINED = 16  # times max_body that is read and thrown away, so that the client gets to read the refusal


class TooLargeError(Exception):
    """The body has more bytes than allowed."""


class Gate:
    """Refuses what must not reach the routes, and times the rest.

    Args:
        app: the routes.
        max_body: bytes of a body.
        timeout_s: seconds in which a body has to be there.
        key: what X-API-Key has to be; None: anything.
        observe: is told (route, status, seconds) of each request.
    """

    def __init__(self, app: App, *, max_body: int, timeout_s: float, key: str | None, observe: Observe) -> None:
        self.app = app
        self.max_body = max_body
        self.timeout_s = timeout_s
        self.key = None if key is None else key.encode()
        self.observe = observe

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.observe(route, status, time.perf_counter() - started)

    async def _pass(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            await refuse(send, 415, "the body is compressed; send it as it is")
            return
        closed = self.key is not None and scope["path"] not in OPEN
        if closed and not hmac.compare_digest(headers.get(b"x-api-key", b""), self.key or b""):
            await refuse(send, 401, "X-API-Key is missing or not the key of this server")
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._read(headers.get(b"content-length", b""), receive)
        except TimeoutError:
            await refuse(send, 408, f"the body was not there within {self.timeout_s:g} s", close=True)
            return
        except TooLargeError:
            await refuse(send, 413, f"the body has more than {self.max_body} bytes")
            return
        if body is not None:
            await self.app(scope, replay(body, receive), send)

    async def _read(self, announced: bytes, receive: Receive) -> bytes | None:
        """The whole body; None if the client left."""
        too_large = announced.isdigit() and int(announced[:20]) > self.max_body
        parts, size, more = [], 0, True
        while more and size <= DRAINED * self.max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            too_large = too_large or size > self.max_body
            if not too_large:
                parts.append(part)
        if too_large:
            raise TooLargeError
        return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(send: Send, status: int, line: str, *, close: bool = False) -> None:
    """An answer of one line of JSON, as every error here; `close` ends the connection with it."""
    body = json.dumps({"error": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] if close else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
