"""A client of many replicas, and of some that say nothing: real services, which pace themselves."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loader_service.client import ClientOptions, LoaderClient, MismatchError, StreamSpec
from loader_service.client.replica import Connection
from loader_service.client.window import USUAL_STEPS
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import Store
from tests.conftest import LIMITS, serving
from tests.stores import make_store
from tests.waiting import wait_until

NUM_REPLICAS = 12
SPEC = StreamSpec(batch_size=10, seed=1)


class Together:
    """Opens once every one of so many replicas has two requests under way."""

    def __init__(self, num_replicas: int) -> None:
        self._num_replicas = num_replicas
        self._under_way: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.is_open = threading.Event()

    def enter(self, replica: int) -> None:
        with self._lock:
            self._under_way[replica] += 1
            if len(self._under_way) == self._num_replicas and min(self._under_way.values()) >= 2:
                self.is_open.set()
        self.is_open.wait(60)

    def leave(self, replica: int) -> None:
        with self._lock:
            self._under_way[replica] -= 1


class PacedPipeline(Pipeline):
    """A pipeline that sends nothing until all are at work."""

    replica: int
    together: Together

    def messages(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        self.together.enter(self.replica)
        try:
            yield from super().messages(*arguments, **options)
        finally:
            self.together.leave(self.replica)


@contextmanager
def fleet(path: Path, together: Together, count: int) -> Iterator[list[str]]:
    with ExitStack() as stack:
        targets = []
        for number in range(count):
            store = stack.enter_context(Store(path))
            pipeline = stack.enter_context(PacedPipeline(store, num_threads=1, message_bytes=100_000))
            pipeline.replica, pipeline.together = number, together
            server = stack.enter_context(LoaderServer(pipeline, "127.0.0.1:0", LIMITS))
            targets.append(f"127.0.0.1:{server.port}")
        yield targets


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("many") / "store", num_train=600, side=32)


def test_twelve_replicas_all_have_two_requests_under_way(store: Path) -> None:
    """Each sends its first message only when all have: a window that left one idle would never see a batch."""
    together = Together(NUM_REPLICAS)
    options = ClientOptions(stall_timeout_s=90.0, unavailable_timeout_s=90.0)
    with fleet(store, together, NUM_REPLICAS) as targets, LoaderClient(targets, options) as client:
        with client.stream(SPEC, num_epochs=2) as stream:
            batches = [(batch.epoch, batch.step) for batch in stream]
    assert together.is_open.is_set()
    assert batches == [(epoch, step) for epoch in range(2) for step in range(60)]


def test_a_consumer_that_does_not_wait_asks_for_no_more_than_the_usual(store: Path) -> None:
    """Twelve replicas, and nobody who takes a batch: eight steps are fetched, and not one for each of them."""
    together = Together(1)
    together.is_open.set()
    allocated = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
        allocated.append(shape)
        return np.empty(shape, dtype)

    with fleet(store, together, NUM_REPLICAS) as targets, LoaderClient(targets) as client:
        with client.stream(SPEC, num_epochs=None, allocate=allocate) as stream:
            ready = stream._delivery._ready
            wait_until(lambda: len(ready) == USUAL_STEPS, "eight steps")
            time.sleep(0.3)  # for those that would ask for more
            assert len(ready) == USUAL_STEPS
            assert len(allocated) <= USUAL_STEPS + 2  # a step that was late may be fetched twice


@contextmanager
def mute() -> Iterator[tuple[str, list[socket.socket]]]:
    """An address that accepts connections and says nothing; and those it has accepted, which are open until the end."""
    accepted: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", accepted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(300)
        for connection in accepted:
            connection.close()


def test_mute_addresses_hold_nothing_up(store: Path) -> None:
    """Two of three say nothing and are listed first: all of an epoch comes before the client has given either up."""
    with mute() as (first, _), mute() as (second, _), serving(store) as target:
        with LoaderClient([first, second, target]) as client, client.stream(SPEC) as stream:
            asked = {address: client._descriptions._answers[address] for address in (first, second)}
            assert [batch.step for batch in stream] == list(range(60))
            assert not any(answer.done() for answer in asked.values()), "both are still being waited for"
        assert all(answer.done() for answer in asked.values()), "closing the client ends these waits"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader-describe")]


def test_a_fleet_has_one_mean_image(store: Path) -> None:
    """A client's memory does not grow with its replicas by what they all say alike."""
    together = Together(1)
    together.is_open.set()
    with fleet(store, together, 3) as targets, LoaderClient(targets) as client:
        with client.stream(SPEC) as stream:
            assert len(list(stream)) == 60
        answers = [answer.result() for answer in client._descriptions._answers.values()]
    assert len({id(answer.mean_image) for answer in answers}) == len({id(answer.classes) for answer in answers}) == 1
    assert len({answer.shared_memory_socket for answer in answers}) == 3, "what is one replica's own stays its own"


def test_an_address_is_asked_once(store: Path) -> None:
    """However many streams and connections a client has."""
    with serving(store) as target:
        asked = []
        real = Connection.describe

        def describe(self: Connection, timeout_s: float) -> Any:
            asked.append(self.target)
            return real(self, timeout_s)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "describe", describe)
            with LoaderClient([target]) as client:
                for epoch in range(3):
                    with client.stream(SPEC, epoch=epoch) as stream:
                        assert len(list(stream)) == 60
        assert asked == [target]


def test_a_replica_that_differs_is_refused_and_named(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At once if it answers with the first, by the stream if it answers later: nothing of it is used either way."""
    other = make_store(tmp_path / "other", num_train=600, side=32, seed=9)
    with serving(store) as target, serving(other) as wrong:
        with LoaderClient([target]) as alone:
            expected = alone.describe()
        with LoaderClient([target, wrong]) as client, pytest.raises(MismatchError, match=wrong):
            client.describe()
        with LoaderClient([target, wrong]) as client:
            client._description = expected  # as if the other had not answered yet
            with client.stream(SPEC) as stream:
                refusal = f"refused: {wrong}: fingerprint: expected {expected.fingerprint}"
                wait_until(lambda: refusal in caplog.text, "the refusal")
                assert [batch.step for batch in stream] == list(range(60))
