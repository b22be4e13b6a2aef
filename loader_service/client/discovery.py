"""Looks for replicas again from time to time, on a thread of its own: the look-up of a name can hang for long."""

import queue
import threading
import time
from collections.abc import Callable

from loader_service.client.replica import Replica


class Discovery:
    """``find`` is called at most once in ``interval_s`` seconds, and never twice at once. For one thread."""

    def __init__(self, find: Callable[[], dict[str, Replica]], interval_s: float) -> None:
        self._find, self._interval_s = find, interval_s
        self._answers: queue.SimpleQueue[dict[str, Replica] | str] = queue.SimpleQueue()
        self._is_looking = False
        self._looked_at = time.monotonic()
        self.failure = ""
        """Why the last look found nothing; empty if it did."""

    def poll(self) -> dict[str, Replica] | None:
        """What a look has found that ended since the last poll, by address. Does not wait."""
        if self._is_looking and not self._answers.empty():
            answer = self._answers.get()
            self._is_looking = False
            self._looked_at = time.monotonic()
            self.failure = answer if isinstance(answer, str) else ""
            return None if isinstance(answer, str) else answer
        if not self._is_looking and time.monotonic() - self._looked_at >= self._interval_s:
            self._looked_at = time.monotonic()
            try:
                threading.Thread(target=self._look, name="loader-discovery", daemon=True).start()
                self._is_looking = True
            except RuntimeError as error:  # no more threads now: there may be later
                self.failure = str(error)
        return None

    def _look(self) -> None:
        try:
            self._answers.put(self._find())
        except Exception as error:  # its text only: its frames would keep what they refer to
            self._answers.put(f"looking for replicas: {type(error).__name__}: {error}")
