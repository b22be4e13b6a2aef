"""A stream of batches over several replicas: leases out, parts in, batches in order. One thread a request under way."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import grpc

from loader_service.assembly import Allocate
from loader_service.errors import (
    AccessError,
    DataLossError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    OverloadedError,
    ServiceUnavailableError,
)
from loader_service.fetch import Fetch, Fetcher, Transport
from loader_service.leases import Lease, LeaseBook
from loader_service.replica import Connection, Replica
from loader_service.wire import Batch, Description, StreamSpec

_FIRST_BACKOFF_S = 0.05
_STEADY_AFTER_S = 1.0
_MAX_BACKOFF_S = 1.0
_IDLE_WAIT_S = 0.05
_CLOSE_TIMEOUT_S = 10.0


class BatchStream(Iterator[Batch]):
    """Iterates over batches in order; make one with ``LoaderClient.stream``.

    Requests run on background threads from construction on, at most ``window`` steps ahead of the consumer. For one
    consumer thread. Close it (or exhaust it, or use it as a context manager) to end the threads.

    ``next`` raises ServiceUnavailableError when no replica has delivered anything for the unavailable timeout,
    MismatchError when every replica serves something else than was described, DataLossError when every replica
    finds a record damaged, AccessError and InvalidRequestError as soon as a replica says so.
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
        allocate: Allocate,
        stall_timeout_s: float,
        unavailable_timeout_s: float,
        window: int,
        lease_size: int,
        streams_per_replica: int,
        resolve_interval_s: float,
        transport: Transport,
    ) -> None:
        self._spec = spec
        self._description = description
        self._find_replicas = find_replicas
        self._first_epoch = epoch
        self._allocate = allocate
        self._stall_timeout_s = stall_timeout_s
        self._unavailable_timeout_s = unavailable_timeout_s
        self._streams_per_replica = streams_per_replica
        self._resolve_interval_s = resolve_interval_s
        self._transport = transport
        self.steps_per_epoch = spec.num_steps(description.splits[spec.split])
        """Steps of each epoch."""
        self.wait_s = 0.0
        """Seconds that ``next`` has waited for batches, in all."""
        self._book = LeaseBook(
            num_positions=None if num_epochs is None else num_epochs * self.steps_per_epoch - step,
            steps_per_epoch=self.steps_per_epoch,
            first_step=step,
            window=window,
            lease_size=lease_size,
        )
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        """Notified when the consumer may have something to take, or to raise."""
        self._leasable = threading.Condition(self._lock)
        """Notified when there may be a lease to be had. Two, since a batch a millisecond would wake every worker."""
        self._closed = threading.Event()
        self._position = 0
        self._ready: dict[int, Batch] = {}
        self._active: dict[Lease, Fetch] = {}
        self._failures: dict[str, LoaderError] = {}
        self._refused: set[str] = set()
        self._known: set[str] = set()
        self._fatal: BaseException | None = None
        self._lost: dict[int, DataLossError] = {}
        self._progress_at = time.monotonic()
        self._threads = [threading.Thread(target=self._supervise, name="loader-supervisor", daemon=True)]
        self._start_workers()
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> Batch:
        started = time.monotonic()
        with self._lock:
            if self._closed.is_set():
                raise StopIteration
            while self._position not in self._ready:
                if self._book.is_finished or self._closed.is_set():
                    break
                failure = self._lost.get(self._position, self._fatal)
                if failure is not None:
                    raise failure
                now = time.monotonic()
                silence_s = now - max(started, self._progress_at)
                if silence_s >= self._unavailable_timeout_s:
                    raise ServiceUnavailableError(self._why_unavailable())
                self._arrived.wait(min(self._unavailable_timeout_s - silence_s, 1.0))
            batch = self._ready.pop(self._position, None)
            if batch is not None:
                self._book.consume(self._position)
                self._position += 1
                self._leasable.notify_all()
        self.wait_s += time.monotonic() - started
        if batch is None:
            self.close()
            raise StopIteration
        return batch

    def close(self) -> None:
        """Cancels what is under way and ends the threads, waiting a few seconds for them at most.

        Batches already taken stay valid.
        """
        with self._lock:
            self._closed.set()
            fetches = list(self._active.values())
            self._notify_all()
        for fetch in fetches:
            fetch.cancel()
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        with self._lock:
            self._ready.clear()

    def _why_unavailable(self) -> str:
        reasons = "; ".join(map(str, self._failures.values())) or "nothing arrived from " + ", ".join(self._known)
        return f"no batch for {self._unavailable_timeout_s:g} s: {reasons}"

    # What follows runs on the stream's own threads.

    def _notify_all(self) -> None:
        self._arrived.notify_all()
        self._leasable.notify_all()

    def _start_workers(self) -> None:
        for target, replica in self._find_replicas().items():
            if target in self._known:
                continue
            self._known.add(target)
            for number in range(self._streams_per_replica):
                thread = threading.Thread(
                    target=self._work, args=(replica,), name=f"loader-{target}-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _supervise(self) -> None:
        """Cancels calls that have stalled, and looks for new replicas from time to time."""
        resolved_at = time.monotonic()
        interval_s = min(self._stall_timeout_s / 4, 0.25)
        while True:
            self._closed.wait(interval_s)
            with self._lock:
                if self._closed.is_set():
                    return
                now = time.monotonic()
                stalled = [
                    fetch
                    for fetch in self._active.values()
                    if now - fetch.heard_at > self._stall_timeout_s and not fetch.is_stalled
                ]
                superseded = [fetch for lease, fetch in self._active.items() if self._book.is_superseded(lease)]
            for fetch in stalled:
                fetch.is_stalled = True
                fetch.cancel()
            for fetch in superseded:
                fetch.cancel()
            if now - resolved_at >= self._resolve_interval_s and not self._closed.is_set():
                resolved_at = now
                self._start_workers()

    def _work(self, replica: Replica) -> None:
        """Fetches leases from one replica until the stream ends; after a failure, backs off and connects anew."""
        backoff_s = 0.0
        try:
            while self._pause(backoff_s * random.uniform(0.5, 1.0)):  # clients cut off together come back apart
                connected_at = time.monotonic()
                try:
                    with replica.connect() as connection:
                        if self._fetch_leases(connection):
                            return
                    backoff_s = 0.0
                except LoaderError as error:
                    if not self._note_failure(replica, error):
                        return
                    if time.monotonic() - connected_at > _STEADY_AFTER_S:
                        backoff_s = 0.0
                    hint_s = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
                    backoff_s = min(max(2 * backoff_s, hint_s, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)
        except BaseException as error:  # our own mistake: the consumer must hear of it, not wait for ever
            with self._lock:
                self._fatal = error
                self._notify_all()
            raise

    def _fetch_leases(self, connection: Connection) -> bool:
        """Fetches leases over one connection; True when the stream has ended, False when a new connection is wanted."""
        with Fetcher(
            connection,
            spec=self._spec,
            description=self._description,
            allocate=self._allocate,
            transport=self._transport,
        ) as fetcher:
            while (lease := self._wait_for_lease(connection.target)) is not None:
                is_whole = self._fetch(connection, fetcher, lease)
                with self._lock:
                    self._failures.pop(connection.target, None)
                if not is_whole and fetcher.session is not None:
                    return False  # it is not known which of its slots are still being written
        return True

    def _pause(self, seconds: float) -> bool:
        if seconds:
            self._closed.wait(seconds)
        with self._lock:
            return not self._closed.is_set() and self._fatal is None

    def _note_failure(self, replica: Replica, error: LoaderError) -> bool:
        """Whether the worker should go on."""
        with self._lock:
            if self._closed.is_set():
                return False
            # Without tracebacks, its own or its context's: their frames would keep this stream's batches alive.
            error.__context__ = error.__cause__ = None
            self._failures[replica.target] = error.with_traceback(None)
            self._book.forget(replica.target)
            if isinstance(error, MismatchError):
                self._refused.add(replica.target)
                if self._refused >= self._known:
                    self._fatal = error
            elif isinstance(error, InvalidRequestError | AccessError):
                self._fatal = error
            self._notify_all()
            return self._fatal is None and replica.target not in self._refused

    def _wait_for_lease(self, target: str) -> Lease | None:
        with self._lock:
            while not self._closed.is_set() and self._fatal is None and not self._book.is_finished:
                lease = self._book.next_lease(target, time.monotonic())
                if lease is not None:
                    return lease
                self._leasable.wait(_IDLE_WAIT_S)
        return None

    def _fetch(self, connection: Connection, fetcher: Fetcher, lease: Lease) -> bool:
        """Receives one lease; whether its call ran to the end.

        Raises a LoaderError when the replica fails; the lease's rest is then up for others.
        """
        epoch, first_step = self._book.locate(lease.begin)
        fetch: Fetch | None = None
        try:
            last_step = first_step + lease.end - lease.begin
            fetch = fetcher.fetch(epoch=self._first_epoch + epoch, first_step=first_step, last_step=last_step)
            with self._lock:
                self._active[lease] = fetch
                if self._closed.is_set():
                    fetch.cancel()
            for position, batch in enumerate(fetch, lease.begin):
                with self._lock:
                    if self._book.complete(position, lease, time.monotonic()):
                        self._ready[position] = batch
                        self._progress_at = time.monotonic()
                        self._arrived.notify_all()
            return True
        except grpc.RpcError as error:
            is_stalled = fetch is not None and fetch.is_stalled
            if self._closed.is_set() or (self._book.is_superseded(lease) and not is_stalled):
                return False
            if is_stalled:
                raise ServiceUnavailableError(
                    f"{connection.target}: expected a message within {self._stall_timeout_s:g} s, found a stall"
                ) from None
            failure = connection.translate(error)
            if isinstance(failure, DataLossError):
                self._note_loss(connection, lease, failure)
                return False
            raise failure from None
        finally:
            with self._lock:
                self._active.pop(lease, None)
                self._book.end(lease)
                self._notify_all()

    def _note_loss(self, connection: Connection, lease: Lease, failure: DataLossError) -> None:
        """This replica's copy is damaged; another's may be sound. If none is, the consumer hears of it in its turn."""
        with self._lock:
            position = min(lease.missing, default=None)
            if position is not None and self._book.lose(position, connection.target) >= len(self._known):
                self._lost[position] = failure
                self._book.complete(position, lease, time.monotonic())
