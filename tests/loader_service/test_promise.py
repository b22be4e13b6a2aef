"""The promise: the same stream, byte for byte, whatever happens to the service. Real processes, real signals."""

import gc
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from loader_service.client import ClientOptions, LoaderClient, ServiceUnavailableError, StreamSpec
from loader_service.commands.digest import StreamDigest
from tests.processes import LoaderProcess, free_port, loader_processes
from tests.stores import make_store

SPEC = StreamSpec(batch_size=32, seed=42, drop_last=False)
OPTIONS = ClientOptions(stall_timeout_s=1.0, unavailable_timeout_s=30.0)
NUM_IMAGES = 2000
NUM_STEPS = 63


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(
        tmp_path_factory.mktemp("promise") / "store", num_train=NUM_IMAGES, images_per_shard=512, num_val=2
    )


@pytest.fixture(scope="module")
def undisturbed(store: Path) -> str:
    with loader_processes(store, 1) as replicas:
        return digest_of([replicas[0].target])


def digest_of(
    targets: list[str],
    *,
    spec: StreamSpec = SPEC,
    disturb: dict[int, Callable[[], None]] | None = None,
) -> str:
    """The digest of epoch 3; ``disturb[n]`` is called after n batches."""
    digest = StreamDigest()
    with LoaderClient(targets, OPTIONS) as client, client.stream(spec, epoch=3) as stream:
        for number, batch in enumerate(stream, 1):
            digest.add(batch)
            if disturb and number in disturb:
                disturb[number]()
    assert digest.num_images == NUM_IMAGES
    return digest.hexdigest()


@pytest.mark.parametrize("threads", [1, 4])
def test_replicas_threads_and_batch_sizes(store: Path, undisturbed: str, threads: int) -> None:
    with loader_processes(store, 3, "--threads", str(threads)) as replicas:
        targets = [replica.target for replica in replicas]
        for batch_size in (32, 128):
            spec = StreamSpec(batch_size=batch_size, seed=42, drop_last=False)
            assert digest_of(targets, spec=spec) == undisturbed
            assert digest_of(targets[:1], spec=spec) == undisturbed


def test_one_of_three_is_killed(store: Path, undisturbed: str) -> None:
    with loader_processes(store, 3) as replicas:
        targets = [replica.target for replica in replicas]
        assert digest_of(targets, disturb={25: lambda: replicas[1].send(signal.SIGKILL)}) == undisturbed


def test_one_of_three_stalls(store: Path, undisturbed: str) -> None:
    """A stopped process keeps its connections open and sends nothing: no error, just silence."""
    with loader_processes(store, 3) as replicas:
        targets = [replica.target for replica in replicas]
        assert digest_of(targets, disturb={20: lambda: replicas[0].send(signal.SIGSTOP)}) == undisturbed


def test_all_are_restarted_one_after_another(store: Path, undisturbed: str) -> None:
    ports = [free_port() for _ in range(3)]
    replicas = [LoaderProcess(store, port=port) for port in ports]

    def restart(i: int) -> None:
        replicas[i].send(signal.SIGTERM)
        assert replicas[i].wait() == 0
        replicas[i].end()
        replicas[i] = LoaderProcess(store, port=ports[i])

    try:
        targets = [replica.target for replica in replicas]
        disturb = {15: lambda: restart(0), 30: lambda: restart(1), 45: lambda: restart(2)}
        assert digest_of(targets, disturb=disturb) == undisturbed
    finally:
        for replica in replicas:
            replica.end()


def test_grows_from_one_to_four_and_shrinks_to_two(store: Path, undisturbed: str) -> None:
    """Targets that nothing listens on yet are taken up when something does."""
    ports = [free_port() for _ in range(4)]
    replicas = [LoaderProcess(store, port=ports[0])]

    def grow() -> None:
        replicas.extend(LoaderProcess(store, port=port) for port in ports[1:])

    def shrink() -> None:
        for replica in replicas[:2]:
            replica.send(signal.SIGTERM)

    try:
        targets = [f"127.0.0.1:{port}" for port in ports]
        assert digest_of(targets, disturb={15: grow, 35: shrink}) == undisturbed
    finally:
        for replica in replicas:
            replica.end()


