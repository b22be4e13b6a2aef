"""Killed drivers, workers and nodes: the store ends up byte for byte what an undisturbed run makes."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preprocess.__main__ import main
from preprocess.job.cluster import start_ray
from tests.preprocess.conftest import make_folder, store_files

_OPTIONS = ("--shorter-side", "64", "--images-per-shard", "12")
_NUM_SHARDS = 41
_DEADLINE_S = 250.0

_drivers: list[subprocess.Popen[str]] = []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 shards' worth: 390 training and 90 validation images."""
    return make_folder(tmp_path_factory.mktemp("kills") / "source", train=130, val=30)


@pytest.fixture(scope="module")
def undisturbed(source: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    assert main(["run", "--source", str(source), "--out", str(store), *_OPTIONS]) == 0
    return store_files(store)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray head that runs no tasks; tests add nodes."""
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    head = {"num_cpus": 0, "include_dashboard": False}
    made: Any = start_ray(lambda: Cluster(initialize_head=True, head_node_args=head))
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def _no_driver_outlives_its_test() -> Iterator[None]:
    yield
    while _drivers:
        driver = _drivers.pop()
        driver.kill()
        driver.wait()


def _start(source: Path, store: Path, *options: str) -> subprocess.Popen[str]:
    """A driver in a process of its own, as a user starts one."""
    command = [sys.executable, "-m", "preprocess", "run", "--source", str(source), "--out", str(store)]
    driver = subprocess.Popen(
        [*command, *_OPTIONS, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    _drivers.append(driver)
    return driver


def _wait_for_shards(store: Path, count: int, driver: subprocess.Popen[str]) -> None:
    """Until ``count`` shards are finished and another is half-written, or the driver has ended."""
    deadline = time.monotonic() + _DEADLINE_S
    while driver.poll() is None:
        assert time.monotonic() < deadline
        shards = store / "shards"
        if len(list(shards.glob("*.json"))) >= count and any(shards.glob(".*.lmdb.*.tmp")):
            return
        time.sleep(0.001)


def _finish(driver: subprocess.Popen[str]) -> str:
    _, errors = driver.communicate(timeout=_DEADLINE_S)
    assert driver.returncode == 0, errors
    return errors


@pytest.mark.timeout(4 * _DEADLINE_S)
def test_a_driver_killed_ten_times(source: Path, undisturbed: dict[str, bytes], tmp_path: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=2)
    draw = random.Random(7)
    store = tmp_path / "store"
    for count in sorted(draw.sample(range(_NUM_SHARDS - 4), 10)):
        driver = _start(source, store, "--ray-address", cluster.address)
        _wait_for_shards(store, count, driver)
        time.sleep(draw.random() * 0.03)
        finished = {path: path.stat().st_ino for path in (store / "shards").glob("*.json")}
        driver.kill()
        driver.communicate()
        # What was finished stays as it is, and is not made again.
        assert {path: path.stat().st_ino for path in finished} == finished
    errors = _finish(_start(source, store, "--ray-address", cluster.address))
    assert f"{_NUM_SHARDS}/{_NUM_SHARDS} shards" in errors
    assert store_files(store) == undisturbed


def test_a_driver_with_a_ray_of_its_own_killed(source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    driver = _start(source, tmp_path / "store", "--workers", "2")
    _wait_for_shards(tmp_path / "store", 9, driver)
    driver.kill()
    driver.communicate()
    assert not (tmp_path / "store/manifest.json").exists()
    _finish(_start(source, tmp_path / "store", "--workers", "2"))
    assert store_files(tmp_path / "store") == undisturbed


def test_a_driver_that_is_interrupted_leaves_nothing_half_written(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for attempt in range(5):
        store = tmp_path / f"store-{attempt}"
        driver = _start(source, store, "--workers", "2")
        _wait_for_shards(store, 5, driver)
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=_DEADLINE_S)
        if driver.returncode != 0:
            break  # otherwise this process was so slow that the driver had finished before the signal came
    assert driver.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "alexnet-preprocess run: error: interrupted"
    assert not list(store.rglob(".*"))
    _finish(_start(source, store, "--workers", "2"))
    assert store_files(store) == undisturbed


def test_a_node_killed_in_the_middle_of_a_shard(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path, cluster: Any
) -> None:
    first, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    driver = _start(source, tmp_path / "store", "--ray-address", cluster.address)
    _wait_for_shards(tmp_path / "store", 8, driver)
    assert driver.poll() is None
    cluster.remove_node(first, allow_graceful=False)
    _finish(driver)
    assert store_files(tmp_path / "store") == undisturbed


def test_a_worker_killed_in_the_middle_of_a_shard(source: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    driver = _start(source, tmp_path / "store", "--workers", "2")
    for count in (4, 12):
        _wait_for_shards(tmp_path / "store", count, driver)
        _kill_one_worker(driver)
    _finish(driver)
    assert store_files(tmp_path / "store") == undisturbed


def _kill_one_worker(driver: subprocess.Popen[str]) -> None:
    """SIGKILL, as from the kernel when memory is short, to a process that makes a shard for ``driver``."""
    deadline = time.monotonic() + _DEADLINE_S
    while driver.poll() is None:
        assert time.monotonic() < deadline
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::make_shard") and driver.pid in _ancestors(int(process.name)):
                os.kill(int(process.name), signal.SIGKILL)
                return
    raise AssertionError("the driver ended before a worker could be killed")


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(status.rpartition(")")[2].split()[1])
        yield pid
