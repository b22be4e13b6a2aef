"""The feed: batches in order on each device, errors and interruptions reach the step, threads end."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from loader_service.client import Batch
from tests.trainer.conftest import CPU_PAIR
from trainer.data.feed import Feed

CPU = torch.device("cpu")


def batches(count: int) -> Iterator[Batch]:
    for step in range(count):
        yield Batch(
            epoch=0,
            step=step,
            images=np.full((2, 4, 4, 3), step, np.uint8),
            labels=np.array([step, step + 1]),
            indices=np.array([step, step + 1]),
            colour_shifts=np.full((2, 3), step, np.float32),
        )


def test_batches_arrive_in_order_once_a_device() -> None:
    with Feed(batches(5), CPU_PAIR) as feed:
        found = list(feed)
    assert [batch.step for batch in found] == [0, 1, 2, 3, 4]
    for batch in found:
        assert list(batch.images) == [CPU]
        assert (batch.images[CPU] == batch.step).all()
        assert (batch.shifts[CPU] == batch.step).all()
        assert batch.labels.tolist() == batch.indices.tolist() == [batch.step, batch.step + 1]


def test_an_exhausted_feed_stays_exhausted() -> None:
    with Feed(batches(1), CPU_PAIR) as feed:
        assert len(list(feed)) == 1
        assert list(feed) == []


def test_it_reads_ahead_only_as_far_as_its_depth() -> None:
    taken = []

    def counted() -> Iterator[Batch]:
        for batch in batches(100):
            taken.append(batch.step)
            yield batch

    with Feed(counted(), CPU_PAIR, depth=2) as feed:
        assert next(feed).step == 0
        threading.Event().wait(0.2)
        assert len(taken) <= 5  # one taken, two ready, one in hand, one being asked for


def test_an_error_in_the_thread_is_raised_in_the_step() -> None:
    def failing() -> Iterator[Batch]:
        yield from batches(1)
        raise OSError("the stream broke")

    with Feed(failing(), CPU_PAIR) as feed:
        assert next(feed).step == 0
        with pytest.raises(OSError, match="the stream broke"):
            next(feed)


def test_an_interruption_ends_a_wait() -> None:
    release = threading.Event()

    def silent() -> Iterator[Batch]:
        release.wait(20)
        yield from ()

    deadline = time.monotonic() + 0.1
    with Feed(silent(), CPU_PAIR, interrupted=lambda: time.monotonic() > deadline) as feed:
        assert list(feed) == []
        release.set()


def test_closing_ends_the_thread_while_batches_are_left() -> None:
    with Feed(batches(1000), CPU_PAIR) as feed:
        next(feed)
    assert not any(thread.name == "feed" for thread in threading.enumerate())
