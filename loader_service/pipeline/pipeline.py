"""Turns ranges of an epoch into messages: order, draws, read, decode, crop, pack. Bounded; the same bytes always."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Self

import cv2
import numpy as np

from loader_service.pipeline.crops import CropMaker
from loader_service.pipeline.decode import decoder_digest
from loader_service.pipeline.draws import PIPELINE_VERSION
from loader_service.pipeline.image_cache import DecodedCache
from loader_service.pipeline.metrics import Metrics
from loader_service.pipeline.outgoing_message import OutgoingMessage, writable_bytes
from loader_service.pipeline.plan import Job, Planner
from loader_service.pipeline.read_ahead import ReadAhead
from loader_service.pipeline.sharing import SharedMessages, StreamPopulation, UnwantedError
from loader_service.pipeline.slots import Slot, SlotPool
from loader_service.wire.codec import PartHeader, pack_header, pack_part, unpack_part
from loader_service.wire.errors import ServiceUnavailableError
from loader_service.wire.types import StepRange
from preprocess.store import Encoding, Store

_LOOK_INTERVAL_S = 0.1
"""How often a stream that waits for a message looks whether its reader has left."""


def pipeline_version(encoding: Encoding) -> str:
    """Version of all that turns a store of that encoding into a stream; two replicas with the same one send the same
    bytes."""
    return f"{PIPELINE_VERSION}.{decoder_digest(encoding)}"


class Pipeline:
    """Makes the messages of step ranges with ``num_threads`` decode threads, shared by all ranges being served.

    A message holds as many images as fit ``message_bytes`` (at least one). Each range has at most
    ``num_threads + 1`` messages made or being made ahead of its reader, so memory is bounded by
    (ranges being served) * (num_threads + 2) * message_bytes, plus ``cache_bytes`` of decoded images, plus, while
    several clients read one stream, ``share_bytes`` of recent messages. Up to ``read_ahead_bytes`` of records are asked
    of the kernel ahead of need, for its page cache.
    """

    def __init__(
        self,
        store: Store,
        *,
        num_threads: int,
        message_bytes: int,
        cache_bytes: int = 0,
        share_bytes: int = 0,
        read_ahead_bytes: int = 64_000_000,
        metrics: Metrics | None = None,
    ) -> None:
        cv2.setNumThreads(0)  # our threads are the parallelism
        self.store = store
        self.side = store.manifest.image.side
        self.version = pipeline_version(store.manifest.image.encoding)
        self.message_bytes = message_bytes
        cache = DecodedCache(cache_bytes)
        self._planner = Planner(store, message_bytes)
        self._crops = CropMaker(store, cache)
        self._population = StreamPopulation()
        self._metrics = metrics or Metrics()
        self._metrics.describe(store.fingerprint, self.version)
        self._metrics.watch_cache(cache)
        self._read_ahead = ReadAhead(store, cache, max_bytes=read_ahead_bytes, num_threads=num_threads)
        self._metrics.watch_disk(store.reads, lambda: self._read_ahead.num_bytes)
        self._ahead = num_threads + 1
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._share_bytes = share_bytes
        self._shared = SharedMessages(share_bytes, self._executor.submit)
        self._metrics.watch_shared(lambda: self._shared.num_shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the messages being made and ends the threads. The store stays the caller's."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._read_ahead.close()
        self._planner.close()

    @property
    def num_slots(self) -> int:
        """Slots of shared memory that one stream can use: those being made, and those that its reader still has."""
        return self._ahead + 3

    def messages(
        self,
        steps: StepRange,
        client: str = "",
        *,
        slots: SlotPool | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[OutgoingMessage]:
        """The packed ``Batch`` messages of ``steps``, in order. ``client`` says who asks: other clients of the same
        stream share the work.

        The stream ends early, and what was queued for it is not made, once ``is_wanted()`` is false: its reader has
        left. With ``slots``, pixels go into shared memory where they fit.

        Raises DataLossError, naming shard and key, when a stored record is damaged, and ServiceUnavailableError when
        the system cannot read one now or the session of ``slots`` ends: a stream that comes to its own end was
        complete.
        """
        if slots is not None and slots.slot_bytes < self._planner.images_per_message(steps) * steps.image_bytes:
            slots = None
        stream = replace(steps, first_step=0, last_step=0)
        # How many steps apart two clients can be and still share: what is kept reaches so far back.
        reach = self._share_bytes // max(steps.slice_bytes, 1)
        is_shared = self._population.note(stream, client, steps.first_step, reach=reach)
        if self._population.is_solitary:
            self._shared.forget()
        jobs = self._read_ahead.through(self._planner.jobs(steps))
        with suppress(UnwantedError):
            if slots is not None and not is_shared:
                yield from self._messages_in_slots(jobs, slots, is_wanted)
                return
            for message in self._shared_messages(jobs, stream, is_wanted, keep=is_shared):
                yield message if slots is None else _moved(message, _free_slot(slots, is_wanted))

    def _shared_messages(
        self, jobs: Iterator[Job], stream: StepRange, is_wanted: Callable[[], bool], *, keep: bool
    ) -> Iterator[OutgoingMessage]:
        ahead: deque[Future[OutgoingMessage]] = deque()

        def start(job: Job) -> None:
            key = (stream, job.step, job.offset)
            ahead.append(self._shared.get(key, lambda: self._make(job), keep=keep, is_wanted=is_wanted))

        for job in islice(jobs, self._ahead):
            start(job)
        while ahead:
            message = _result(ahead.popleft(), is_wanted)
            for job in islice(jobs, 1):
                start(job)
            yield message

    def _messages_in_slots(
        self, jobs: Iterator[Job], slots: SlotPool, is_wanted: Callable[[], bool]
    ) -> Iterator[OutgoingMessage]:
        ahead: deque[tuple[Slot, Future[OutgoingMessage]]] = deque()
        try:
            for job in jobs:
                slot = _free_slot(slots, is_wanted)
                ahead.append((slot, self._executor.submit(self._make_if, is_wanted, job, slot)))
                if len(ahead) == self._ahead:
                    message = _result(ahead[0][1], is_wanted)
                    ahead.popleft()
                    yield message
            while ahead:
                message = _result(ahead[0][1], is_wanted)
                ahead.popleft()
                yield message
        finally:
            # What was made and never sent: its slots go back once nobody writes to them any more.
            for slot, future in ahead:
                future.add_done_callback(partial(_give_back, slots, slot))

    def _make_if(self, is_wanted: Callable[[], bool], job: Job, slot: Slot) -> OutgoingMessage:
        if not is_wanted():
            raise UnwantedError
        return self._make(job, slot)

    def _make(self, job: Job, slot: Slot | None = None) -> OutgoingMessage:
        with self._metrics.make_seconds.time():
            return OutgoingMessage(self._packed(job, slot), len(job.indices))

    def _packed(self, job: Job, slot: Slot | None) -> bytes:
        steps = job.range
        shape = (len(job.indices), steps.spec.num_crops, steps.crop_size, steps.crop_size, 3)
        part = PartHeader(
            epoch=steps.epoch,
            step=job.step,
            offset=job.offset,
            slice_size=job.slice_size,
            shape=shape,
            dtype=np.dtype(steps.spec.pixel_format),
            labels=np.zeros(len(job.indices), np.int64),
            indices=job.indices,
            colour_shifts=job.colour_shifts,
            slot=slot.number if slot is not None else 0,
            generation=slot.generation if slot is not None else 0,
        )
        if steps.spec.pixel_format == "float32":
            crops = np.empty(shape, np.uint8)
            self._crops.fill(job, crops, part.labels)
            finished = self._crops.finish(crops, job.colour_shifts)
            if slot is None:
                return pack_part(part, finished)
            np.copyto(slot.pixels[: finished.nbytes].view("<f4").reshape(shape), finished)
            return pack_header(part)
        if slot is not None:
            self._crops.fill(job, slot.pixels[: part.num_pixel_bytes].reshape(shape), part.labels)
            return pack_header(part)
        num_header_bytes = len(pack_header(part))
        message, memory = writable_bytes(num_header_bytes + part.num_pixel_bytes)
        self._crops.fill(job, memory[num_header_bytes:].reshape(shape), part.labels)
        memory[:num_header_bytes] = np.frombuffer(pack_header(part), np.uint8)  # with the labels now
        return message


def _result(future: Future[OutgoingMessage], is_wanted: Callable[[], bool]) -> OutgoingMessage:
    """The message, once it is made. Raises UnwantedError when nobody wants it any more."""
    while True:
        try:
            error = future.exception(_LOOK_INTERVAL_S)
        except TimeoutError:
            if not is_wanted():
                raise UnwantedError from None
            continue
        if isinstance(error, UnwantedError):
            # A new one: the future's own would keep the frames that it passes, which keep the future: and all memory of
            # the stream would wait for the garbage collector.
            raise UnwantedError
        return future.result()


def _free_slot(slots: SlotPool, is_wanted: Callable[[], bool]) -> Slot:
    """A slot to make a message in. Raises UnwantedError when nobody wants it any more, and ServiceUnavailableError when
    the session has ended though its reader has not left."""
    slot = slots.acquire(is_wanted)
    if slot is not None:
        return slot
    if is_wanted():
        raise ServiceUnavailableError("the shared-memory session has ended; connect again")
    raise UnwantedError


def _give_back(slots: SlotPool, slot: Slot, _: Future[OutgoingMessage]) -> None:
    slots.release(slot.number, slot.generation)


def _moved(message: OutgoingMessage, slot: Slot) -> OutgoingMessage:
    """A message that holds its pixels, with them in ``slot`` instead."""
    part, images = unpack_part(message.body)
    pixels = images.reshape(-1).view(np.uint8)
    np.copyto(slot.pixels[: pixels.size], pixels)
    return OutgoingMessage(pack_header(replace(part, slot=slot.number, generation=slot.generation)), message.num_images)
