"""The parts of a batch job made by a Ray Data job: its rows are parts, its actors open the bundle once and write them.

What Ray moves are numbers of parts; users are read and lists are written by the actors themselves, as this process
would write them. So a job that Ray began goes on without it, and the other way round. Only this module knows Ray.
"""

from __future__ import annotations

import io
import logging
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import replace
from functools import cached_property
from typing import Any

from genrec import errors
from genrec.config.batch import RayEngine
from genrec.config.training import RecommendConfig
from genrec.errors import ConfigError, DataError, GenrecError, RunError, StorageError
from genrec.pipeline.recommend_part import Maker, Part

RETRIES = 2  # of an actor whose process or machine is gone, and of the part that it had
OBJECT_STORE_BYTES = 128 << 20  # of a Ray of our own; rows of numbers are all that goes through it
SECONDS_TO_CONNECT, SECONDS_TO_BE_SEEN = 10, 120
SHARE = "give paths of a file system that all machines of the cluster share"
COLOUR = re.compile(r"\x1b\[\d+m")

logger = logging.getLogger(__name__)


def make_on_ray(
    config: RecommendConfig,
    engine: RayEngine,
    read: dict[str, str],
    parts: Sequence[Part],
    told: Callable[[int], None],
) -> Iterator[dict[str, int]]:
    """Counts of the parts as they are done, in any order.

    Args:
        config: of the job.
        engine: where its actors are.
        read: versions and hashes of what every actor has to find where this process found it.
        parts: what is to be made.
        told: gets the users that are done.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
        RunError: an actor died again and again, with the part that it had.
        GenrecError: a part could not be made; says which, and why.
    """
    if not parts:
        return
    ray = _import_ray(engine.address)
    done = 0
    with _connected(ray, engine, config, len(parts)) as num_actors, _errors_of_actors(ray, parts):
        rows = ray.data.from_items([{"number": number} for number in range(len(parts))], override_num_blocks=len(parts))
        # One part at a time for each: parts are long, and a queue would leave actors idle at the end.
        made = rows.map(
            PartActor,
            fn_constructor_kwargs={"config": _with_whole_paths(config), "read": read, "parts": tuple(parts)},
            compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=1),
            num_cpus=config.num_threads,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
        with closing(_rows(ray, made)) as results:
            for row in results:
                part = parts[int(row["number"])]
                if row["kind"]:
                    raise getattr(errors, row["kind"])(row["error"], where=part.path)
                counts = _counts_of(part)
                done += part.num_users
                told(done)
                yield counts


def _rows(ray: Any, dataset: Any) -> Generator[dict[str, Any], None, None]:
    """Rows as they are made.

    Ray's own `iter_rows` reads ahead in threads of this process; one that still does when a job is given up, and Ray
    with it, ends the process there and then, without a word.
    """
    bundles = dataset.iter_internal_ref_bundles()
    try:
        for bundle in bundles:
            for block, _ in bundle.blocks:
                yield from ray.data.block.BlockAccessor.for_block(ray.get(block)).iter_rows(public_row_format=True)
    finally:
        del bundles  # what is not needed any more stops with the last reference to this


def _counts_of(part: Part) -> dict[str, int]:
    """Those of the file; network file systems remember for a while that there was none."""
    end = time.monotonic() + SECONDS_TO_BE_SEEN
    while (counts := part.counts()) is None:
        if time.monotonic() > end:
            raise StorageError("written on another machine and not to be seen here", where=part.path, fix=SHARE)
        time.sleep(0.5)
    return counts


