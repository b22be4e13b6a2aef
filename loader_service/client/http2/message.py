"""A message of which the first bytes have come, and the rest is still in the socket."""

from collections.abc import Callable

MAX_MESSAGE_BYTES = 2**30
"""Of a message that is accepted."""
_HEAD_BYTES = 4096
"""Read of each message first: enough for all but the pixels of a hundred images."""


class IncomingMessage:
    """A message whose first bytes have come; the rest goes where its reader wants it. Valid until the next one."""

    def __init__(self, size: int, buffer_of: Callable[[int], memoryview], fill: Callable[[memoryview], object]) -> None:
        self._buffer_of, self._fill = buffer_of, fill
        self.size = size
        """Bytes of the whole message."""
        self.head = memoryview(b"")
        """Those that have been read."""
        self._num_unread = size
        self._extend(_HEAD_BYTES)

    def read_more(self) -> None:
        """Makes the head longer. Raises ValueError when it is the whole message already; and like the call."""
        if not self._num_unread:
            raise ValueError(f"expected more than the message's {self.size} bytes")
        self._extend(2 * len(self.head))

    def read(self) -> memoryview:
        """The whole message. Raises like iterating over the call."""
        self._extend(self.size)
        return self.head

    def read_into(self, view: memoryview, begin: int) -> None:
        """The message from byte ``begin`` of its head to its end, into ``view``. Raises ValueError when that has
        another size; and like iterating over the call."""
        if begin + len(view) != self.size:
            raise ValueError(f"expected {len(view)} bytes from byte {begin}, found {self.size - begin}")
        num_in_head = min(len(self.head) - begin, len(view))
        view[:num_in_head] = self.head[begin : begin + num_in_head]
        self._num_unread = 0
        self._fill(view[num_in_head:])

    def skip(self) -> None:
        """Reads what has not been read. Raises like iterating over the call."""
        if self._num_unread:
            self._extend(self.size)

    def _extend(self, size: int) -> None:
        size, before = min(size, self.size), self.head
        self.head = self._buffer_of(size)
        if len(before) and self.head.obj is not before.obj:
            self.head[: len(before)] = before
        self._num_unread = self.size - size
        self._fill(self.head[len(before) :])
