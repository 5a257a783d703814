"""Requests that wait together are searched together: one queue, one worker thread, no lock.

All state is touched on the event loop alone. While the worker is at a batch, the next one gathers, so that batching
costs a lone request nothing; `max_wait_ms` lets it wait for company on top of that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from genrec.serving.answers import Answer, Generator, Request, answer

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """Too many requests wait already."""


class ClosedError(Exception):
    """The server is about to end."""


class Versioned(Protocol):
    """A generator under a name."""

    @property
    def generator(self) -> Generator: ...


V = TypeVar("V", bound=Versioned)


@dataclass(eq=False)
class _Job(Generic[V]):
    requests: Sequence[Request]
    arrived: float
    outcome: asyncio.Future[tuple[V, list[Answer]]]


class Batcher(Generic[V]):
    """Gathers jobs and answers each from one version.

    Args:
        current: the version that the next batch is answered from.
        max_batch: histories searched at once.
        max_wait_ms: milliseconds that the oldest waiting job may wait for others.
        max_queue: histories that may wait.
        observe: is told the histories of each batch.
    """

    def __init__(
        self,
        current: Callable[[], V],
        *,
        max_batch: int,
        max_wait_ms: float,
        max_queue: int,
        observe: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._current = current
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000
        self._max_queue = max_queue
        self._observe = observe
        self._jobs: deque[_Job[V]] = deque()
        self._arrival = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._work())

    @property
    def waiting(self) -> int:
        """Histories that wait for their search to begin."""
        return sum(len(job.requests) for job in self._jobs if not job.outcome.done())

    async def submit(self, requests: Sequence[Request]) -> tuple[V, list[Answer]]:
        """The version that answered, and one answer a request, all from that version.

        Cancelling the call takes the job out of the queue, if its search has not begun.

        Raises:
            BusyError: more than `max_queue` histories would wait.
            ClosedError: `close` was called.
        """
        if self._closing:
            raise ClosedError
        if self._jobs and self.waiting + len(requests) > self._max_queue:
            raise BusyError
        loop = asyncio.get_running_loop()
        job: _Job[V] = _Job(requests, loop.time(), loop.create_future())
        self._jobs.append(job)
        self._arrival.set()
        return await job.outcome

    async def close(self) -> None:
        """Ends after everything that waits has been answered."""
        self._closing = True
        self._arrival.set()
        await self._task
        self._pool.shutdown()

    async def _work(self) -> None:
        while batch := await self._gather():
            version = self._current()
            self._observe(sum(len(job.requests) for job in batch))
            await self._answer(version, batch)

    async def _answer(self, version: V, batch: list[_Job[V]]) -> None:
        requests = [request for job in batch for request in job.requests]
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._pool, self._search, version, requests)
        except Exception as error:  # noqa: BLE001 - whatever a generator raises belongs to a request, not to the worker
            if len(batch) > 1:  # what one job has done must not be another's error
                for job in batch:
                    await self._answer(version, [job])
            elif not batch[0].outcome.done():
                batch[0].outcome.set_exception(error)
            return
        for job in batch:
            own, answers = answers[: len(job.requests)], answers[len(job.requests) :]
            if not job.outcome.done():
                job.outcome.set_result((version, own))

    def _search(self, version: V, requests: list[Request]) -> list[Answer]:
        return answer(version.generator, requests, max_batch=self._max_batch)

    async def _gather(self) -> list[_Job[V]]:
        """The next batch: whole jobs in order of arrival, at least one; empty when all is done and we are closing."""
        while not self._drop_given_up():
            if self._closing:
                return []
            await self._next_arrival(None)
        loop = asyncio.get_running_loop()
        until = self._jobs[0].arrived + self._max_wait
        while self.waiting < self._max_batch and not self._closing and (left := until - loop.time()) > 0:
            await self._next_arrival(left)
        batch, rows = [], 0
        while self._drop_given_up() and (not batch or rows + len(self._jobs[0].requests) <= self._max_batch):
            batch.append(self._jobs.popleft())
            rows += len(batch[-1].requests)
        return batch or await self._gather()

    def _drop_given_up(self) -> int:
        """Takes jobs off the head of the queue that nobody waits for any more; what is left."""
        while self._jobs and self._jobs[0].outcome.done():
            self._jobs.popleft()
        return len(self._jobs)

    async def _next_arrival(self, seconds: float | None) -> None:
        self._arrival.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._arrival.wait()
        except TimeoutError:
            return
