"""Keeps the orders of the epochs being read, and computes the next epoch's before it is asked for."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader_service.pipeline.order import epoch_order

Key = tuple[int, int, int]
"""Number of images, seed, epoch."""
Order = npt.NDArray[np.uint32] | npt.NDArray[np.int64]


@dataclass(eq=False)
class _Entry:
    order: Future[Order]
    is_behind: bool = False
    """Whether the epoch after it has been asked for since."""
    has_prepared: bool = False
    """Whether it has had the epoch after it computed: once, so that one which was dropped is left to who asks."""

    @property
    def has_failed(self) -> bool:
        return self.order.done() and self.order.exception() is not None


class OrderCache:
    """The orders asked for last, up to ``max_bytes`` and at least one; each computed once however many ask at a time.

    One of ImageNet takes 5 MB, one of 14.2 million images 57 MB. Asking for an epoch also starts computing the one
    after it, on a thread of its own, so that no reader waits at an epoch's border: when nobody waits for that thread,
    and there is room without what others read.
    """

    def __init__(
        self, max_bytes: int = 1 << 29, compute: Callable[[int, int, int], npt.NDArray[np.int64]] = epoch_order
    ) -> None:
        self._max_bytes, self._compute = max_bytes, compute
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        """Those asked for last come last."""
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="order")

    @property
    def size_bytes(self) -> int:
        """Memory of the orders that are kept."""
        with self._lock:
            return self._size()

    def get(self, num_images: int, seed: int, epoch: int) -> Order:
        """The order of ``epoch``, [num_images], shared and not to be written to. Blocks until computed.

        Raises what computing it raised (MemoryError, say); it is tried anew when it is asked for again.
        """
        key = (num_images, seed, epoch)
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.has_failed:
                entry = self._start(key)
            entry.is_behind = False
            self._entries.move_to_end(key)
            before = self._entries.get((num_images, seed, epoch - 1))
            if before is not None and not entry.has_prepared:
                before.is_behind = True
            self._make_room(0, lambda known: known.is_behind)
            self._make_room(0, lambda known: known is not entry)
        order = entry.order.result()
        with self._lock:
            if not entry.has_prepared:
                self._prepare(entry, (num_images, seed, epoch + 1))
        return order

    def wait(self) -> None:
        """Returns when no order is being computed."""
        self._executor.submit(lambda: None).result()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self, key: Key) -> _Entry:
        entry = self._entries[key] = _Entry(self._executor.submit(self._compact_order, key))
        return entry

    def _prepare(self, entry: _Entry, following: Key) -> None:
        """Starts computing an order that nobody waits for yet, unless that would take something from others."""
        if not all(known.order.done() for known in self._entries.values()):
            return
        entry.has_prepared = True
        if following not in self._entries:
            self._make_room(_size_bytes(following), lambda known: known.is_behind)
            if self._size() + _size_bytes(following) <= self._max_bytes:
                self._start(following)
                self._entries.move_to_end(following, last=False)  # nobody has asked for it: the first to go

    def _make_room(self, size_bytes: int, may_go: Callable[[_Entry], bool]) -> None:
        """Drops orders that may go, those not asked for for longest first, until ``size_bytes`` more would fit."""
        for key, entry in list(self._entries.items()):
            if self._size() + size_bytes > self._max_bytes and may_go(entry):
                del self._entries[key]

    def _size(self) -> int:
        return sum(map(_size_bytes, self._entries))

    def _compact_order(self, key: Key) -> Order:
        return self._compute(*key).astype(_word(key), copy=False)  # type: ignore[return-value]  # of two types, either


def _size_bytes(key: Key) -> int:
    return key[0] * _word(key).itemsize


def _word(key: Key) -> np.dtype[np.uint32] | np.dtype[np.int64]:
    """The smallest type of ours that holds every index."""
    return np.dtype(np.uint32) if key[0] <= 1 << 32 else np.dtype(np.int64)
