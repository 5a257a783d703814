"""Throughput of the server on this machine with and without dynamic batching, and what its memory does over time.

Two servers of the same bundle, one after the other, are asked by 1, 2, 4, ... clients that each wait for their answer
before they ask again, for a few seconds a step. Told is the best throughput of the steps whose p99 is at most 50 ms
(null where even one client waits longer), at what number of clients, and the ratio of the two; `cpu_ms` is the
processor time of the server for a request, which other work on the machine hardly changes. Then the batching server
is asked for `--minutes` by 4 clients; its resident memory is read every second, and the slope of a straight line
through what comes after the first quarter of the time (5 of 20 minutes) is told.

Clients and server share the machine, so these are lower bounds. Histories are random items, 1 to 50 of them, k is 10,
and every answer is checked to have 10 different items. Without a bundle, an untrained one of Office's size is not
made up here: write one with `genrec export`.

    python benchmarks/serve.py BUNDLE [--seconds 5] [--minutes 1]

Prints one JSON line; exit code 1 if memory grows by 1 MiB a minute or more (judged from 10 minutes on).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

P99_MS, MOST_MIB_PER_MINUTE, JUDGED_FROM_MINUTES = 50.0, 1.0, 10.0
CLIENTS = (1, 2, 4, 8, 16, 32)
K = 10
HEAD = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@contextmanager
def server(bundle: Path, max_batch: int) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and its process id."""
    command = [sys.executable, "-m", "genrec.serving.server", str(bundle), "--port", "0", "--max-batch", str(max_batch)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[0].rsplit(":", 1)[1]), process.pid
    finally:
        process.terminate()
        process.wait()


def make_bodies(bundle: Path, number: int = 500) -> list[bytes]:
    items = json.loads((bundle / "items.json").read_text("utf-8"))["item_ids"]
    chance = random.Random(0)
    histories = [chance.choices(items, k=chance.randint(1, 50)) for _ in range(number)]
    return [json.dumps({"history": history, "k": K}).encode() for history in histories]


async def client(port: int, bodies: list[bytes], until: float, times: list[float], start: int) -> None:
    """Asks one question after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    step = start
    while time.perf_counter() < until:
        body = bodies[step % len(bodies)]
        step += 7
        asked = time.perf_counter()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split()[0])
        items = json.loads(await reader.readexactly(length))["items"]
        times.append(time.perf_counter() - asked)
        assert len({item["item_id"] for item in items}) == K, "an item twice, or too few"
    writer.close()
    await writer.wait_closed()


async def ask(port: int, process: int, bodies: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """One closed loop: throughput, p50, p99, and the server's processor time of a request."""
    times: list[float] = []
    before = processor_seconds(process)
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, bodies, until, times, start) for start in range(clients)))
    times.sort()
    return {
        "clients": clients,
        "per_second": round(len(times) / seconds, 1),
        "cpu_ms": round(1000 * (processor_seconds(process) - before) / len(times), 2),
        "p50_ms": round(1000 * times[len(times) // 2], 1),
        "p99_ms": round(1000 * times[min(len(times) - 1, int(0.99 * len(times)))], 1),
    }


def ramp(port: int, process: int, bodies: list[bytes], seconds: float) -> list[dict[str, Any]]:
    """Steps of more and more clients, 8 at least, as long as p99 is not far beyond its bound."""
    asyncio.run(ask(port, process, bodies, 1, 1.0))  # the first requests also pay for first things
    steps = []
    for clients in CLIENTS:
        steps.append(asyncio.run(ask(port, process, bodies, clients, seconds)))
        if clients >= 8 and steps[-1]["p99_ms"] > 4 * P99_MS:
            break
    return steps


def processor_seconds(process: int) -> float:
    ticks = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def soak(port: int, process: int, bodies: list[bytes], minutes: float) -> list[tuple[float, float]]:
    """(minute, MiB) once a second, under the load of 4 clients."""
    samples = []
    begin = time.perf_counter()
    loop = asyncio.gather(*(client(port, bodies, begin + 60 * minutes, [], start) for start in range(4)))
    while not loop.done():
        samples.append(((time.perf_counter() - begin) / 60, resident_mib(process)))
        await asyncio.wait([loop], timeout=1)
    await loop
    return samples


def slope(samples: list[tuple[float, float]]) -> float:
    """Least squares, MiB a minute."""
    mean_x, mean_y = (sum(column) / len(samples) for column in zip(*samples, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / sum((x - mean_x) ** 2 for x, _ in samples)


def best(steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    return max((step for step in steps if step["p99_ms"] <= P99_MS), key=lambda step: step["per_second"], default=None)


def main() -> int:
    parser = argparse.ArgumentParser(description="Load test of the server.")
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each step")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the look at memory")
    words = parser.parse_args()
    if words.bundle is None:
        print(json.dumps({"skipped": "no bundle named; write one with genrec export"}))
        return 0
    bodies = make_bodies(words.bundle)
    steps = {}
    with server(words.bundle, 1) as (port, process):
        steps["single"] = ramp(port, process, bodies, words.seconds)
    with server(words.bundle, 16) as (port, process):
        steps["batched"] = ramp(port, process, bodies, words.seconds)
        samples = asyncio.run(soak(port, process, bodies, words.minutes))
    settled = [sample for sample in samples if sample[0] >= words.minutes / 4]
    growth = slope(settled)
    most = {name: max(step["per_second"] for step in rows) for name, rows in steps.items()}
    facts = {
        "within_p99": {name: best(rows) for name, rows in steps.items()},
        "most_per_second": most,
        "batching_ratio": round(most["batched"] / most["single"], 2),
        "steps": steps,
        "resident_mib": round(settled[-1][1], 1),
        "mib_per_minute": round(growth, 3),
        "minutes": words.minutes,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(facts))
    return int(words.minutes >= JUDGED_FROM_MINUTES and growth >= MOST_MIB_PER_MINUTE)


if __name__ == "__main__":
    sys.exit(main())
