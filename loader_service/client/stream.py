"""A stream of batches over several replicas, in order: what its consumer holds."""

import os
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

from loader_service.client.array_pool import ArrayPool
from loader_service.client.assembly import Allocate
from loader_service.client.delivery import Delivery
from loader_service.client.descriptions import Descriptions
from loader_service.client.fetch import Fetcher
from loader_service.client.leases import LeaseBook
from loader_service.client.options import ClientOptions
from loader_service.client.replica import Replica
from loader_service.client.workers import Workers
from loader_service.wire.types import Batch, Description, StreamSpec

_NUM_HELD = 4
"""Batches that a consumer may hold before arrays for new ones are made anew."""


class BatchStream(Iterator[Batch]):
    """Iterates over batches in order; make one with ``LoaderClient.stream``.

    Requests run on background threads from construction on, as far ahead of the consumer as ``options.prefetch_steps``
    or ``options.prefetch_bytes`` says. For one consumer thread. Close it (or exhaust it, or use it as a context
    manager) to end the threads; those of a stream that nobody refers to any more end by themselves, soon after.

    ``next`` raises ServiceUnavailableError when nothing has arrived from any replica for the unavailable timeout,
    MismatchError when every replica serves something else than was described, DataLossError when every replica
    finds a record damaged (or those that answer do, after the timeout), AccessError and InvalidRequestError as soon as
    a replica says so, and TypeError when ``allocate`` made an array that is not what it was asked for. It raises
    RuntimeError in a process that was forked since: threads stay behind in a fork.
    """

    def __init__(
        self,
        *,
        spec: StreamSpec,
        description: Description,
        find_replicas: Callable[[], dict[str, Replica]],
        epoch: int,
        step: int,
        num_epochs: int | None,
        allocate: Allocate | None,
        options: ClientOptions,
        descriptions: Descriptions,
    ) -> None:
        self.steps_per_epoch = spec.num_steps(description.splits[spec.split])
        """Steps of each epoch."""
        self._process = os.getpid()
        self.wait_s = 0.0
        """Seconds that ``next`` has waited for batches, in all."""
        window = options.window(spec.step_bytes(description.image_side))
        self._delivery = Delivery(
            LeaseBook(
                num_positions=None if num_epochs is None else num_epochs * self.steps_per_epoch - step,
                steps_per_epoch=self.steps_per_epoch,
                first_step=step,
                window=window,
                lease_size=min(options.lease_steps, description.limits.max_steps),
            ),
            stall_timeout_s=options.stall_timeout_s,
            unavailable_timeout_s=options.unavailable_timeout_s,
        )
        self._workers = Workers(
            self._delivery,
            owner=weakref.ref(self),
            fetch_from=partial(
                Fetcher,
                spec=spec,
                description=description,
                allocate=allocate or ArrayPool(lambda: window.size + _NUM_HELD),
                transport=options.transport,
                copy=options.copy or allocate is not None,
            ),
            find_replicas=find_replicas,
            first_epoch=epoch,
            options=options,
            descriptions=descriptions,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Batch:
        if self._process != os.getpid():
            raise RuntimeError("this stream was opened before a fork: open one in each process")
        started = time.monotonic()
        batch = self._delivery.take()
        self.wait_s += time.monotonic() - started
        if batch is None:
            self.close()
            raise StopIteration
        return batch

    def close(self) -> None:
        """Cancels what is under way and ends the threads, waiting a few seconds for them at most.

        Batches already taken stay valid.
        """
        if self._process == os.getpid():
            self._workers.close()
