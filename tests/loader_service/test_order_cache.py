"""Orders are computed once, ahead of need, and kept within bounds."""

import inspect
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loader_service.pipeline.order import epoch_order
from loader_service.pipeline.order_cache import OrderCache
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
Key = tuple[int, int, int]


class Compute:
    """Computes orders, notes which, and can be held up or fail."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.failures = 0

    def __call__(self, num_images: int, seed: int, epoch: int) -> Any:
        self.keys.append((num_images, seed, epoch))
        assert self.may_go_on.wait(60)
        if self.failures:
            self.failures -= 1
            raise MemoryError("for a moment")
        return epoch_order(num_images, seed, epoch)


@pytest.fixture
def computed() -> Compute:
    return Compute()


def test_each_is_computed_once_however_many_ask(computed: Compute) -> None:
    cache = OrderCache(compute=computed)
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda i: cache.get(100, i % 4, 0), range(64)))
    for i, order in enumerate(found):
        np.testing.assert_array_equal(order, epoch_order(100, i % 4, 0))
    cache.wait()
    for seed in range(4):
        cache.get(100, seed, 0)
        cache.wait()
    cache.close()
    assert len(computed.keys) == len(set(computed.keys)) == 8, "four streams, an epoch and the next one each"


def test_many_epochs_stay_within_the_bound_and_are_made_once_each(computed: Compute) -> None:
    cache = OrderCache(max_bytes=1000 * 4 * 4, compute=computed)
    for step in range(400):
        cache.get(1000, 7, step // 8)
        cache.wait()
        assert cache.size_bytes <= 1000 * 4 * 4
    assert computed.keys == [(1000, 7, epoch) for epoch in range(51)]
    cache.close()


def test_clients_epochs_apart_are_both_served(computed: Compute) -> None:
    """Two clients of one seed, each of which asks many times in an epoch."""
    cache = OrderCache(compute=computed)
    for step in range(40):
        for first_epoch in (0, 20):
            cache.get(1000, 7, first_epoch + step // 8)
            cache.wait()
    assert len(computed.keys) == len(set(computed.keys)) == 12
    cache.close()


def test_bounded_but_for_the_one_asked_for() -> None:
    cache = OrderCache(max_bytes=100 * 4 * 4)
    for seed in range(10):
        cache.get(100, seed, 0)
        cache.wait()
        assert cache.size_bytes <= 100 * 4 * 4
        cache.get(5000, seed, 0)
        assert cache.size_bytes == 5000 * 4, "5,000 images are over the bound and kept all the same"
    cache.close()


def test_seeds_at_the_bound_do_not_take_each_others_orders(computed: Compute) -> None:
    """There is room for five orders, and for no one's next."""
    cache = OrderCache(max_bytes=100 * 4 * 5, compute=computed)
    for _ in range(5):
        for seed in range(5):
            cache.get(100, seed, 0)
            cache.wait()
    current = [key for key in computed.keys if key[2] == 0]
    assert len(current) == len(set(current)) == 5
    cache.close()


def test_as_many_orders_of_imagenet_as_the_documents_say() -> None:
    found = re.search(r"\| (\d+) MiB: of (\d+) streams", (ROOT / "docs/operations.md").read_text("utf-8"))
    assert found is not None
    max_bytes = inspect.signature(OrderCache).parameters["max_bytes"].default
    assert max_bytes == int(found[1]) << 20
    assert max_bytes // (4 * 1_281_167) == int(found[2])


def test_what_nobody_asks_for_waits_for_what_somebody_does(computed: Compute) -> None:
    cache = OrderCache(compute=computed)
    computed.may_go_on.clear()
    with ThreadPoolExecutor(4) as readers:
        found = [readers.submit(cache.get, 100, seed, 0) for seed in range(4)]
        wait_until(lambda: cache.size_bytes == 4 * 100 * 4, "four orders")
        computed.may_go_on.set()
        for future in found:
            future.result(30)
    cache.wait()
    assert [key[2] for key in computed.keys[:4]] == [0] * 4
    cache.close()


def test_a_failure_is_not_kept(computed: Compute) -> None:
    cache = OrderCache(compute=computed)
    computed.failures = 1
    with pytest.raises(MemoryError):
        cache.get(100, 1, 0)
    np.testing.assert_array_equal(cache.get(100, 1, 0), epoch_order(100, 1, 0))
    cache.wait()
    computed.failures = 1
    cache.get(100, 1, 1)
    cache.wait()  # the next epoch's fails, before anybody has asked for it
    np.testing.assert_array_equal(cache.get(100, 1, 2), epoch_order(100, 1, 2))
    cache.close()
