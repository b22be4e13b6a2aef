"""Keeps the orders of recent epochs, and computes the next epoch's before it is asked for."""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from loader_service.order import epoch_order

Key = tuple[int, int, int]

_BYTES_PER_IMAGE = 8


class OrderCache:
    """The most recently used epoch orders, each computed once however many ask at the same time.

    At most ``max_bytes`` of them, and at least two: an epoch's and the next one's. One of ImageNet takes 10 MB.

    Asking for an epoch also starts computing the one after it on a thread of its own, so that no reader waits at an
    epoch's border.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self._max_bytes = max_bytes
        self._orders: OrderedDict[Key, Future[npt.NDArray[np.int64]]] = OrderedDict()
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="order")

    def get(self, num_images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """The order of ``epoch``, int64 [num_images], shared and not to be written to. Blocks until computed."""
        order = self._future((num_images, seed, epoch))
        self._future((num_images, seed, epoch + 1))
        return order.result()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _future(self, key: Key) -> Future[npt.NDArray[np.int64]]:
        with self._lock:
            if key not in self._orders:
                self._orders[key] = self._executor.submit(epoch_order, *key)
            self._orders.move_to_end(key)
            found = self._orders[key]
            size_bytes = sum(num_images for num_images, _, _ in self._orders) * _BYTES_PER_IMAGE
            while len(self._orders) > 2 and size_bytes > self._max_bytes:
                (num_images, _, _), _ = self._orders.popitem(last=False)
                size_bytes -= num_images * _BYTES_PER_IMAGE
            return found
