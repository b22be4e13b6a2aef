"""Receives batches in a thread, pins them, and copies them to the devices on side streams, ahead of the step."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from loader_service.client import Batch
from loader_service.torch_adapter import pinned_array
from trainer.data.consumed import rows_of

POLL_S = 0.2
"""How often a waiting step looks whether it should stop."""
JOIN_TIMEOUT_S = 10.0
"""How long closing waits for a source that does not end; its thread then ends with the process."""
LEAVE_TIMEOUT_S = 0.3
"""The same where the process is about to end anyway: what has been trained is saved first."""


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """One step's images on the devices; the copies have been ordered before anything the receiver launches."""

    epoch: int
    step: int
    images: dict[torch.device, Tensor]
    """uint8 [N, H, W, 3], or [N, 10, H, W, 3], on each distinct device."""
    shifts: dict[torch.device, Tensor]
    """float32 [N, 3] on each distinct device."""
    labels: Tensor
    """int64 [N] on the first device."""
    indices: Tensor
    """int64 [N] on the CPU: indices in the split."""
    rows: bytes = b""
    """What a run's digest takes in of these images, where the feed was asked for it."""

    @property
    def num_images(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class _Copied:
    batch: DeviceBatch
    events: list[tuple[torch.device, Any]]
    host: Batch  # kept until the copies are done: pinned memory must outlive them


def allocator(devices: Sequence[torch.device]) -> Callable[[tuple[int, ...], np.dtype[Any]], Any]:
    """What the client should receive into: pinned memory when a GPU will read it, else ordinary memory."""
    if any(device.type == "cuda" for device in devices):
        return pinned_array
    return np.empty


class Feed:
    """Iterates over ``batches`` as :class:`DeviceBatch`, keeping up to ``depth`` of them ready. Owns its thread.

    ``batches`` is iterated in the thread alone. An exception there is raised from ``next()``. ``interrupted`` is
    asked while a step waits; when it says True, iteration ends early. Closing the feed calls ``close_source``, which
    should end a wait inside ``batches``. With ``digested``, batches have what a run's digest takes in of them.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        devices: Sequence[torch.device],
        *,
        depth: int = 2,
        digested: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
        close_source: Callable[[], None] = lambda: None,
    ) -> None:
        self._close_source = close_source
        self._batches = batches
        self._devices = list(dict.fromkeys(devices))
        self._first = devices[0]
        self._streams = {
            d: torch.cuda.Stream(d)  # type: ignore[no-untyped-call]
            for d in self._devices
            if d.type == "cuda"
        }
        self._ready: queue.Queue[_Copied | BaseException | None] = queue.Queue(maxsize=depth)
        self._closing = threading.Event()
        self._interrupted = interrupted
        self._digested = digested
        self._thread = threading.Thread(target=self._receive, name="feed", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(JOIN_TIMEOUT_S if kind is None else LEAVE_TIMEOUT_S)

    def __iter__(self) -> Iterator[DeviceBatch]:
        return self

    def __next__(self) -> DeviceBatch:
        while True:
            if self._interrupted():
                raise StopIteration
            with contextlib.suppress(queue.Empty):
                item = self._ready.get(timeout=POLL_S)
                break
        if item is None:
            self._ready.put(None)
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        for device, event in item.events:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(event)
            for tensor in (item.batch.images[device], item.batch.shifts[device]):
                tensor.record_stream(stream)
            if device == self._first:
                item.batch.labels.record_stream(stream)
        return item.batch

    def close(self, timeout_s: float | None = None) -> None:
        """Stops receiving, closes the source and joins the thread, waiting no longer than ``timeout_s`` for either.

        None means some seconds, or none to speak of when it was interrupted.
        """
        if timeout_s is None:
            timeout_s = LEAVE_TIMEOUT_S if self._interrupted() else JOIN_TIMEOUT_S
        self._closing.set()
        closing = threading.Thread(target=self._close_source, name="feed-close", daemon=True)
        closing.start()
        closing.join(timeout_s)
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        self._thread.join(timeout_s)

    def _receive(self) -> None:
        previous: _Copied | None = None
        try:
            for batch in self._batches:
                copied = self._copy(batch)
                if previous is not None:
                    for _, event in previous.events:
                        event.synchronize()  # only then may its pinned memory go
                previous = copied
                if not self._put(copied):
                    return
            self._put(None)
        except BaseException as error:  # whatever it is, the step must hear of it
            self._put(error)

    def _put(self, item: _Copied | BaseException | None) -> bool:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=POLL_S)
                return True
        return False

    def _copy(self, batch: Batch) -> _Copied:
        images, shifts = torch.from_numpy(batch.images), torch.from_numpy(batch.colour_shifts)
        labels = torch.from_numpy(batch.labels)
        on_images: dict[torch.device, Tensor] = {}
        on_shifts: dict[torch.device, Tensor] = {}
        events: list[tuple[torch.device, Any]] = []
        for device in self._devices:
            if device.type != "cuda":
                on_images[device], on_shifts[device] = images.to(device), shifts.to(device)
                continue
            with torch.cuda.stream(self._streams[device]):
                on_images[device] = images.to(device, non_blocking=True)
                on_shifts[device] = shifts.to(device, non_blocking=True)
                if device == self._first:
                    labels = labels.to(device, non_blocking=True)
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(self._streams[device])
            events.append((device, event))
        device_batch = DeviceBatch(
            epoch=batch.epoch,
            step=batch.step,
            images=on_images,
            shifts=on_shifts,
            labels=labels,
            indices=torch.from_numpy(batch.indices),
            rows=rows_of(batch) if self._digested else b"",
        )
        return _Copied(batch=device_batch, events=events, host=batch)
