"""Run folders: one locked folder a run, with what was asked, on what, where it stands, and everything it measured.

    config.yaml       as resolved, written once           environment.json  machine, versions, commit, command line
    inputs.json       path and hash of every input         status.json       running, done, failed or interrupted
    metrics.jsonl     one JSON object a line               log.txt           the log of genrec
    .lock             there while the run is alive

Knows files and `genrec.artifacts`; the configuration is a text to it. It must not import torch, Polars or OmegaConf.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

from genrec import __version__
from genrec.artifacts import Artifact, check_outside_artifacts, load_artifact
from genrec.errors import ArtifactError, DataError, LineageError, RunError, StorageError
from genrec.files import (
    hold_lock,
    is_debris,
    parse_json,
    plain_json,
    read_json,
    reading,
    sha256_file,
    utc_now,
    write_json,
    write_text,
    writing,
)

PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "polars", "torch", "lightning", "faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
    *("omegaconf", "safetensors", "filelock", "sentence-transformers", "onnx", "onnxruntime", "ray"),
)

OWN_FILES = ("config.yaml", "environment.json", "inputs.json", "status.json", "log.txt", "metrics.jsonl")

logger = logging.getLogger(__name__)


class RunDirectory:
    """An open run; made by `RunDirectory.open`.

    Attributes:
        path: absolute folder, where checkpoints and artifacts of the run may go too.
        command: what it runs, for instance "evaluate".
        resumed: whether it continues an earlier process.
        leads: whether it writes; of several processes that share a run only one does.
    """

    def __init__(self, path: Path, *, command: str, resumed: bool, leads: bool = True) -> None:
        self.path = path
        self.command = command
        self.resumed = resumed
        self.leads = leads
        self._status: dict[str, Any] = {}

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path | str,
        *,
        command: str,
        config_text: str,
        inputs: Sequence[Path | str | Artifact] = (),
        resume: bool = False,
        ignore_keys: Sequence[str] = (),
        leads: bool = True,
    ) -> Iterator[RunDirectory]:
        """Opens a run folder for the length of the block, whose end decides the status: done, failed or interrupted.

        In the main thread SIGTERM, by which clusters ask a job to end, interrupts the block as Ctrl-C does. What a
        failed run leaves that had not yet written anything of its own counts as an empty folder.

        Args:
            path: folder, made if need be.
            command: name of the command.
            config_text: resolved configuration as YAML.
            inputs: files and artifacts the run reads.
            resume: continue the run that is in the folder, finished or not; with an absent or empty folder a new run
                starts, so that a job on machines that come and go always runs the same command.
            ignore_keys: top-level keys of the configuration that may differ when resuming, for instance paths that may
                be spelled in several ways: what is at the paths of `inputs` is compared anyway.
            leads: false in a process that works on the run of another: nothing is checked or written.

        Raises:
            RunError: another process uses the folder; it is not empty and `resume` is off; it holds something else than
                a run; it is inside of an artifact; or the configuration is not the one the run was started with.
            LineageError: resuming with other inputs.
            DataError: an input is missing or is a folder that is no artifact.
            StorageError: the folder cannot be written.
        """
        folder = Path(path).resolve()
        if not leads:
            yield cls(folder, command=command, resumed=resume, leads=False)
            return
        check_outside_artifacts(folder)
        with writing(folder):
            if folder.exists() and not folder.is_dir():
                fix = "choose another name"
                raise RunError("there is a file where the run folder should go", where=folder, fix=fix)
            folder.mkdir(parents=True, exist_ok=True)
        with raise_on_sigterm(), hold_lock(folder / ".lock", what="the run folder", where=folder):
            with reading(folder):
                resumed = not _is_unused(folder)
            if resumed and not resume:
                fix = "choose another folder, or go on with it by --resume"
                raise RunError("the run folder is not empty", where=folder, fix=fix)
            if resumed:
                with reading(folder):
                    _check_start(folder, command=command, config_text=config_text, ignore_keys=ignore_keys)
            entries = [_describe_input(item) for item in inputs]
            if resumed:
                _check_inputs(folder, entries)
                with writing(folder):
                    _mend(folder)
            run = cls(folder, command=command, resumed=resumed)
            run._start(config_text, entries)
            with _log_file(folder / "log.txt") as log, run._watch(log):
                yield run

    def update(self, *, step: int | None = None, message: str | None = None) -> None:
        """Writes how far the run is to status.json."""
        if not self.leads:
            return
        self._write_status(step=step, message=message)

    def log_metrics(self, record: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl and waits until it is on the disk.

        Raises:
            DataError: a value is NaN, infinite or no JSON value; give None for what is undefined.
            StorageError: the line cannot be written; the file is as it was before.
        """
        try:
            line = json.dumps(plain_json(record, where="metrics")) + "\n"
        except ArtifactError as error:
            raise DataError(f"{error}; give None for an undefined value") from None
        if not self.leads:
            return
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            rest = line.encode()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """All records so far, those before a resumption included."""
        return read_metrics(self.path)

    def keep_metrics(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrites metrics.jsonl with the records that are kept: those after a checkpoint are logged again."""
        if not self.leads:
            return
        kept = [json.dumps(record) + "\n" for record in self.metrics() if is_kept(record)]
        write_text(self.path / "metrics.jsonl", "".join(kept))

    def _start(self, config_text: str, inputs: list[dict[str, Any]]) -> None:
        here = environment()
        status = {
            "command": self.command,
            "status": "running",
            "started": utc_now(),
            "updated": None,
            "num_resumed": 0,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "step": None,
            "message": None,
            "error": None,
        }
        if self.resumed:
            before = read_json(self.path / "environment.json")
            here["previous"] = [*before.pop("previous", []), before]
            last = read_status(self.path)
            status |= {key: last[key] for key in ("started", "step", "message")}
            status["num_resumed"] = last["num_resumed"] + 1
        else:
            write_text(self.path / "config.yaml", config_text)
            write_json(self.path / "inputs.json", inputs)
        write_json(self.path / "environment.json", here)
        self._status = status
        self._write_status()

    @contextmanager
    def _watch(self, log: logging.Handler) -> Iterator[None]:
        """Writes how the block ended to status.json and log.txt."""
        logger.info("%s %s in %s", "resuming" if self.resumed else "starting", self.command, self.path)
        try:
            yield
        except BaseException as error:
            interrupt = _interruption(error)
            told = interrupt or error
            line = " ".join(f"{type(told).__name__}: {told}".split())
            # Straight to the file: what is shown on the screen is the command line's affair.
            log.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, line, (), sys.exc_info()))
            status = "interrupted" if interrupt else "failed"
            try:
                self._write_status(status=status, error=line)
            except StorageError as second:  # the first error is the one to tell
                logger.error("the status could not be written: %s", second)
            if interrupt is not None and interrupt is not error:
                raise interrupt from None
            raise
        self._write_status(status="done")

    def _write_status(self, **changes: object) -> None:
        self._status |= {**changes, "updated": utc_now()}
        write_json(self.path / "status.json", self._status)


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """In the block, SIGTERM raises KeyboardInterrupt, so that a run that is asked to end says so and frees its locks.

    Only the first one does: those that follow must not disturb the tidying up. Nothing changes outside of the main
    thread, where Python has no signal handlers, and where SIGTERM is ignored on purpose.
    """
    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before in (None, signal.SIG_IGN):  # None: a handler that is not Python's
        yield
        return
    process, told = os.getpid(), False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if os.getpid() != process:  # a forked child inherits the handler, and not the run
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not told:
            told = True
            raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that `error` is, or that a library (Lightning) made a SystemExit of."""
    found: BaseException | None = error
    while isinstance(found, SystemExit):
        found = found.__context__
    return found if isinstance(found, KeyboardInterrupt) else None


def remove_run(path: Path | str) -> None:
    """Removes a run folder, and nothing that is not one.

    Raises:
        RunError: not a run folder, or in use.
    """
    folder = Path(path).resolve()
    with reading(folder):
        is_run = (folder / "status.json").is_file()
    if not is_run:
        fix = "choose another folder, or remove it yourself"
        raise RunError("not a run folder, so it stays", where=folder, fix=fix)
    with hold_lock(folder / ".lock", what="the run folder", where=folder), writing(folder):
        for entry in folder.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def read_status(path: Path | str) -> dict[str, Any]:
    """The status of a run folder, open or not; "running" without a living process means that it was killed."""
    return read_json(Path(path) / "status.json")


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All records of a run folder's metrics.jsonl; a last line that is still being written is left out.

    Raises:
        ArtifactError: a line is not JSON (it is named).
    """
    file = Path(path) / "metrics.jsonl"
    with reading(file):
        if not file.exists():
            return []
        lines = file.read_bytes().split(b"\n")
    return [parse_json(line, where=file, first_line=number) for number, line in enumerate(lines[:-1], start=1)]


def environment() -> dict[str, Any]:
    """What is needed to explain a difference between two machines; never the value of an environment variable."""
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "time": utc_now(),
        "command_line": sys.argv,
        "working_directory": os.getcwd(),
        "git_commit": _git_commit(),
        "genrec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "cpu_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "packages": versions,
    }


def lineage(path: Path | str) -> list[dict[str, Any]]:
    """The artifact at `path` and all its ancestors, nearest first, each once.

    Returns:
        One row an artifact: name (its role for the child that names it; None for the first), identity, path, and kind
        (None where it is no longer at that path, so that its own parents cannot be told).
    """
    rows: list[dict[str, Any]] = []
    root = load_artifact(path, verify=False)
    todo: deque[tuple[str | None, str, str]] = deque([(None, root.identity, str(root.path))])
    while todo:
        name, identity, place = todo.popleft()
        if identity in {row["identity"] for row in rows}:
            continue
        artifact = _load_if_there(place, identity)
        rows.append({"name": name, "identity": identity, "path": place, "kind": artifact and artifact.kind})
        if artifact is not None:
            todo += [(role, parent, artifact.parent_paths[role]) for role, parent in artifact.parents.items()]
    return rows


def _load_if_there(path: str, identity: str) -> Artifact | None:
    try:
        artifact = load_artifact(path, verify=False)
    except (ArtifactError, StorageError):
        return None  # moved or removed since: its identity is still known
    return artifact if artifact.identity == identity else None


def _git_commit() -> str | None:
    """Commit of the working directory, with ``-dirty`` if tracked files were changed; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git, or a repository too large to look through: information only
    return result.stdout.strip() if result.returncode == 0 else None


def _describe_input(item: Path | str | Artifact) -> dict[str, Any]:
    if not isinstance(item, Artifact):
        path = Path(item).resolve()
        with reading(path):
            if not path.exists():
                raise DataError("the input is missing", where=path)
            if path.is_file():
                return {"path": str(path), "sha256": sha256_file(path), "size": path.stat().st_size}
        item = load_artifact(path, verify=False)
    return {"path": str(item.path), "kind": item.kind, "identity": item.identity}


def _is_unused(folder: Path) -> bool:
    """Whether a new run may start: an empty folder, or one of a run that failed before it wrote anything of its own."""
    names = {entry.name for entry in folder.iterdir() if entry.name != ".lock" and not is_debris(entry.name)}
    if not names:
        return True
    metrics, status = folder / "metrics.jsonl", folder / "status.json"
    if not names <= set(OWN_FILES) or not status.is_file() or (metrics.exists() and metrics.stat().st_size > 0):
        return False
    try:
        return read_status(folder)["status"] == "failed"
    except (ArtifactError, KeyError, TypeError):  # not what a run writes, so not ours to replace
        return False


def _compared(text: str, ignore_keys: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The lines of a YAML mapping with their numbers from 1, without those that belong to one of the keys."""
    ignored = False
    for number, line in enumerate(text.split("\n"), start=1):
        if line and line[0] not in " -":  # otherwise it goes on with the value of the key before
            ignored = line.split(":")[0] in ignore_keys
        if not (line and ignored):
            yield number, line


def _check_start(folder: Path, *, command: str, config_text: str, ignore_keys: Sequence[str]) -> None:
    """Raises RunError if this is not the folder of the same command with the same configuration."""
    for name in ("config.yaml", "inputs.json", "environment.json", "status.json"):
        if not (folder / name).is_file():
            fix = "choose another folder, or remove it yourself"
            raise RunError(f"nothing to resume: the folder is not empty and has no {name}", where=folder, fix=fix)
    if (started := read_status(folder)["command"]) != command:
        raise RunError("cannot resume another command's run", where=folder, expected=started, found=command)
    stored = (folder / "config.yaml").read_bytes().decode()
    pairs = zip_longest(
        _compared(stored, ignore_keys), _compared(config_text, ignore_keys), fillvalue=(stored.count("\n") + 2, None)
    )
    for (number, old), (_, new) in pairs:
        if old != new:
            raise RunError(
                "cannot resume with another configuration",
                where=f"{folder / 'config.yaml'}:{number}",
                expected="no more lines" if old is None else repr(old),
                found="no more lines" if new is None else repr(new),
                fix="give the configuration it was started with, or choose another folder",
            )


def _check_inputs(folder: Path, entries: list[dict[str, Any]]) -> None:
    for old, new in zip_longest(read_json(folder / "inputs.json"), entries):
        expected, found = (entry and (entry.get("identity") or entry["sha256"]) for entry in (old, new))
        if expected != found:
            raise LineageError(
                "cannot resume with another input",
                where=(new or old)["path"],
                expected=expected or "no such input",
                found=found or "no such input",
                fix="restore the input, or choose another run folder",
            )


def _mend(folder: Path) -> None:
    """Removes what a killed process left half-written."""
    for path in folder.glob(".*.tmp"):
        path.unlink()
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        data = metrics.read_bytes()
        if torn := len(data) - (data.rfind(b"\n") + 1):
            logger.warning("%s: cutting off an unfinished last line of %d bytes", metrics, torn)
            os.truncate(metrics, len(data) - torn)


@contextmanager
def _log_file(path: Path) -> Iterator[logging.Handler]:
    """Appends what genrec logs, from INFO on, to `path`."""
    package = logging.getLogger("genrec")
    with writing(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.setLevel(logging.INFO)
    level = package.level
    if level == logging.NOTSET:  # otherwise the application has decided what is worth a line
        package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield handler
    finally:
        package.removeHandler(handler)
        if level == logging.NOTSET:
            package.setLevel(level)
        handler.close()
