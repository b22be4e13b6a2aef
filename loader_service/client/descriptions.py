"""What replicas say that they serve: each address is asked once, and anew after it has failed."""

import logging
import os
import threading
from concurrent.futures import Future
from dataclasses import replace

from loader_service.client.replica import Connection, Replica
from loader_service.wire.errors import ServiceUnavailableError
from loader_service.wire.types import Description

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0


class Descriptions:
    """One client's. Thread-safe. Whoever asks waits for nobody else: each question has a thread, which ends within
    seconds, or with ``close``."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._answers: dict[str, Future[Description]] = {}
        self._stores: dict[tuple[str, str], Description] = {}
        self._asking: dict[threading.Thread, Connection] = {}
        self._warned: set[str] = set()

    def ask(self, replica: Replica) -> "Future[Description]":
        """The answer of ``replica``, there already or to come within seconds: a LoaderError if it gives none."""
        if self._process != os.getpid():  # forked: the threads that were asking stayed behind
            self._begin()
        with self._lock:
            answer = self._answers.get(replica.target)
            if answer is None or (answer.done() and answer.exception() is not None):
                answer = self._answers[replica.target] = Future()
                thread = threading.Thread(
                    target=self._ask, args=(replica, answer), name=f"loader-describe-{replica.target}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads now
                    answer.set_exception(ServiceUnavailableError(f"{replica.target}: cannot be asked: {error}"))
            return answer

    def warn(self, target: str, reason: str) -> None:
        """Says in the log that a replica cannot be used while others can, once for each."""
        if target not in self._warned:
            self._warned.add(target)
            log.warning("doing without a replica: %s", reason)

    def forget(self, target: str) -> None:
        """Drops an answer that may be out of date, since the replica there has failed."""
        with self._lock:
            if target in self._answers and self._answers[target].done():
                del self._answers[target]

    def close(self) -> None:
        """Breaks off the questions that are open, and waits for their threads."""
        with self._lock:
            asking = dict(self._asking)
        for connection in asking.values():
            connection.cancel()
        for thread in asking:
            thread.join(_TIMEOUT_S)

    def _ask(self, replica: Replica, answer: "Future[Description]") -> None:
        try:
            with replica.connect() as connection:
                with self._lock:
                    self._asking[threading.current_thread()] = connection
                answer.set_result(self._known_parts(connection.describe(_TIMEOUT_S)))
        except BaseException as error:
            answer.set_exception(error.with_traceback(None))
        finally:
            with self._lock:
                self._asking.pop(threading.current_thread(), None)

    def _known_parts(self, found: Description) -> Description:
        """The description, of whose classes and mean image (a megabyte and more) a fleet has one copy."""
        with self._lock:
            same = self._stores.setdefault((found.fingerprint, found.pipeline_version), found)
        return replace(found, classes=same.classes, mean_image=same.mean_image)
