"""What a stream makes of slow links, silent ones, lost ones, and of its consumer: real services, relays between."""

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from loader_service.client import ClientOptions, DataLossError, LoaderClient, ServiceUnavailableError, StreamSpec
from loader_service.client.discovery import Discovery
from loader_service.client.window import USUAL_STEPS
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import Store
from tests.conftest import LIMITS, serving
from tests.processes import free_port
from tests.relays import relaying
from tests.stores import make_store
from tests.waiting import wait_until

SPEC = StreamSpec(batch_size=10, seed=1)
IN_ORDER = StreamSpec(batch_size=16, shuffle=False)
ONE_MESSAGE = replace(LIMITS, message_bytes=2_000_000)
"""Of a batch of the whole store: 100 images of 56x56, 940,800 bytes."""


def threads_of(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


def test_slow_is_not_silent(tiny_store: Path) -> None:
    """A message, and a step, that take longer than both timeouts arrive, since their bytes do all the time."""
    options = ClientOptions(
        stall_timeout_s=3.0, unavailable_timeout_s=3.0, streams_per_replica=1, lease_steps=1, transport="grpc"
    )
    with serving(tiny_store, limits=ONE_MESSAGE) as target, relaying(target) as relay:
        with LoaderClient([relay.target], options) as client:
            client.describe()
            relay.bytes_per_s = 200_000
            assert 940_800 / relay.bytes_per_s > options.stall_timeout_s
            with client.stream(replace(SPEC, batch_size=100), num_epochs=None) as stream:
                assert next(stream).images.nbytes == 940_800


def test_the_same_bytes_again_and_again_are_silence(tiny_store: Path) -> None:
    """A replica whose answers all break off half-way delivers nothing, though bytes come from it."""
    options = ClientOptions(unavailable_timeout_s=2.0, transport="grpc")
    with serving(tiny_store, limits=ONE_MESSAGE) as target, relaying(target) as relay:
        with LoaderClient([relay.target], options) as client:
            client.describe()
            relay.cut_after_bytes = 300_000
            with client.stream(replace(SPEC, batch_size=100), num_epochs=None) as stream:
                with pytest.raises(ServiceUnavailableError, match="no batch for 2 s"):
                    next(stream)


SUSPENDED = """
import sys
from loader_service.client import LoaderClient
from loader_service.client import ClientOptions
from loader_service.client import StreamSpec
options = ClientOptions(unavailable_timeout_s=4.0, stall_timeout_s=20.0, transport="grpc")
with LoaderClient([sys.argv[1]], options) as client:
    for number, batch in enumerate(client.stream(StreamSpec(batch_size=10), num_epochs=30)):
        if number == 20:
            print("reading", flush=True)
"""


def test_a_client_that_was_stopped(tiny_store: Path) -> None:
    """The time in which it did not run is nobody's silence, although it was waiting when it was stopped."""
    with serving(tiny_store) as target, relaying(target) as relay:
        command = [sys.executable, "-c", SUSPENDED, relay.target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "reading\n"
                relay.is_open.clear()
                time.sleep(0.5)  # until it waits
                client.send_signal(signal.SIGSTOP)
                time.sleep(5.0)
                client.send_signal(signal.SIGCONT)
                time.sleep(0.5)
                relay.is_open.set()
                _, complaint = client.communicate(timeout=300)
                assert client.returncode == 0, complaint
            finally:
                client.kill()


@contextmanager
def name_service(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[str]]) -> Iterator[None]:
    """A service of the name ``loaders.test``; the real one is not ours to break."""
    real = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        if host != "loaders.test":
            return real(host, *arguments, **options)
        return [entry for address in answer() for entry in real(address, *arguments, **options)]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.mark.parametrize("how", ["hangs", "raises"])
def test_a_name_service_that_fails(tiny_store: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Meanwhile connections that are dead are still given up, and the stream can be closed."""
    is_failing, is_asked, is_over = threading.Event(), threading.Event(), threading.Event()

    def answer() -> list[str]:
        if is_failing.is_set():
            is_asked.set()
            if how == "raises":
                raise RuntimeError("a mistake")
            is_over.wait(60)
        return ["127.0.0.1"]

    options = ClientOptions(stall_timeout_s=1.0, resolve_interval_s=0.1, transport="grpc", unavailable_timeout_s=10.0)
    with serving(tiny_store) as target, relaying(target) as relay, name_service(monkeypatch, answer):
        with LoaderClient([f"dns:loaders.test:{relay.port}"], options) as client:
            with client.stream(SPEC, num_epochs=None) as stream:
                next(stream)
                is_failing.set()
                assert is_asked.wait(60)
                time.sleep(0.5)
                relay.forget_connections()
                for _ in range(2 * USUAL_STEPS):
                    next(stream)
            assert threads_of(f"loader-{relay.target}") == []
            is_over.set()
            wait_until(lambda: threads_of("loader-discovery") == [], "the look-up ends")


def test_addresses_that_are_gone_are_forgotten(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that come and go, each at an address of its own, leave no threads behind."""
    current = ["127.0.0.1", "127.0.0.2"]  # as the name service has it
    options = ClientOptions(resolve_interval_s=0.1)
    with serving(tiny_store) as target, name_service(monkeypatch, lambda: current):
        with LoaderClient([f"dns:loaders.test:{target.rpartition(':')[2]}"], options) as client:
            with client.stream(SPEC, num_epochs=None) as stream:
                for last in (3, 4, 5):
                    next(stream)
                    wait_until(lambda: len(threads_of(f"loader-{current[1]}")) == 2, "the new address is tried")
                    current[1] = f"127.0.0.{last}"
                    wait_until(lambda: len(threads_of("loader-127")) == 4, "two addresses are left")
                current.clear()  # the name service has nothing: no reason to give up what answers
                time.sleep(0.7)
                for _ in range(3 * USUAL_STEPS):
                    next(stream)
                assert len(threads_of("loader-127.0.0.1:")) == 2


def test_discovery_outlives_a_failure() -> None:
    answers: list[Any] = [ValueError("a mistake"), {}]

    def find() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    discovery = Discovery(find, 0.01)
    wait_until(lambda: discovery.poll() is None and discovery.failure != "", "a failure")
    assert discovery.failure == "looking for replicas: ValueError: a mistake"
    wait_until(lambda: discovery.poll() is not None, "an answer")
    assert discovery.failure == ""


def test_no_more_threads(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot be started now is started later, and the stream goes on with those there are."""
    real, refusals = threading.Thread.start, [1, 2, 3]

    def start(self: threading.Thread) -> None:
        if self.name.startswith("loader-127") and refusals and threads_of("loader-127"):
            refusals.pop()
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    options = ClientOptions(resolve_interval_s=0.1)
    with serving(tiny_store) as target, LoaderClient([target], options) as client:
        with client.stream(SPEC, num_epochs=None) as stream:
            next(stream)
            wait_until(lambda: len(threads_of(f"loader-{target}")) == 2, "the second worker")
            assert refusals == []
            for _ in range(2 * USUAL_STEPS):
                next(stream)


def test_a_loss_is_what_the_timeout_tells_of(tmp_path: Path) -> None:
    """A record that is damaged at every replica that answers, beside an address that never did."""
    store = make_store(tmp_path / "store", num_train=64)
    with serving(store) as target:
        (store / "shards" / "train-00000.lmdb").unlink()
        options = ClientOptions(unavailable_timeout_s=1.5)
        with LoaderClient([target, f"127.0.0.1:{free_port()}"], options) as client:
            with client.stream(IN_ORDER) as stream, pytest.raises(DataLossError, match="train-00000"):
                next(stream)


class DamagedPipeline(Pipeline):
    """A pipeline whose copy of some steps is damaged."""

    is_damaged: Callable[[int, int], bool] = staticmethod(lambda step, num_steps: False)
    on_step: Callable[[int], None] = staticmethod(lambda step: None)

    def messages(self, steps: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        for step in range(steps.first_step, steps.last_step):
            if self.is_damaged(step, steps.last_step - steps.first_step):
                raise DataLossError(f"step {step} is damaged")
            yield from super().messages(replace(steps, first_step=step, last_step=step + 1), *arguments, **options)
            self.on_step(step)


def test_damage_is_booked_where_it_is(tmp_path: Path) -> None:
    """One replica has lost a step that the other delivered meanwhile, and that one the next: all are to be had."""
    chosen: list[int] = []
    is_repeated = threading.Event()

    def is_damaged_there(step: int, num_steps: int) -> bool:
        if not chosen and num_steps == 2:
            chosen.append(step)
            assert is_repeated.wait(60)
            time.sleep(0.3)  # until the client has it from the other
        return step in chosen

    path = make_store(tmp_path / "store", num_train=1600)
    with (
        Store(path) as store,
        DamagedPipeline(store, num_threads=1, message_bytes=100_000) as there,
        DamagedPipeline(store, num_threads=1, message_bytes=100_000) as here,
        LoaderServer(there, "127.0.0.1:0", LIMITS) as first,
        LoaderServer(here, "127.0.0.1:0", LIMITS) as second,
    ):
        there.is_damaged = is_damaged_there
        here.is_damaged = lambda step, _: bool(chosen) and step == chosen[0] + 1
        here.on_step = lambda step: is_repeated.set() if step in chosen else None
        targets = [f"127.0.0.1:{server.port}" for server in (first, second)]
        options = ClientOptions(streams_per_replica=1, unavailable_timeout_s=20.0, stall_timeout_s=20.0)
        with LoaderClient(targets, options) as client, client.stream(IN_ORDER) as stream:
            assert [batch.step for batch in stream] == list(range(100))
        assert chosen


def test_a_stream_that_is_dropped_ends(loader_target: str) -> None:
    """Its threads end and its arrays are freed, without close and without the garbage collector's help."""
    arrays: list[weakref.ref[npt.NDArray[Any]]] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        array = np.empty(shape, dtype)
        arrays.append(weakref.ref(array))
        return array

    gc.collect()
    gc.disable()
    try:
        with LoaderClient([loader_target]) as client:
            for _ in client.stream(SPEC, num_epochs=None, allocate=allocate):
                break
            wait_until(lambda: threads_of(f"loader-{loader_target}") == [], "the workers end")
            del _
            wait_until(lambda: not any(array() is not None for array in arrays), "the arrays are freed")
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("allocate", "found"),
    [
        (lambda shape, dtype: np.empty(shape, np.float32), r"found float32 \[10, 56, 56, 3\]"),
        (lambda shape, dtype: np.empty((5, *shape[1:]), dtype), r"found uint8 \[5, 56, 56, 3\]"),
        (lambda shape, dtype: np.empty(shape[::-1], dtype).T, "found one with other flags: C_CONTIGUOUS : False"),
        (lambda shape, dtype: None, "found a NoneType"),
    ],
)
def test_an_array_that_was_not_asked_for(loader_target: str, allocate: Any, found: str) -> None:
    """It is the caller's mistake, and not a replica's: heard of at once."""
    with LoaderClient([loader_target]) as client, client.stream(SPEC, allocate=allocate) as stream:
        with pytest.raises(
            TypeError, match=rf"expected a writable C-contiguous array uint8 \[10, 56, 56, 3\], {found}"
        ):
            next(stream)
    assert list(islice(stream, 1)) == []
