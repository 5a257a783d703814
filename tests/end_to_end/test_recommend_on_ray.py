"""``genrec recommend engine=ray``: the files that one process writes, whoever dies; needs the extra `ray`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from batch_job import rows, told, words, write_users

from genrec.config.batch import RayEngine
from genrec.config.training import RecommendConfig
from genrec.errors import DataError, GenrecError, RunError
from genrec.pipeline.recommend_on_ray import make_on_ray
from genrec.pipeline.recommend_part import Maker, Part
from oracles.table_bundle import write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install 'genrec[ray]'"),
]
NUM_USERS = 6000


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundle b, users u.parquet, excluded items x.txt, and what one process makes of them in 12 parts."""
    folder = tmp_path_factory.mktemp("road")
    write(folder / "b", model="m1", catalogue="c1")
    write_users(folder / "u.parquet", NUM_USERS)
    (folder / "x.txt").write_text("i5\nnobody\n")
    done = run(*job(folder, folder / "local", "engine=local"))
    assert done.returncode == 0, done.stderr
    return folder


def job(road: Path, output: Path, *more: str) -> list[str]:
    slowly = "search.batch_size=1"  # seconds, in which something can happen
    return words(road, output, "shards=12", f"exclude={road}/x.txt", slowly, "engine=ray", *more)


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "genrec", *command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = start(*command, **environment)
    out, said = process.communicate(timeout=240)
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def num_parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until it is so, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.01)


def actors_of(process: subprocess.Popen[str]) -> list[int]:
    """Those of its descendants that make parts."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(entry.name))
    found, above = [], [process.pid]
    while above:
        for pid in below.get(above.pop(), []):
            above.append(pid)
            with suppress(OSError):
                found += [pid] if b"PartActor" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_files_are_those_of_one_process_to_the_byte(road: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = run(*job(road, tmp_path / "o", "engine.num_actors=2"), HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards_done_before"] == 0
    assert files(tmp_path / "o") == files(road / "local")
    assert rows(tmp_path / "o") == told(NUM_USERS, denied=("i5",))
    assert not list(home.iterdir())


def test_it_goes_on_with_what_one_process_began(road: Path, tmp_path: Path) -> None:
    output = tmp_path / "o"
    shutil.copytree(road / "local", output)
    parts = sorted(output.glob("part-*"))
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    parts[3].unlink()
    parts[3].with_name(f"{parts[3].name}.another.partial").write_bytes(b"half")
    (output / "summary.json").unlink()
    done = run(*job(road, output))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards_done_before"] == 9
    assert f"{parts[2]} is not a whole part of this job" in done.stderr
    assert parts[0].stat().st_mtime_ns == kept
    assert files(output) == files(road / "local")
    again = run(*job(road, output, "shards=3"))
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].endswith(
        "(found other shards); set overwrite=true to begin anew, or another output"
    )


def test_a_job_whose_driver_is_killed_loses_nothing_and_does_nothing_twice(road: Path, tmp_path: Path) -> None:
    output, orphans = tmp_path / "o", []
    for _ in range(2):
        process, before = start(*job(road, output, "engine.num_actors=2")), num_parts(output)
        wait_until(lambda before=before: num_parts(output) >= before + 2, process)
        assert process.poll() is None, process.communicate()[1]
        orphans += actors_of(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = run(*job(road, output))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards_done_before"] >= 4
    assert files(output) == files(road / "local")
    assert len(orphans) >= 2  # one each time at least, whatever the other was doing
    assert not [pid for pid in orphans if is_alive(pid)]


def test_a_job_that_is_interrupted_says_so(road: Path, tmp_path: Path) -> None:
    process = start(*job(road, tmp_path / "o", "engine.num_actors=2"))
    wait_until(lambda: num_parts(tmp_path / "o"), process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    out, said = process.communicate()
    assert (process.returncode, out) == (130, ""), said
    assert said.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in said


def test_an_actor_that_is_killed_is_replaced(road: Path, tmp_path: Path) -> None:
    process = start(*job(road, tmp_path / "o", "engine.num_actors=2"))
    wait_until(lambda: num_parts(tmp_path / "o"), process)
    os.kill(actors_of(process)[0], signal.SIGKILL)
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert "WARNING genrec.pipeline.recommend_on_ray: (raylet)" in said  # Ray prints that on standard output
    assert json.loads(out)["shards_done_before"] == 0
    assert files(tmp_path / "o") == files(road / "local")


def test_an_actor_that_dies_again_and_again_ends_the_job_with_its_part(road: Path, tmp_path: Path) -> None:
    output, two = tmp_path / "o", "shards=2"  # seconds each
    process = start(*job(road, output, two, "engine.num_actors=1"))
    while process.poll() is None:
        if any(output.glob("part-00001*.partial")):
            for pid in actors_of(process):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    _, said = process.communicate()
    assert process.returncode == 2, said
    line = said.splitlines()[-1]
    assert line.startswith(f"error: {output}/part-00001-of-00002.parquet: its actor died 3 times (found "), said
    assert "Traceback" not in said
    done = run(*job(road, output, two, "engine=local"))
    assert json.loads(done.stdout)["shards_done_before"] == 1
    assert rows(output) == told(NUM_USERS, denied=("i5",))


def test_what_an_actor_cannot_do_is_told_with_the_part(road: Path, tmp_path: Path) -> None:
    config = RecommendConfig(bundle=road / "b", users=road / "u.parquet", output=tmp_path)
    read = Maker.open(config).read
    parts = [Part(path=tmp_path / f"part-{number}", digest="d", first=number, end=number + 1) for number in range(6)]
    parts[0] = replace(parts[0], path=tmp_path / "gone" / "part-0")

    def fails_with(error: type[GenrecError], line: str, parts: list[Part], read: dict[str, str]) -> None:
        with pytest.raises(error, match=re.escape(line)):
            list(make_on_ray(config, RayEngine(num_actors=2), read, parts, lambda users: None))

    fails_with(DataError, f"{parts[1].path}: machine ", parts[1:2], read | {"users_sha256": "those of yesterday"})
    fails_with(RunError, f"{parts[0].path}: FileNotFoundError: ", parts, read)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_cluster_is_used_and_may_lose_a_machine(road: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        process = start(*job(road, tmp_path / "o", f"engine.address={cluster.address}", "engine.num_actors=2"))
        wait_until(lambda: num_parts(tmp_path / "o"), process)
        cluster.remove_node(second)
        out, said = process.communicate(timeout=240)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, said
    assert json.loads(out)["num_users"] == NUM_USERS
    assert files(tmp_path / "o") == files(road / "local")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_one_line(road: Path, tmp_path: Path, address: str) -> None:
    done = run(*job(road, tmp_path / "o", f"engine.address={address}"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: key 'engine.address': no Ray to be had (found {address}: ")
    assert done.stderr.count("\n") == 1
