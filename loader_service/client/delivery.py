"""What the threads of a stream share: leases, batches that have come, replicas that failed. No threads, no RPCs."""

import logging
import threading
import time
from collections import Counter

from loader_service.client.fetch import Fetch
from loader_service.client.leases import Lease, LeaseBook
from loader_service.wire.errors import (
    AccessError,
    DataLossError,
    InvalidRequestError,
    LoaderError,
    MismatchError,
    ServiceUnavailableError,
)
from loader_service.wire.types import Batch

log = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.05


class Delivery:
    """Between a consumer, the workers that fetch for it, and a supervisor. Thread-safe; the book is its own.

    A replica is known, by its address, from when it is found until it is found no more and has no worker left.
    """

    def __init__(self, book: LeaseBook, *, stall_timeout_s: float, unavailable_timeout_s: float) -> None:
        self._book = book
        self._stall_timeout_s = stall_timeout_s
        self._unavailable_timeout_s = unavailable_timeout_s
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        """Notified when the consumer may have something to take, or to raise."""
        self._leasable = threading.Condition(self._lock)
        """Notified when there may be a lease to be had. Two, since a batch a millisecond would wake every worker."""
        self.closed = threading.Event()
        self._fatal: BaseException | None = None
        # Positions: the next to be taken, those that are ready, lost somewhere, or broken off half-way.
        self._position = 0
        self._is_starved = False
        """Whether the consumer waits."""
        self._ready: dict[int, Batch] = {}
        self._losses: dict[int, DataLossError] = {}
        self._broken_off: dict[int, int] = {}
        """Bytes of a step that had come when an answer broke off: as many once more are no arrival."""
        self._num_arrivals = 0
        """Grows when something arrives that had not arrived before."""
        self._active: dict[Lease, Fetch] = {}
        # Replicas, by address.
        self._known: set[str] = set()
        self._found: set[str] = set()
        self._refused: set[str] = set()
        self._num_workers: Counter[str] = Counter()
        self.failures: dict[str, LoaderError] = {}
        """Of those that have not delivered since."""
        self.trouble = ""
        """What keeps replicas from being found or used, if anything does."""

    # For the consumer.

    def take(self) -> Batch | None:
        """The next batch, once it is there; None when there is none any more. Raises what ``BatchStream`` does."""
        silence_s, num_arrivals = 0.0, self._num_arrivals
        with self._lock:
            while self._position not in self._ready or self.closed.is_set():
                if self.closed.is_set() or self._book.is_finished:
                    return None
                self._raise_failure(silence_s)
                if not self._is_starved:
                    self._is_starved = True
                    self._leasable.notify_all()  # whoever is idle now is needed
                asked_at = time.monotonic()
                wait_s = min(self._unavailable_timeout_s - silence_s, self._unavailable_timeout_s / 4, 1.0)
                self._arrived.wait(wait_s)
                # No more than was waited for: while this process was stopped, nobody kept it waiting.
                silence_s += min(time.monotonic() - asked_at, wait_s)
                if num_arrivals != self._num_arrivals:
                    silence_s, num_arrivals = 0.0, self._num_arrivals
            self._is_starved = False
            batch = self._ready.pop(self._position)
            self._book.consume(self._position)
            self._losses.pop(self._position, None)
            self._broken_off.pop(self._position, None)
            self._position += 1
            self._leasable.notify()  # one step more may be asked for
            return batch

    def stop(self) -> None:
        """Ends every wait and cancels what is under way."""
        with self._lock:
            self.closed.set()
            fetches = list(self._active.values())
            self._notify_all()
        for fetch in fetches:
            fetch.cancel()

    def clear(self) -> None:
        """Drops batches and raised errors: an error keeps its frames alive, and those this object."""
        with self._lock:
            self._ready.clear()
            self._losses.clear()
            self._fatal = None

    # For workers.

    def pause(self, seconds: float) -> bool:
        """Waits for ``seconds``, or less when the stream ends. Returns whether the worker should go on."""
        if seconds:
            self.closed.wait(seconds)
        with self._lock:
            return not self.closed.is_set() and self._fatal is None

    def wait_for_lease(self, target: str) -> Lease | None:
        """Work for a replica; None when there will be none any more."""
        with self._lock:
            while not self.closed.is_set() and self._fatal is None and not self._book.is_finished:
                lease = self._book.next_lease(target, time.monotonic(), is_starved=self._is_starved)
                if lease is not None:
                    return lease
                self._leasable.wait(_IDLE_WAIT_S)
        return None

    def locate(self, lease: Lease) -> tuple[int, int]:
        """(epochs after the first, step) of a lease's first position."""
        return self._book.locate(lease.begin)

    def begin(self, lease: Lease, fetch: Fetch) -> None:
        """Starts to watch ``fetch``, the call of ``lease``."""
        with self._lock:
            self._active[lease] = fetch
            if self.closed.is_set():
                fetch.cancel()

    def deliver(self, position: int, lease: Lease, batch: Batch) -> None:
        with self._lock:
            if self._book.complete(position, lease, time.monotonic()):
                self._ready[position] = batch
                self._num_arrivals += 1
                self._arrived.notify_all()

    def is_superseded(self, lease: Lease) -> bool:
        """Whether other calls have delivered all that the call of ``lease`` has still to send."""
        return self._book.is_superseded(lease)

    def end(self, lease: Lease, fetch: Fetch | None) -> None:
        """Ends a lease, complete or not; the steps it did not deliver can be leased again."""
        with self._lock:
            self._active.pop(lease, None)
            self._book.end(lease)
            position = lease.begin if fetch is None else lease.begin + fetch.num_batches
            if fetch is not None and position in lease.missing:
                self._broken_off[position] = max(self._broken_off.get(position, 0), fetch.num_received)
            self._notify_all()

    def note_loss(self, target: str, position: int, failure: DataLossError) -> None:
        """This replica's copy is damaged; another's may be sound. If none is, the consumer hears of it in its turn."""
        with self._lock:
            if position >= self._position:
                self._book.lose(position, target)
                self._losses[position] = failure
                self._notify_all()

    def note_success(self, target: str) -> None:
        with self._lock:
            self.failures.pop(target, None)

    def note_failure(self, target: str, error: LoaderError) -> bool:
        """Whether the worker should go on: not at a replica that is refused, or that failed and is found no more."""
        with self._lock:
            if self.closed.is_set():
                return False
            # Without tracebacks, its own or its context's: their frames would keep this stream's batches alive.
            error.__context__ = error.__cause__ = None
            self.failures[target] = error.with_traceback(None)
            self._book.forget(target)
            if isinstance(error, MismatchError):
                self._refused.add(target)
                log.warning("refused: %s", error)
                if self._refused >= self._known:
                    self._fatal = error
            elif isinstance(error, InvalidRequestError | AccessError):
                self._fatal = error
            self._notify_all()
            return self._fatal is None and target in self._found - self._refused

    def fail(self, error: BaseException) -> None:
        """Ends the stream with an error of ours or our caller's, which the consumer's next ``take`` raises."""
        with self._lock:
            self._fatal = error
            self._notify_all()

    def end_worker(self, target: str) -> None:
        with self._lock:
            self._num_workers[target] -= 1
            self._forget_if_gone(target)

    # For the supervisor.

    def take_up(self, found: set[str], streams_per_replica: int) -> list[str]:
        """Notes which replicas were found. Returns the target of each worker to start; each counts as started."""
        with self._lock:
            self._found = found or self._found  # no address at all: the name service fails, not every replica
            for target in self._known - self._found:
                self._forget_if_gone(target)
            self._known |= self._found
            wanted = [
                target
                for target in found - self._refused
                for _ in range(streams_per_replica - self._num_workers[target])
            ]
            self._num_workers.update(wanted)
            return wanted

    def watch(self, seconds: float) -> None:
        """Advances the stall clocks by ``seconds``; cancels calls that stalled, or whose steps others delivered."""
        with self._lock:
            for lease, fetch in self._active.items():
                position = lease.begin + fetch.num_batches
                has_moved = fetch.pass_time(seconds, self._stall_timeout_s)
                if has_moved and fetch.num_received > self._broken_off.get(position, 0):
                    self._num_arrivals += 1
            given_up = [
                fetch for lease, fetch in self._active.items() if fetch.is_stalled or self._book.is_superseded(lease)
            ]
        for fetch in given_up:
            fetch.cancel()

    # With the lock held.

    def _notify_all(self) -> None:
        self._arrived.notify_all()
        self._leasable.notify_all()

    def _forget_if_gone(self, target: str) -> None:
        if target not in self._found and not self._num_workers[target]:
            self._known.discard(target)
            self._refused.discard(target)
            self.failures.pop(target, None)
            self._book.forget(target)
            del self._num_workers[target]

    def _raise_failure(self, silence_s: float) -> None:
        loss = self._losses.get(self._position)
        if loss is not None and self._book.is_lost(self._position, self._known):
            raise loss
        if self._fatal is not None:
            raise self._fatal
        if silence_s >= self._unavailable_timeout_s:
            raise loss or ServiceUnavailableError(self._why_unavailable())

    def _why_unavailable(self) -> str:
        reasons = [*map(str, self.failures.values())]
        if not reasons:
            reasons.append("nothing arrived from " + (", ".join(sorted(self._known)) or "anywhere"))
        if self.trouble:
            reasons.append(self.trouble)
        return f"no batch for {self._unavailable_timeout_s:g} s: {'; '.join(reasons)}"