def test_the_only_replica_dies_and_comes_back(store: Path, undisturbed: str) -> None:
    port = free_port()
    replicas = [LoaderProcess(store, port=port)]

    def replace() -> None:
        replicas[0].send(signal.SIGKILL)
        replicas[0].end()
        replicas[0] = LoaderProcess(store, port=port)

    try:
        assert digest_of([replicas[0].target], disturb={10: replace, 40: replace}) == undisturbed
    finally:
        replicas[0].end()


def test_two_trainers_make_the_stream_of_one(store: Path, undisturbed: str) -> None:
    """Rank 0 and rank 1 of a world of two, over three replicas of which one is killed."""
    digest = StreamDigest()
    with loader_processes(store, 3) as replicas:
        targets = [replica.target for replica in replicas]
        specs = [replace(SPEC, rank=rank, world_size=2) for rank in range(2)]
        with LoaderClient(targets, OPTIONS) as left, LoaderClient(targets, OPTIONS) as right:
            with left.stream(specs[0], epoch=3) as a, right.stream(specs[1], epoch=3) as b:
                for number, halves in enumerate(zip(a, b, strict=True)):
                    for half in halves:
                        digest.add(half)
                    if number == 20:
                        replicas[2].send(signal.SIGKILL)
    assert digest.hexdigest() == undisturbed


def test_none_left(store: Path) -> None:
    options = ClientOptions(unavailable_timeout_s=1.5, stall_timeout_s=1.0)
    with loader_processes(store, 1) as replicas, LoaderClient([replicas[0].target], options) as client:
        with client.stream(SPEC) as stream:
            next(stream)
            replicas[0].send(signal.SIGKILL)
            with pytest.raises(ServiceUnavailableError, match=rf"no batch for 1\.5 s: {replicas[0].target}"):
                for _ in stream:
                    pass


def test_comes_back_at_step_k(store: Path, undisturbed: str) -> None:
    digest = StreamDigest()
    with loader_processes(store, 2) as replicas:
        targets = [replica.target for replica in replicas]
        for first, last in ((0, 20), (20, 21), (21, NUM_STEPS)):
            with LoaderClient(targets, OPTIONS) as client, client.stream(SPEC, epoch=3, step=first) as stream:
                for _ in range(last - first):
                    digest.add(next(stream))
    assert digest.hexdigest() == undisturbed


def test_sigterm_lets_streams_finish(store: Path) -> None:
    """A request under way when SIGTERM comes is served to its end; the process then exits with 0."""
    with loader_processes(store, 1, "--drain-s", "20") as replicas:
        options = ClientOptions(lease_steps=16, prefetch_steps=16, streams_per_replica=1)
        with LoaderClient([replicas[0].target], options) as client, client.stream(SPEC) as stream:
            # The first lease is a single step, to see how fast the replica is; the next ones are long.
            batches = [next(stream) for _ in range(2)]
            replicas[0].send(signal.SIGTERM)
            batches.append(next(stream))
            assert [batch.step for batch in batches] == [0, 1, 2]
        assert replicas[0].wait() == 0


def test_failures_do_not_keep_a_stream_alive(store: Path) -> None:
    """A stream that has ended is freed with its arrays, though calls failed, without the garbage collector's help."""

    arrays: list[weakref.ref[npt.NDArray[Any]]] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        array = np.empty(shape, dtype)
        arrays.append(weakref.ref(array))
        return array

    def read(replicas: list[LoaderProcess]) -> None:
        options = ClientOptions(stall_timeout_s=1.0, unavailable_timeout_s=20.0)
        with LoaderClient([replica.target for replica in replicas], options) as client:
            with client.stream(SPEC, allocate=allocate) as stream:
                for number, _ in enumerate(stream):
                    if number == 10:
                        replicas[0].send(signal.SIGKILL)

    gc.collect()
    gc.disable()
    try:
        with loader_processes(store, 2) as replicas:
            read(replicas)
            assert [array for array in arrays if array() is not None] == []
    finally:
        gc.enable()
