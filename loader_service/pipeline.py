"""Turns ranges of an epoch into messages: order, draws, read, decode, crop, pack. Bounded; the same bytes always."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from loader_service.augment import PIPELINE_VERSION, Draws, colour_scales, colour_shifts, draw
from loader_service.cache import DecodedCache
from loader_service.decode import Decoder, UInt8, copy_crop, decoder_digest
from loader_service.errors import DataLossError
from loader_service.messages import OutgoingMessage
from loader_service.metrics import Metrics
from loader_service.orders import OrderCache
from loader_service.shared_memory_server import Slot, SlotPool
from loader_service.sharing import SharedMessages, StreamPopulation
from loader_service.wire import ColourScale, Message, Part, PixelFormat, View, pack_header, pack_part, unpack_part
from preprocess.errors import DamagedRecordError
from preprocess.store import Encoding, Store

NUM_CROPS: dict[View, int] = {"train": 1, "centre": 1, "ten_crop": 10, "full": 1}


@dataclass(frozen=True, kw_only=True)
class StepRange:
    """Steps [first_step, last_step) of one epoch, and positions [slice_begin, slice_end) of each: a valid request."""

    split: str
    view: View
    crop_size: int
    shuffle: bool
    seed: int
    epoch: int
    batch_size: int
    first_step: int
    last_step: int
    slice_begin: int
    slice_end: int
    colour_std: float
    colour_scale: ColourScale
    pixel_format: PixelFormat


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One message's worth of work."""

    range: StepRange
    step: int
    offset: int
    slice_size: int
    indices: npt.NDArray[np.int64]
    tops: list[int]
    lefts: list[int]
    mirrors: list[bool]
    colour_shifts: npt.NDArray[np.float32]


def pipeline_version(encoding: Encoding) -> str:
    """Version of all that turns a store of that encoding into a stream; two replicas with the same one send the same
    bytes."""
    return f"{PIPELINE_VERSION}.{decoder_digest(encoding)}"


