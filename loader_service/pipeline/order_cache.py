"""Keeps the orders of the epochs being read, and computes the next epoch's before it is asked for."""

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from loader_service.pipeline.order import epoch_order

Key = tuple[int, int, int]
"""Number of images, seed, epoch."""
Order = npt.NDArray[np.uint32] | npt.NDArray[np.int64]

_MAX_PER_STREAM = 4
"""An epoch's order and the next one's, of two clients that are epochs apart."""
_IDLE_S = 60.0
"""An order that nobody has asked for so long may make room for one that nobody has asked for yet."""


@dataclass(eq=False)
class _Entry:
    order: Future[Order]
    asked_at: float
    was_asked: bool
    num_waiting: int = 0

    @property
    def has_failed(self) -> bool:
        return self.order.done() and self.order.exception() is not None


class OrderCache:
    """The orders last asked for, each computed once however many ask at the same time.

    At most ``max_bytes`` of them, besides those that somebody waits for, and the one asked for last; at most four of
    one seed. One of ImageNet takes 5 MB.

    Asking for an epoch also starts computing the one after it, on a thread of its own, so that no reader waits at an
    epoch's border: when nobody waits for that thread, and there is room without what others lately asked for.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        """Those asked for last come last."""
        self._in_use: WeakValueDictionary[Key, Order] = WeakValueDictionary()
        """Orders that requests hold: dropping those would save no memory, and they would be made twice."""
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="order")

    def get(self, num_images: int, seed: int, epoch: int) -> Order:
        """The order of ``epoch``, [num_images], shared and not to be written to. Blocks until computed.

        Raises what computing it raised (MemoryError, say); it is tried anew when it is asked for again.
        """
        key = (num_images, seed, epoch)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.has_failed:
                entry = self._entries[key] = _Entry(self._start(key), 0.0, was_asked=True)
            entry.asked_at, entry.was_asked = time.monotonic(), True
            entry.num_waiting += 1
            self._entries.move_to_end(key)
            self._make_room(key)
        try:
            order = entry.order.result()
        finally:
            with self._lock:
                entry.num_waiting -= 1
        with self._lock:
            self._in_use[key] = order
            self._prepare((num_images, seed, epoch + 1))
        return order

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self, key: Key) -> Future[Order]:
        held = self._in_use.get(key)
        if held is None:
            return self._executor.submit(_compact_order, key)
        future: Future[Order] = Future()
        future.set_result(held)
        return future

    def _make_room(self, key: Key) -> None:
        """Drops what ``key`` displaces. Of its own stream: what is behind, then what was not asked for for longest.
        Of all: what was never asked for, then the same."""
        stream = [known for known in self._entries if known[:2] == key[:2] and not self._entries[known].num_waiting]
        stream.sort(key=self._is_behind, reverse=True)
        for oldest in stream[: max(len(stream) - _MAX_PER_STREAM, 0)]:
            self._drop(oldest)
        unused = [known for known, entry in self._entries.items() if known != key and not entry.num_waiting]
        unused.sort(key=lambda known: self._entries[known].was_asked)
        while unused and self._size_bytes() > self._max_bytes:
            self._drop(unused.pop(0))

    def _is_behind(self, key: Key) -> bool:
        """Whether whoever read this epoch has gone on to the next one."""
        following = self._entries.get((*key[:2], key[2] + 1))
        return following is not None and following.was_asked

    def _prepare(self, key: Key) -> None:
        """Starts computing an order that nobody waits for yet, unless that would take something from others."""
        now = time.monotonic()
        if key in self._entries or not all(entry.order.done() for entry in self._entries.values()):
            return
        idle = [known for known, entry in self._entries.items() if now - entry.asked_at > _IDLE_S]
        while idle and self._size_bytes() + _size_bytes(key) > self._max_bytes:
            self._drop(idle.pop(0))
        if self._size_bytes() + _size_bytes(key) <= self._max_bytes:
            self._entries[key] = _Entry(self._start(key), now, was_asked=False)
            self._make_room(key)

    def _drop(self, key: Key) -> None:
        self._entries.pop(key).order.cancel()

    def _size_bytes(self) -> int:
        return sum(map(_size_bytes, self._entries))


def _size_bytes(key: Key) -> int:
    return key[0] * _word(key).itemsize


def _word(key: Key) -> np.dtype[np.uint32] | np.dtype[np.int64]:
    """The smallest type of ours that holds every index."""
    return np.dtype(np.uint32) if key[0] <= 1 << 32 else np.dtype(np.int64)


def _compact_order(key: Key) -> Order:
    return epoch_order(*key).astype(_word(key), copy=False)  # type: ignore[return-value]  # of two types, either
