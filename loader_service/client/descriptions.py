"""What replicas say that they serve: each address is asked once, and anew after it has failed."""

import threading
from concurrent.futures import Future

from loader_service.client.replica import Connection, Replica
from loader_service.wire.errors import ServiceUnavailableError
from loader_service.wire.types import Description

_TIMEOUT_S = 5.0


class Descriptions:
    """One client's. Thread-safe. Whoever asks waits for nobody else: each question has a thread, which ends within
    seconds, or with ``close``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, Future[Description]] = {}
        self._asking: dict[threading.Thread, Connection] = {}

    def ask(self, replica: Replica) -> "Future[Description]":
        """The answer of ``replica``, there already or to come within seconds: a LoaderError if it gives none."""
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
            connection.close()
        for thread in asking:
            thread.join(_TIMEOUT_S)

    def _ask(self, replica: Replica, answer: "Future[Description]") -> None:
        try:
            with replica.connect() as connection:
                with self._lock:
                    self._asking[threading.current_thread()] = connection
                answer.set_result(connection.describe(_TIMEOUT_S))
        except BaseException as error:
            answer.set_exception(error.with_traceback(None))
        finally:
            with self._lock:
                self._asking.pop(threading.current_thread(), None)