class Pipeline:
    """Makes the messages of step ranges with ``num_threads`` decode threads, shared by all ranges being served.

    A message holds as many images as fit ``message_bytes`` (at least one). Each range has at most
    ``num_threads + 1`` messages made or being made ahead of its reader, so memory is bounded by
    (ranges being served) * (num_threads + 2) * message_bytes, plus ``cache_bytes`` of decoded images, plus, while
    several clients read one stream, ``share_bytes`` of recent messages.
    """

    def __init__(
        self,
        store: Store,
        *,
        num_threads: int,
        message_bytes: int,
        cache_bytes: int = 0,
        share_bytes: int = 0,
        metrics: Metrics | None = None,
    ) -> None:
        cv2.setNumThreads(0)  # our threads are the parallelism
        self.store = store
        self.side = store.manifest.image.side
        self.version = pipeline_version(store.manifest.image.encoding)
        self.message_bytes = message_bytes
        self._orders = OrderCache()
        self._cache = DecodedCache(cache_bytes)
        self._population = StreamPopulation()
        self._metrics = metrics or Metrics()
        self._metrics.describe(store.fingerprint, self.version)
        self._metrics.watch_cache(self._cache)
        self._local = threading.local()
        self._ahead = num_threads + 1
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        self._share_bytes = share_bytes
        self._shared = SharedMessages(share_bytes, self._executor.submit)
        self._metrics.watch_shared(lambda: self._shared.num_shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the messages being made and ends the threads. The store stays the caller's."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._orders.close()

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
    ) -> Iterator[Message]:
        """The packed ``Batch`` messages of ``steps``, in order. ``client`` says who asks: other clients of the same
        stream share the work.

        With ``slots``, pixels go into shared memory where they fit; then the stream waits for free slots for as long as
        ``is_wanted()``, and ends early after that.

        Raises DataLossError, naming shard and key, when a stored record is damaged.
        """
        if slots is not None and slots.slot_bytes < self._message_pixel_bytes(steps):
            slots = None
        stream = replace(steps, first_step=0, last_step=0)
        is_shared = self._population.note(stream, client, steps.first_step, reach=self._shared_steps(steps))
        if self._population.is_solitary:
            self._shared.forget()
        jobs = self._jobs(steps)
        if slots is not None and not is_shared:
            yield from self._messages_in_slots(jobs, slots, is_wanted)
            return
        for message in self._shared_messages(jobs, stream, keep=is_shared):
            if slots is None:
                yield message
                continue
            slot = slots.acquire(is_wanted)
            if slot is None:
                return
            yield _moved(message, slot)

    def _shared_messages(self, jobs: Iterator[_Job], stream: StepRange, *, keep: bool) -> Iterator[Message]:
        ahead: deque[Future[Message]] = deque()

        def start(job: _Job) -> None:
            key = (stream, job.step, job.offset)
            ahead.append(self._shared.get(key, lambda: self._make(job), keep=keep))

        for job in islice(jobs, self._ahead):
            start(job)
        while ahead:
            message = ahead.popleft().result()
            for job in islice(jobs, 1):
                start(job)
            yield message

    def _messages_in_slots(
        self, jobs: Iterator[_Job], slots: SlotPool, is_wanted: Callable[[], bool]
    ) -> Iterator[Message]:
        ahead: deque[tuple[Slot, Future[Message]]] = deque()
        try:
            for job in jobs:
                slot = slots.acquire(is_wanted)
                if slot is None:
                    return
                ahead.append((slot, self._executor.submit(self._make, job, slot)))
                if len(ahead) == self._ahead:
                    message = ahead[0][1].result()
                    ahead.popleft()
                    yield message
            while ahead:
                message = ahead[0][1].result()
                ahead.popleft()
                yield message
        finally:
            # What was made and never sent: its slots go back once nobody writes to them any more.
            for slot, future in ahead:
                future.add_done_callback(partial(_give_back, slots, slot))

    def _jobs(self, steps: StepRange) -> Iterator[_Job]:
        num_images = self.store.split(steps.split).num_images
        order = self._orders.get(num_images, steps.seed, steps.epoch) if steps.shuffle else None
        statistics = self.store.statistics
        scales = colour_scales(statistics.eigenvalues, unit=steps.colour_scale == "unit_eigenvalue")
        images_per_message = self._images_per_message(steps)
        for step in range(steps.first_step, steps.last_step):
            begin = step * steps.batch_size + steps.slice_begin
            end = min(step * steps.batch_size + steps.slice_end, num_images)
            begin = min(begin, end)
            indices = np.arange(begin, end, dtype=np.int64) if order is None else order[begin:end]
            draws = self._draws(indices, steps)
            shifts = colour_shifts(draws.alphas, scales, statistics.eigenvectors, steps.colour_std)
            tops, lefts, mirrors = draws.tops.tolist(), draws.lefts.tolist(), draws.mirrors.tolist()
            # A slice past the end of a short last step still gets its one, empty message.
            for offset in range(0, max(len(indices), 1), images_per_message):
                part = slice(offset, offset + images_per_message)
                yield _Job(
                    range=steps,
                    step=step,
                    offset=offset,
                    slice_size=len(indices),
                    indices=indices[part],
                    tops=tops[part],
                    lefts=lefts[part],
                    mirrors=mirrors[part],
                    colour_shifts=shifts[part],
                )

    def _draws(self, indices: npt.NDArray[np.int64], steps: StepRange) -> Draws:
        if steps.view == "train":
            return draw(indices, seed=steps.seed, epoch=steps.epoch, side=self.side, crop_size=steps.crop_size)
        centre = (self.side - steps.crop_size) // 2
        num_images = len(indices)
        return Draws(
            tops=np.full(num_images, centre),
            lefts=np.full(num_images, centre),
            mirrors=np.zeros(num_images, np.bool_),
            alphas=np.zeros((num_images, 3)),
        )

    def _images_per_message(self, steps: StepRange) -> int:
        return max(self.message_bytes // _image_bytes(steps), 1)

    def _shared_steps(self, steps: StepRange) -> int:
        """How many steps apart two clients can be and still share: what is kept reaches so far back."""
        return self._share_bytes // max((steps.slice_end - steps.slice_begin) * _image_bytes(steps), 1)

    def _message_pixel_bytes(self, steps: StepRange) -> int:
        return self._images_per_message(steps) * _image_bytes(steps)

    def _make(self, job: _Job, slot: Slot | None = None) -> Message:
        with self._metrics.make_seconds.time():
            return Message(self._packed(job, slot), len(job.indices))

    def _packed(self, job: _Job, slot: Slot | None) -> bytes:
        steps = job.range
        shape = (len(job.indices), NUM_CROPS[steps.view], steps.crop_size, steps.crop_size, 3)
        # Of images, so far, only shape and type are known.
        part = Part(
            epoch=steps.epoch,
            step=job.step,
            offset=job.offset,
            slice_size=job.slice_size,
            images=np.broadcast_to(np.zeros((), np.uint8), shape),
            labels=np.zeros(len(job.indices), np.int64),
            indices=job.indices,
            colour_shifts=job.colour_shifts,
            slot=slot.number if slot is not None else 0,
            generation=slot.generation if slot is not None else 0,
        )
        if steps.pixel_format == "float32":
            crops = np.empty(shape, np.uint8)
            self._fill(job, crops, part.labels)
            finished = self._finished(crops, job.colour_shifts)
            if slot is not None:
                np.copyto(slot.pixels[: finished.nbytes].view("<f4").reshape(shape), finished)
            return pack_part(replace(part, images=finished))
        if slot is not None:
            self._fill(job, slot.pixels[: part.images.size].reshape(shape), part.labels)
            return pack_part(part)
        message = OutgoingMessage(len(pack_header(part)), part.images.size)
        self._fill(job, message.pixels.reshape(shape), part.labels)
        return message.finish(pack_header(part))

    def _fill(self, job: _Job, crops: UInt8, labels: npt.NDArray[np.int64]) -> None:
        """Decodes and crops a job's images into ``crops`` [N, num_crops, H, W, 3], and their labels into ``labels``."""
        split, size = job.range.split, job.range.crop_size
        for i, index in enumerate(job.indices.tolist()):
            if job.range.view == "ten_crop":
                labels[i], image = self._window(split, index, 0, 0, self.side)
                _ten_crops(crops[i], image)
            else:
                labels[i], window = self._window(split, index, job.tops[i], job.lefts[i], size)
                copy_crop(crops[i, 0], window, job.mirrors[i])

    def _window(self, split: str, index: int, top: int, left: int, size: int) -> tuple[int, UInt8]:
        """Label of a stored image and the pixels of its window at (top, left), uint8 [size, size, 3]; they are valid
        until this thread's next call.
        """
        cached = self._cache.get(split, index)
        if cached is not None:
            label, pixels = cached
            return label, pixels[top : top + size, left : left + size]
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = Decoder(self.store.manifest.image)
        reader = self.store.split(split)
        try:
            label, record = reader.read(index)
        except DamagedRecordError as error:
            raise DataLossError(str(error)) from None
        try:
            if not self._cache.has_room(self.store.manifest.image.raw_size_bytes):
                return label, decoder.decode_window(record, top, left, size)
            pixels = decoder.decode(record)
        except ValueError as error:
            shard, position = reader.locate(index)
            file = self.store.path / reader.info.shards[shard].file
            raise DataLossError(f"{file}: key {position}: cannot be decoded: {error}") from None
        self._cache.offer(split, index, label, pixels)
        return label, pixels[top : top + size, left : left + size]

    def _finished(self, crops: UInt8, shifts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Centred and shifted crops: float32 [N, crops, H, W, 3]. The mean is its centre crop for every crop."""
        size = crops.shape[2]
        at = (self.side - size) // 2
        mean = self.store.statistics.mean_image[at : at + size, at : at + size]
        finished = crops.astype(np.float32)
        finished -= mean
        finished += shifts[:, None, None, None, :]
        return finished


def _give_back(slots: SlotPool, slot: Slot, _: Future[Message]) -> None:
    slots.release(slot.number, slot.generation)


def _moved(message: Message, slot: Slot) -> Message:
    """A message that holds its pixels, with them in ``slot`` instead."""
    part = unpack_part(message.body)
    pixels = part.images.reshape(-1).view(np.uint8)
    np.copyto(slot.pixels[: pixels.size], pixels)
    return Message(pack_part(replace(part, slot=slot.number, generation=slot.generation)), message.num_images)


def _image_bytes(steps: StepRange) -> int:
    """Bytes of one image's crops as they are sent."""
    pixel_bytes = 4 if steps.pixel_format == "float32" else 1
    return NUM_CROPS[steps.view] * steps.crop_size * steps.crop_size * 3 * pixel_bytes


def _ten_crops(out: UInt8, image: UInt8) -> None:
    """Four corners and the centre, then their mirror images (paper, section 4.1): ``out`` [10, crop, crop, 3]."""
    crop = out.shape[1]
    far = image.shape[0] - crop
    corners = ((0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2))
    for i, (top, left) in enumerate(corners):
        window = image[top : top + crop, left : left + crop]
        copy_crop(out[i], window, False)
        copy_crop(out[i + 5], window, True)
