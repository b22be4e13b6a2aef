"""Lets clients of the same stream share the work: a message being made, or just made, is made once for all.

Trainers that run the same epoch with the same seed (a search over learning rates, say) ask for the same messages at
about the same time. Each is computed by whoever asks first; the others wait for that, or find it in a window of
recent ones. It changes no byte: a message is a function of its key.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from loader_service.pipeline.outgoing_message import OutgoingMessage


class UnwantedError(Exception):
    """A message was not made: whoever asked for it had left."""


class SharedMessages:
    """Recent messages by key, up to ``max_bytes`` of them; 0 keeps none and shares only what is being made.

    Messages are kept only while at least two clients are at work on one stream: alone, a client never asks twice.
    """

    def __init__(
        self, max_bytes: int, submit: Callable[[Callable[[], OutgoingMessage]], Future[OutgoingMessage]]
    ) -> None:
        self._max_bytes = max_bytes
        self._submit = submit
        self._lock = threading.Lock()
        self._making: dict[Hashable, tuple[Future[OutgoingMessage], list[Callable[[], bool]]]] = {}
        self._recent: OrderedDict[Hashable, Future[OutgoingMessage]] = OrderedDict()
        self._size_bytes = 0
        self.num_shared = 0

    def get(
        self, key: Hashable, make: Callable[[], OutgoingMessage], *, keep: bool, is_wanted: Callable[[], bool]
    ) -> Future[OutgoingMessage]:
        """The message of ``key``: one being made or kept, or else ``make`` is submitted.

        Its turn may come when none of those who asked for it wants it any more: then it fails with UnwantedError. A
        future must not be cancelled: others may wait for it.
        """
        with self._lock:
            known = self._recent.get(key)
            if key in self._making:
                known, wanted = self._making[key]
                wanted.append(is_wanted)
            if known is not None:
                self.num_shared += 1
                return known
            wanted = [is_wanted]
            future = self._submit(lambda: self._make(key, wanted, make))
            self._making[key] = future, wanted
        # Outside the lock: a future that is done already calls back at once, on this thread.
        future.add_done_callback(lambda done: self._made(key, done, keep))
        return future

    def _make(
        self, key: Hashable, wanted: list[Callable[[], bool]], make: Callable[[], OutgoingMessage]
    ) -> OutgoingMessage:
        with self._lock:
            if not any(is_wanted() for is_wanted in wanted):
                del self._making[key]  # whoever asks from now on has it made
                raise UnwantedError
        return make()

    def _made(self, key: Hashable, future: Future[OutgoingMessage], keep: bool) -> None:
        with self._lock:
            if self._making.get(key, (None,))[0] is future:
                del self._making[key]
            if not keep or future.cancelled() or future.exception() is not None:
                return
            size = len(future.result().body)
            if size > self._max_bytes:
                return
            self._recent[key] = future
            self._size_bytes += size
            while self._size_bytes > self._max_bytes:
                _, oldest = self._recent.popitem(last=False)
                self._size_bytes -= len(oldest.result().body)

    def forget(self) -> None:
        """Drops what is kept: nobody shares any more."""
        with self._lock:
            self._recent.clear()
            self._size_bytes = 0


class StreamPopulation:
    """Which clients were lately at work on which stream, and where: two near each other make sharing worth while."""

    def __init__(self, memory_s: float = 10.0) -> None:
        self._memory_s = memory_s
        self._lock = threading.Lock()
        self._seen: dict[tuple[Hashable, str], tuple[float, int]] = {}
        self._shared_at = -math.inf

    def note(self, stream: Hashable, client: str, step: int, *, reach: int) -> bool:
        """Notes a request of ``client``; whether another has lately been at work within ``reach`` steps of it.

        A client that has ended counts for a while, but one that starts the stream anew is far from where it ended.
        """
        now = time.monotonic()
        with self._lock:
            self._seen = {key: seen for key, seen in self._seen.items() if now - seen[0] < self._memory_s}
            self._seen[stream, client] = now, step
            is_shared = any(
                known == stream and other != client and abs(step - at) <= reach
                for (known, other), (_, at) in self._seen.items()
            )
            if is_shared:
                self._shared_at = now
            return is_shared

    @property
    def is_solitary(self) -> bool:
        """Whether no stream has been shared for a while."""
        return time.monotonic() - self._shared_at > self._memory_s
