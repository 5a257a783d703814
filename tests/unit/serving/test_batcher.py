"""The batcher: everyone gets their own answer, whoever they share a search with."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.serving.answers import Request, answer
from genrec.serving.batcher import Batcher, BusyError, ClosedError
from genrec.serving.open_bundle import open_bundle
from genrec.serving.runtime import CandidateGenerator
from oracles.table_bundle import expected, write


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CandidateGenerator:
    return open_bundle(write(tmp_path_factory.mktemp("bundle") / "b", model="m", catalogue="c"))


ITEMS = st.sampled_from([f"i{number}" for number in range(52)])  # i50 and i51 are unknown
TAGS = st.sampled_from(["parity=even", "parity=odd", "digit=1", "digit=4", "digit=x", "red"])  # two of them no item's
REQUESTS = st.builds(
    Request,
    history=st.lists(ITEMS, max_size=5).map(tuple),
    k=st.integers(1, 20),
    exclude=st.lists(ITEMS, max_size=30).map(tuple),
    allow=st.none() | st.lists(ITEMS, max_size=5).map(tuple),
    explain=st.booleans(),
    allow_tags=st.none() | st.lists(TAGS, max_size=4).map(tuple),
    deny_tags=st.lists(TAGS, max_size=2).map(tuple),
)


@settings(max_examples=40)
@given(requests=st.lists(REQUESTS, max_size=9), size=st.integers(1, 4))
def test_a_request_gets_what_it_would_get_alone(table: CandidateGenerator, requests: list[Request], size: int) -> None:
    together = answer(table, requests, max_batch=size)
    assert together == [answer(table, [request], max_batch=1)[0] for request in requests]
    for request, found in zip(requests, together, strict=True):
        pairs = list(zip(found.item_ids, found.scores, strict=True))
        given = {name: getattr(request, name) for name in ("exclude", "allow", "allow_tags", "deny_tags")}
        assert pairs == expected(request.history, request.k, **given)
        words = (*(request.allow_tags or ()), *request.deny_tags)
        assert found.num_unknown_tags == sum(word in ("digit=x", "red") for word in words)
        named = (*request.history, *request.exclude, *(request.allow or ()))
        assert found.num_unknown == sum(item in ("i50", "i51") for item in named)
        assert (found.reasons is not None) is request.explain


def test_reasons_are_what_the_score_loses(table: CandidateGenerator) -> None:
    (found,) = answer(table, [Request(("i7", "i3"), 2, explain=True)], max_batch=4)
    # i4 scores -0 + 0.5. Without i7 the bonus goes; without i3 the list begins at i8 and i4 is 46 places on.
    assert found.item_ids == ("i4", "i5")
    assert found.reasons is not None
    assert found.reasons[0] == (("i3", 0.5 + 46), ("i7", 0.5))
    (lone,) = answer(table, [Request(("i3",), 2, explain=True)], max_batch=4)
    assert lone.reasons == ((), ())


@dataclass
class Gated:
    """A generator that waits for a signal, and notes what it was asked together."""

    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    asked: list[list[str]] = field(default_factory=list)

    @property
    def generator(self) -> Gated:
        return self

    def recommend(self, histories: list[list[str]], k: int, **_: Any) -> SimpleNamespace:
        self.asked.append([history[0] for history in histories])
        self.begun.set()
        assert self.gate.wait(10)
        if any(history[0] == "poison" for history in histories):
            raise ValueError("poison")
        return SimpleNamespace(
            item_ids=[[history[0]] * k for history in histories],
            scores=[[0.0] * k for _ in histories],
            num_unknown=[0] * len(histories),
            is_popular=[False] * len(histories),
            num_unknown_tags=[0] * len(histories),
        )


def ask(batcher: Batcher[Gated], *names: str) -> asyncio.Task[Any]:
    return asyncio.create_task(batcher.submit([Request((name,), 1) for name in names]))


async def begin(gated: Gated, batcher: Batcher[Gated]) -> asyncio.Task[Any]:
    """A first job that occupies the worker, so that the next ones gather."""
    first = ask(batcher, "first")
    assert await asyncio.to_thread(gated.begun.wait, 10)
    return first


def make(gated: Gated, **options: Any) -> Batcher[Gated]:
    return Batcher(lambda: gated, **{"max_batch": 4, "max_wait_ms": 0, "max_queue": 6, **options})


def test_what_waits_together_is_searched_together_in_whole_jobs() -> None:
    async def scenario() -> None:
        gated = Gated()
        batcher = make(gated)
        tasks = [await begin(gated, batcher), ask(batcher, "a"), ask(batcher, "b", "c"), ask(batcher, "d", "e")]
        await asyncio.sleep(0)
        gated.gate.set()
        answers = [await task for task in tasks]
        assert gated.asked == [["first"], ["a", "b", "c"], ["d", "e"]]
        assert [[found.item_ids[0] for found in own] for _, own in answers] == [
            ["first"],
            ["a"],
            ["b", "c"],
            ["d", "e"],
        ]
        await batcher.close()

    asyncio.run(scenario())


def test_a_job_waits_for_company_if_told_to() -> None:
    async def scenario() -> None:
        gated = Gated()
        gated.gate.set()
        batcher = make(gated, max_wait_ms=5000)
        await asyncio.gather(ask(batcher, "a"), ask(batcher, "b"), ask(batcher, "c", "d"))
        assert gated.asked == [["a", "b", "c", "d"]]  # full, so the 5 s are not waited for
        await batcher.close()

    asyncio.run(scenario())


def test_one_failure_is_one_request_s() -> None:
    async def scenario() -> None:
        gated = Gated()
        batcher = make(gated)
        tasks = [await begin(gated, batcher), ask(batcher, "a"), ask(batcher, "poison"), ask(batcher, "b")]
        gated.gate.set()
        first, a, poison, b = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(poison, ValueError)
        assert [found[1][0].item_ids[0] for found in (first, a, b)] == ["first", "a", "b"]
        assert (await ask(batcher, "later"))[1][0].item_ids == ("later",)
        await batcher.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_given_up_jobs_are_not_searched() -> None:
    async def scenario() -> None:
        gated = Gated()
        batcher = make(gated)
        first = await begin(gated, batcher)
        waiting = [ask(batcher, *"abcd"), ask(batcher, *"ef")]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.submit([Request(("g",), 1)])
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        gated.gate.set()
        await asyncio.gather(first, waiting[1])
        assert gated.asked == [["first"], ["e", "f"]]
        await batcher.close()

    asyncio.run(scenario())


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    async def scenario() -> None:
        gated = Gated()
        batcher = make(gated)
        tasks = [await begin(gated, batcher), ask(batcher, "a"), ask(batcher, *"bcde")]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await batcher.submit([Request(("late",), 1)])
        gated.gate.set()
        await closing
        assert all(task.done() and task.exception() is None for task in tasks)

    asyncio.run(scenario())


def test_a_batch_is_answered_by_the_version_it_began_with(tmp_path: Path) -> None:
    async def scenario() -> None:
        old, new = Gated(), Gated()
        new.gate.set()
        now = [old]
        batcher: Batcher[Gated] = Batcher(lambda: now[0], max_batch=4, max_wait_ms=0, max_queue=6)
        first = await begin(old, batcher)
        now[0] = new
        second = ask(batcher, "second")
        old.gate.set()
        assert (await first)[0] is old
        assert (await second)[0] is new
        await batcher.close()

    asyncio.run(scenario())
