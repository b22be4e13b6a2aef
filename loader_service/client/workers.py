"""The threads behind a stream: one a request under way, and one that watches them and looks for replicas."""

import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import wait

import grpc

from loader_service.client.delivery import Delivery
from loader_service.client.descriptions import Descriptions
from loader_service.client.discovery import Discovery
from loader_service.client.fetch import Fetch, Fetcher
from loader_service.client.leases import Lease
from loader_service.client.options import ClientOptions
from loader_service.client.replica import Connection, Replica
from loader_service.wire.errors import DataLossError, LoaderError, OverloadedError, ServiceUnavailableError
from loader_service.wire.types import Description

_FIRST_BACKOFF_S = 0.05
_FAILURES_WORTH_A_WORD = 4
_STEADY_AFTER_S = 1.0
_MAX_BACKOFF_S = 1.0
_CLOSE_TIMEOUT_S = 10.0
_LOOK_INTERVAL_S = 0.1
"""How often a worker that waits for its replica's first word looks whether the stream has ended."""


class Workers:
    """Fetches for a ``delivery`` from construction on, until it is closed or its ``owner`` is no more.

    ``fetch_from`` makes the fetcher for a connection to a replica that described itself so.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        owner: "weakref.ref[object]",
        fetch_from: Callable[[Connection, Description], Fetcher],
        find_replicas: Callable[[], dict[str, Replica]],
        first_epoch: int,
        options: ClientOptions,
        descriptions: Descriptions,
    ) -> None:
        self._delivery = delivery
        self._owner = owner
        self._fetch_from = fetch_from
        self._first_epoch = first_epoch
        self._options = options
        self._descriptions = descriptions
        self._discovery = Discovery(find_replicas, options.resolve_interval_s)
        self._threads: list[threading.Thread] = []
        self._supervisor = threading.Thread(target=self._supervise, name="loader-supervisor", daemon=True)
        try:
            self._take_up(find_replicas())
            self._supervisor.start()
        except BaseException:
            delivery.stop()
            raise

    def close(self) -> None:
        """Cancels what is under way and waits for the threads, a few seconds at most."""
        deadline = time.monotonic() + _CLOSE_TIMEOUT_S
        self._delivery.stop()
        self._supervisor.join(_CLOSE_TIMEOUT_S)
        for thread in list(self._threads):  # the supervisor starts no more
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._delivery.clear()

    def _supervise(self) -> None:
        """Watches calls, looks for replicas from time to time, and ends it all when nobody can take batches any more.

        Whether its owner is gone is looked up: a finalizer may run on any thread, with any lock held.
        """
        interval_s = min(self._options.stall_timeout_s / 4, 0.25)
        looked_at = time.monotonic()
        try:
            while not self._delivery.closed.wait(interval_s):
                now = time.monotonic()
                self._delivery.watch(min(now - looked_at, 2 * interval_s))  # not while this process was stopped
                looked_at = now
                found = self._discovery.poll()
                self._delivery.trouble = self._discovery.failure
                if found is not None:
                    self._take_up(found)
                if self._owner() is None:
                    self._delivery.stop()
        except BaseException as error:
            self._delivery.fail(error)

    def _take_up(self, found: dict[str, Replica]) -> None:
        """Starts the workers that are missing at the replicas found."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for target in self._delivery.take_up(set(found), self._options.streams_per_replica):
            thread = threading.Thread(target=self._work, args=(found[target],), name=f"loader-{target}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads now; there may be at the next look
                self._delivery.end_worker(target)
                self._discovery.failure = str(error)
            else:
                self._threads.append(thread)

    def _work(self, replica: Replica) -> None:
        """Fetches leases from one replica until the stream ends; after a failure, backs off and connects anew."""
        backoff_s, num_failures = 0.0, 0
        try:
            # Clients that were cut off together come back apart.
            while self._delivery.pause(backoff_s * random.uniform(0.5, 1.0)):
                connected_at = time.monotonic()
                try:
                    found = self._ask(replica)
                    if found is None:
                        return
                    with replica.connect() as connection:
                        if self._fetch_leases(connection, found):
                            return
                    backoff_s, num_failures = 0.0, 0
                except LoaderError as error:
                    num_failures += 1
                    if num_failures == _FAILURES_WORTH_A_WORD:
                        self._descriptions.warn(replica.target, str(error))
                    if not isinstance(error, OverloadedError):
                        self._descriptions.forget(replica.target)  # another may be there now
                    if not self._delivery.note_failure(replica.target, error):
                        return
                    if time.monotonic() - connected_at > _STEADY_AFTER_S:
                        backoff_s = 0.0
                    hint_s = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
                    backoff_s = min(max(2 * backoff_s, hint_s, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)
        except BaseException as error:
            self._delivery.fail(error)
        finally:
            self._delivery.end_worker(replica.target)

    def _ask(self, replica: Replica) -> Description | None:
        """What the replica says that it serves; None when the stream has ended. Raises a LoaderError for silence."""
        answer = self._descriptions.ask(replica)
        while self._delivery.pause(0.0):
            if wait([answer], _LOOK_INTERVAL_S).done:
                return answer.result()
        return None

    def _fetch_leases(self, connection: Connection, found: Description) -> bool:
        """Fetches leases over one connection to a replica that described itself as ``found``; True when the stream has
        ended, False when a new connection is wanted."""
        with self._fetch_from(connection, found) as fetcher:
            while (lease := self._delivery.wait_for_lease(connection.target)) is not None:
                is_whole = self._fetch(connection, fetcher, lease)
                self._delivery.note_success(connection.target)
                if not is_whole and fetcher.session is not None:
                    return False  # it is not known which of its slots are still being written
        return True

    def _fetch(self, connection: Connection, fetcher: Fetcher, lease: Lease) -> bool:
        """Receives one lease; whether its call ran to the end.

        Raises a LoaderError when the replica fails; the lease's rest is then up for others.
        """
        epoch, first_step = self._delivery.locate(lease)
        fetch: Fetch | None = None
        try:
            last_step = first_step + lease.end - lease.begin
            fetch = fetcher.fetch(epoch=self._first_epoch + epoch, first_step=first_step, last_step=last_step)
            self._delivery.begin(lease, fetch)
            for position, batch in enumerate(fetch, lease.begin):
                self._delivery.deliver(position, lease, batch)
            fetcher.leave_unused_session(fetch)
            return True
        except grpc.RpcError as error:
            is_stalled = fetch is not None and fetch.is_stalled
            if self._delivery.closed.is_set() or (self._delivery.is_superseded(lease) and not is_stalled):
                return False
            if is_stalled:
                raise ServiceUnavailableError(
                    f"{connection.target}: expected a message within {self._options.stall_timeout_s:g} s, found a stall"
                ) from None
            failure = connection.translate(error)
            if isinstance(failure, DataLossError) and fetch is not None:
                self._delivery.note_loss(connection.target, lease.begin + fetch.num_batches, failure)
                return False
            raise failure from None
        finally:
            self._delivery.end(lease, fetch)
