"""Orders are computed once, ahead of need, and kept within bounds."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loader_service import orders
from loader_service.order import epoch_order
from loader_service.orders import OrderCache


def test_each_is_computed_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[int, int, int]] = []
    lock = threading.Lock()

    def counted(num_images: int, seed: int, epoch: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
        with lock:
            computed.append((num_images, seed, epoch))
        return epoch_order(num_images, seed, epoch)

    monkeypatch.setattr(orders, "epoch_order", counted)
    cache = OrderCache()
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda i: cache.get(100, i % 4, 0), range(64)))
    for i, order in enumerate(found):
        np.testing.assert_array_equal(order, epoch_order(100, i % 4, 0))
    cache.close()
    assert len(computed) == len(set(computed)) == 8, "four streams, an epoch and the next one each"


def test_bounded_but_for_one_stream() -> None:
    cache = OrderCache(max_bytes=100 * 8 * 4)
    for seed in range(10):
        cache.get(100, seed, 0)
        cache.get(5000, seed, 0)
    assert len(cache._orders) == 2, "an epoch of 5,000 images and the next one, over the bound and kept all the same"
    cache.close()