class PartActor:
    """Makes one part after the other in a process of Ray, which holds one opened bundle."""

    def __init__(self, *, config: RecommendConfig, read: dict[str, str], parts: Sequence[Part]) -> None:
        self.config, self.read, self.parts = config, read, parts

    @cached_property
    def maker(self) -> Maker:
        """Opened by the first part, so that what fails has a part's name."""
        maker = Maker.open(self.config)
        if different := [name for name, value in self.read.items() if maker.read[name] != value]:
            where, found = f"machine {socket.gethostname()}", f"other {', '.join(different)}"
            raise DataError("not what the job began with", where=where, found=found, fix=SHARE)
        return maker

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the number of a part -> the same with the error that it ended with, or none."""
        import ray

        kind = text = ""
        try:
            part = self.parts[int(row["number"])]
            self.maker.make(part, writer=ray.get_runtime_context().get_actor_id() or "")
        except GenrecError as error:
            kind, text = type(error).__name__, str(error)
        except Exception as error:  # whatever it is, the job has to say which part it was
            logger.exception("part %s", row["number"])
            kind, text = "RunError", f"{type(error).__name__}: {error}"
        return {"number": row["number"], "kind": kind, "error": text}


def _import_ray(address: str | None) -> Any:
    """Ray, without its reports to its makers; one of our own lets nobody in without a token, from Ray 2.52 on."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its default to come, of which it would warn
    if address is None and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its ports are open to the network, and run what they are sent
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ConfigError(f"engine=ray needs the package {error.name}", fix="pip install 'genrec[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any, engine: RayEngine, config: RecommendConfig, num_parts: int) -> Iterator[int]:
    """Ray for the length of the block, silent but for warnings; gives the number of actors."""
    wanted = engine.num_actors and min(engine.num_actors, num_parts)
    own = {
        "num_cpus": wanted and wanted * config.num_threads,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    with redirect_stdout(_Warnings()):  # Ray prints there what becomes of actors, and it is for our results alone
        try:
            _check_listening(engine.address)
            ray.init(
                address=engine.address or "local",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **({} if engine.address else own),
            )
        except Exception as error:  # Ray's are of many kinds
            fix = "set engine.address=auto on a machine of the cluster, or engine.address=null for a Ray of its own"
            found = f"{engine.address or 'null'}: {_first_line(error)}"
            raise ConfigError("no Ray to be had", where="key 'engine.address'", found=found, fix=fix) from error
        try:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told by us, in one line
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = context.print_on_execution_start = False
            yield _num_actors(int(ray.cluster_resources().get("CPU", 0)), wanted, config.num_threads, num_parts)
        finally:
            ray.shutdown()


def _check_listening(address: str | None) -> None:
    """Raises OSError or ValueError unless something listens at `host:port`; Ray itself would try for many minutes."""
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()


def _num_actors(num_processors: int, wanted: int | None, num_threads: int, num_parts: int) -> int:
    """As many as were asked for, else as many as there is room for; never more than parts.

    >>> _num_actors(8, None, 3, 100), _num_actors(8, None, 1, 3), _num_actors(1, None, 2, 3)
    (2, 3, 1)
    """
    number = wanted or min(num_parts, max(1, num_processors // num_threads))
    if number * num_threads > num_processors:
        logger.warning(
            "%d actors with %d processors each wait for room: the cluster has %d", number, num_threads, num_processors
        )
    return number


@contextmanager
def _errors_of_actors(ray: Any, parts: Sequence[Part]) -> Iterator[None]:
    """Says which part an actor had that is gone: the one whose partial file bears its name."""
    try:
        yield
    except ray.exceptions.RayActorError as error:
        had = [part.path for part in parts if part.partial(str(error.actor_id)).exists()]
        lines = [line for line in str(error).splitlines() if line.strip()]
        found = next((line for line in lines if line.startswith("The actor is dead")), lines[-1])
        if not had:
            fix = "install this version of genrec and its extra ray on all machines of the cluster"
            raise RunError("an actor died before it began a part", found=found, fix=fix) from error
        fix = "give it more memory or fewer actors if it was killed for its memory, and run the same command again"
        raise RunError(f"its actor died {1 + RETRIES} times", where=had[0], found=found, fix=fix) from error
    except ray.exceptions.RayError as error:
        raise RunError("Ray gave up", found=_first_line(error), fix="run the same command again") from error


def _with_whole_paths(config: RecommendConfig) -> RecommendConfig:
    """For processes that may work in another folder."""
    assert config.users is not None
    return replace(config, users=config.users.absolute(), exclude=config.exclude and config.exclude.absolute())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class _Warnings(io.TextIOBase):
    """Standard output whose texts become warnings of one line; what follows it, tracebacks say, is in Ray's log."""

    def write(self, text: str) -> int:
        if line := COLOUR.sub("", text).strip().partition("\n")[0]:
            logger.warning("%s", line)
        return len(text)
