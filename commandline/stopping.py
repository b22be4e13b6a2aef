"""SIGTERM, SIGHUP and Ctrl-C ask a run to stop after what is under way; a second Ctrl-C stops it at once."""

import signal
import socket
import time
from types import FrameType
from typing import Self


def stop_signals() -> tuple[signal.Signals, ...]:
    """What asks a program to stop: SIGINT, SIGTERM, and SIGHUP unless it is ignored (``nohup``)."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


class StopRequests:
    """While entered, remembers the first stop signal instead of dying of it. For the main thread."""

    def __init__(self, *signals: signal.Signals) -> None:
        """``signals``: which ones; none means all of :func:`stop_signals`."""
        self._signals = signals or stop_signals()
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + int(self.received or 0)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Returns whether a signal has come, as soon as one has or after ``timeout_s`` (None: never).

        It waits at a socket, which Python writes to from the signal itself. A wait for a lock would go on when the
        kernel gives the signal to another thread (NumPy's, gRPC's), as was seen: handlers run on the main thread only,
        which nothing wakes then.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.requested:
            remaining_s = None if deadline is None else deadline - time.monotonic()
            if remaining_s is not None and remaining_s <= 0:
                break
            self._awake.settimeout(remaining_s)
            try:
                self._awake.recv(1)
            except TimeoutError:
                break
        return self.requested

    def __enter__(self) -> Self:
        self._awake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        for number in self._signals:
            self._before[number] = signal.signal(number, self._note)
        self._waker_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._waker_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._awake.close()
        self._waker.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
