"""Calls whose clients have left: their places are free at once, and nothing that was queued for them is made."""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from loader_service.client import LoaderClient, Security, StreamSpec
from loader_service.client.http2.calls import StreamCall
from loader_service.client.replica import Replica
from loader_service.client.shared_memory import SharedMemorySession
from loader_service.pipeline.outgoing_message import OutgoingMessage
from loader_service.pipeline.pipeline import Pipeline
from loader_service.pipeline.plan import Job
from loader_service.pipeline.slots import SlotPool
from loader_service.server.server import LoaderServer
from loader_service.wire.translate import range_to_request
from loader_service.wire.types import Description
from preprocess.store import Store
from tests.conftest import LIMITS
from tests.waiting import wait_until

NUM_CANCELLED = 5
SPEC = StreamSpec(batch_size=10, shuffle=False)


class GatedPipeline(Pipeline):
    """A pipeline that makes nothing until its gate is open."""

    gate: threading.Event
    made: list[int]
    """Steps of the messages that were made."""

    def _make(self, job: Job, *arguments: Any) -> OutgoingMessage:
        self.gate.wait(60)
        self.made.append(job.step)
        return super()._make(job, *arguments)


@contextmanager
def call_of(description: Description, target: str, steps: range, transport: str) -> Iterator[StreamCall]:
    with Replica(target=target, security=Security()).connect() as connection, ExitStack() as stack:
        token = None
        if transport == "shm":
            token = stack.enter_context(SharedMemorySession(description.shared_memory_socket)).token
        request = range_to_request(SPEC.steps(steps.start, steps.stop, epoch=0), description)
        call = connection.stream_batches(request, token)
        assert isinstance(call, StreamCall)
        yield call


@pytest.mark.parametrize("transport", ["grpc", "shm"])
def test_nothing_is_made_for_those_who_left(tiny_store: Path, transport: str) -> None:
    with (
        Store(tiny_store) as store,
        GatedPipeline(store, num_threads=1, message_bytes=100_000) as pipeline,
        LoaderServer(pipeline, "127.0.0.1:0", LIMITS) as server,
        ExitStack() as calls,
    ):
        pipeline.gate, pipeline.made = threading.Event(), []
        target = f"127.0.0.1:{server.port}"
        with LoaderClient([target]) as client:
            description = client.describe()
        honest = calls.enter_context(call_of(description, target, range(1), transport))
        received: list[int] = []
        readers = [threading.Thread(target=lambda: received.extend(message.size for message in honest))]
        readers[0].start()
        wait_until(lambda: server._streams.num_open == 1, "the honest call is at work")
        leaving = [
            calls.enter_context(call_of(description, target, range(1 + number, 3 + number), transport))
            for number in range(NUM_CANCELLED)
        ]
        readers += [threading.Thread(target=_read, args=(call,)) for call in leaving]
        for reader in readers[1:]:
            reader.start()
        wait_until(lambda: server._streams.num_open == 1 + NUM_CANCELLED, "all calls are open")
        for call in leaving:
            call.cancel()
        wait_until(lambda: server._streams.num_open == 1, "their places are free, though nothing was made")
        assert received == []
        pipeline.gate.set()
        for reader in readers:
            reader.join(300)
        late = calls.enter_context(call_of(description, target, range(9, 10), transport))
        assert len(list(late)) == len(received) == 1
        assert pipeline.made == [0, 9]


def _read(call: StreamCall) -> None:
    with suppress(grpc.RpcError):
        for _ in call:
            pass


def test_what_one_of_two_still_wants_is_made(tiny_store: Path) -> None:
    """They share a message: it is made for the one that stays, also when the other asked first."""
    with (
        Store(tiny_store) as store,
        GatedPipeline(store, num_threads=1, message_bytes=100_000, share_bytes=0) as pipeline,
    ):
        pipeline.gate, pipeline.made = threading.Event(), []
        has_left = threading.Event()
        steps = replace(SPEC.steps(3, 4, epoch=0), spec=replace(SPEC.whole(), crop_size=56))
        blocking = pipeline.messages(replace(steps, first_step=0, last_step=1), "third")
        threads = [threading.Thread(target=lambda: list(blocking))]
        threads[0].start()
        wait_until(lambda: len(pipeline._shared._making) == 1, "the only decode thread is busy")
        first: list[OutgoingMessage] = []
        second: list[OutgoingMessage] = []
        threads += [
            threading.Thread(
                target=lambda: first.extend(pipeline.messages(steps, "first", is_wanted=lambda: not has_left.is_set()))
            ),
            threading.Thread(target=lambda: second.extend(pipeline.messages(steps, "second"))),
        ]
        threads[1].start()
        wait_until(lambda: len(pipeline._shared._making) == 2, "the first has asked")
        threads[2].start()
        wait_until(lambda: pipeline._shared.num_shared == 1, "the second shares it")
        has_left.set()
        pipeline.gate.set()
        for thread in threads:
            thread.join(300)
        assert pipeline.made == [0, 3]
        assert len(second) == 1


class PausedPipeline(GatedPipeline):
    """Makes the first step; the others wait at the gate."""

    def _make(self, job: Job, *arguments: Any) -> OutgoingMessage:
        return super()._make(job, *arguments) if job.step else Pipeline._make(self, job, *arguments)


@pytest.mark.parametrize("has_slots", [True, False])
def test_what_was_held_for_those_who_left_is_freed_at_once(tiny_store: Path, has_slots: bool) -> None:
    """By whoever drops it last, and not by the next search for cycles, which may be hours away."""
    gc.collect()
    gc.disable()
    try:
        with Store(tiny_store) as store, PausedPipeline(store, num_threads=1, message_bytes=100_000) as pipeline:
            pipeline.gate, pipeline.made = threading.Event(), []
            wanted, slots = [True], SlotPool(8, 1 << 20)
            steps = replace(SPEC, crop_size=48).steps(0, 10, epoch=0)
            stream = pipeline.messages(steps, slots=slots if has_slots else None, is_wanted=lambda: wanted[0])
            next(stream)
            wanted[0] = False
            pipeline.gate.set()
            assert len(list(stream)) < 9
            slots.close()
            held = weakref.ref(stream), weakref.ref(slots)
            del stream, slots
            wait_until(lambda: [each() for each in held] == [None, None], "all that was held to be freed", 10)
    finally:
        gc.enable()
