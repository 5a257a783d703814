"""Several processes that work as one command: the one that the user starts leads, and starts the others.

A follower runs the same command on the same configuration, writes nothing, prints nothing, and leaves when the leader
is gone. Processes that a launcher (torchrun) has started are taken as they are, by its environment variables. Must not
know training or evaluation; torch is loaded only where there are several processes.
"""

from __future__ import annotations

import _thread
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec.errors import ConfigError, RunError

FOLLOWS = "GENREC_FOLLOWS"  # set in processes that a leader started
SECONDS_TO_LEAVE = 30


@dataclass(frozen=True)
class Team:
    """The processes of one command, and which of them this is.

    Attributes:
        rank: 0 for the leader.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes, in each of them; also a point that none passes before all have reached it."""
        if self.size == 1:
            return values
        import torch
        import torch.distributed as dist

        tensor = torch.from_numpy(np.array(values))
        dist.all_reduce(tensor)
        return tensor.numpy()

    def wait(self) -> None:
        """Until all processes are here."""
        self.total(np.zeros(1))


ALONE = Team()


def is_follower(devices: int) -> bool:
    """Whether this process is one of several, and not the one that writes."""
    return devices > 1 and int(os.environ.get("RANK", "0")) > 0


@contextmanager
def together(devices: int, verb: str, *, config_text: str, resume: bool = False) -> Iterator[Team]:
    """The team of `devices` processes on this machine (on each machine, under a launcher), for the length of the block.

    Args:
        devices: 1 for this process alone, which costs nothing.
        verb: the command, which the followers run too.
        config_text: its resolved configuration, as YAML.
        resume: whether it was called so.

    Raises:
        ConfigError: a launcher has started another number of processes.
        RunError: a follower ended before its time; says what it said.
    """
    if devices == 1:
        yield ALONE
    elif "RANK" in os.environ:
        if FOLLOWS in os.environ:
            threading.Thread(target=_leave_with_leader, daemon=True).start()
        with _process_group(devices) as team:
            yield team
    else:
        with _leading(devices, verb, config_text, resume), _process_group(devices) as team:
            yield team


@contextmanager
def _process_group(devices: int) -> Iterator[Team]:
    import torch
    import torch.distributed as dist

    found = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    if found != devices:
        raise ConfigError(
            "the launcher started another number of processes on this machine",
            where="key 'devices'",
            expected=found,
            found=devices,
            fix=f"devices={found}",
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def _leading(devices: int, verb: str, config_text: str, resume: bool) -> Iterator[None]:
    """Starts the followers, interrupts this process if one of them fails, and ends them with the block."""
    ranks = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "GROUP_RANK": "0",
        "RANK": "0",
        "LOCAL_RANK": "0",
    }
    with tempfile.TemporaryDirectory(prefix="genrec-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(config_text, encoding="utf-8")
        words = [sys.executable, "-m", "genrec", verb, str(config), *(["--resume"] if resume else [])]
        followers = [_Follower(words, ranks, rank, Path(folder)) for rank in range(1, devices)]
        os.environ |= ranks
        try:
            yield
            for follower in followers:
                follower.wait()
        except BaseException as error:
            failed = [follower for follower in followers if follower.has_failed]
            if failed:
                message = f"process {failed[0].rank} of {devices} ended: {failed[0].last_words()}"
                raise RunError(message, fix="see the first error above" if len(failed) > 1 else None) from error
            raise
        finally:
            for follower in followers:
                follower.end()
            for name in ranks:
                os.environ.pop(name, None)


class _Follower:
    """A process with a rank; a thread of ours waits for it."""

    def __init__(self, words: Sequence[str], ranks: dict[str, str], rank: int, folder: Path) -> None:
        self.rank = rank
        self.says = folder / f"{rank}.txt"
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), FOLLOWS: "1"}
        with self.says.open("wb") as log:
            # A session of its own: Ctrl-C is for the leader. Its input closes when the leader is gone, however it went.
            self.process = subprocess.Popen(
                words,
                env={**os.environ, **ranks, **own},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.has_failed = self.is_dismissed = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        if self.process.wait() and not self.is_dismissed:
            self.has_failed = True
            _thread.interrupt_main()

    def last_words(self) -> str:
        lines = self.says.read_text(encoding="utf-8", errors="replace").split("\n")
        told = [line for line in lines if line.strip()]
        return told[-1].removeprefix("error: ") if told else f"exit code {self.process.returncode}"

    def wait(self) -> None:
        self.process.wait()

    def end(self) -> None:
        self.is_dismissed = True
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def _leave_with_leader() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock would be held when Python shuts down
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
