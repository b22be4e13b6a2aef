"""Keeps the orders of recent epochs, and computes the next epoch's before it is asked for."""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from loader_service.order import epoch_order

Key = tuple[int, int, int]

_MAX_ORDERS = 6


class OrderCache:
    """The most recently used epoch orders (at most six), each computed once however many ask at the same time.

    Asking for an epoch also starts computing the one after it on a thread of its own, so that no reader waits at an
    epoch's border.
    """

    def __init__(self) -> None:
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
            while len(self._orders) > _MAX_ORDERS:
                self._orders.popitem(last=False)
            return self._orders[key]
