"""What a task checks of the machine it finds itself on, and what the driver does with tasks that cannot succeed."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from preprocess.errors import PreprocessError
from preprocess.images.decode import decoder_versions
from preprocess.images.probe import images_digest
from preprocess.job.cluster import Cluster, start_ray
from preprocess.job.shard import ShardWork, make_shard
from preprocess.sources import SourceOptions, read_source
from preprocess.store import ImageSpec


@pytest.fixture
def work(small_folder: Path, tmp_path: Path) -> ShardWork:
    (tmp_path / "store/shards").mkdir(parents=True)
    return ShardWork(
        store=str(tmp_path / "store"),
        root=str(small_folder),
        split="val",
        stem="val-00000",
        images=read_source(str(small_folder), SourceOptions(), map).splits["val"],
        image=ImageSpec(side=16),
        max_pixels=10**6,
        decoders=decoder_versions(),
        probe=None,
    )


def test_a_machine_with_other_decoders_is_refused(work: ShardWork) -> None:
    with pytest.raises(PreprocessError, match="expected the driver's pillow 1, found pillow"):
        make_shard(replace(work, decoders="pillow 1"))


def test_a_machine_whose_libraries_were_built_otherwise_is_refused(work: ShardWork) -> None:
    digest = images_digest(work.image)
    with pytest.raises(
        PreprocessError, match=f"same versions built otherwise: .* they make {digest}, where the driver"
    ):
        make_shard(replace(work, probe="0123456789abcdef"))
    assert make_shard(replace(work, probe=digest)).num_images == 12
    assert replace(work, probe=digest).key() != work.key()


def test_a_machine_that_does_not_share_the_store_is_refused(work: ShardWork, tmp_path: Path) -> None:
    with pytest.raises(PreprocessError, match="expected the store that the driver began at"):
        make_shard(replace(work, store=str(tmp_path / "elsewhere")))
    assert not (tmp_path / "elsewhere").exists()


def test_a_machine_that_does_not_share_the_source_is_refused(work: ShardWork, tmp_path: Path) -> None:
    with pytest.raises(PreprocessError, match="found no folder; share it, or give a URL"):
        make_shard(replace(work, root=str(tmp_path / "elsewhere")))


def test_a_repeated_task_does_nothing(work: ShardWork) -> None:
    first = make_shard(work)
    made = {path: path.stat().st_mtime_ns for path in Path(work.store).rglob("*")}
    again = make_shard(work)
    assert (again.num_images, again.bad_images) == (first.num_images, first.bad_images)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def _die(work: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return work


def _fail(work: int) -> int:
    raise ZeroDivisionError(f"a fault of ours: {work}")


def _double(work: int) -> int:
    return 2 * work


@pytest.mark.usefixtures("local_ray")
def test_a_task_whose_workers_always_die_ends_the_run() -> None:
    cluster = Cluster(address=None, workers=None, memory_bytes=1 << 20)
    with pytest.raises(PreprocessError, match="worker died 6 times"):
        list(cluster.map(_die, [1]))


@pytest.mark.usefixtures("local_ray")
def test_our_own_faults_keep_their_traceback() -> None:
    cluster = Cluster(address=None, workers=None, memory_bytes=1 << 20)
    with pytest.raises(ZeroDivisionError, match="a fault of ours: 1"):
        list(cluster.map(_fail, [1]))


@pytest.mark.usefixtures("local_ray")
def test_work_is_taken_only_as_there_is_room() -> None:
    taken = 0

    def work() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    cluster = Cluster(address=None, workers=None, memory_bytes=1 << 20)
    assert next(cluster.map(_double, work())) >= 0
    assert 0 < taken <= 2 * cluster.num_cpus


@pytest.mark.usefixtures("local_ray")
def test_a_task_that_needs_more_memory_than_there_is() -> None:
    with pytest.raises(PreprocessError, match="--task-memory-bytes: expected a node with"):
        Cluster(address=None, workers=None, memory_bytes=1 << 50).connect()


@pytest.fixture
def _other_tests_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Ray that other tests of this process share stays."""
    monkeypatch.setattr("ray.shutdown", lambda: None)


@pytest.mark.usefixtures("_other_tests_ray")
def test_a_ray_that_starts_slowly_is_started_again() -> None:
    """On a busy machine, or from a cold disk: Ray gives up after 30 seconds."""
    outcomes: list[Exception | str] = [RuntimeError("The current node timed out during startup."), "started"]
    assert start_ray(partial(_outcome, outcomes)) == "started"
    assert outcomes == []


@pytest.mark.usefixtures("_other_tests_ray")
def test_a_ray_that_cannot_start_is_not() -> None:
    slow = RuntimeError("The current node timed out during startup.")
    several: list[list[Exception | str]] = [[slow, slow, slow, "started"], [OSError("no space"), "started"]]
    for outcomes in several:
        with pytest.raises((RuntimeError, OSError)):
            start_ray(partial(_outcome, outcomes))
        assert outcomes == ["started"]


def _outcome(outcomes: list[Exception | str]) -> str:
    outcome = outcomes.pop(0)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
