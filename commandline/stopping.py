"""SIGTERM and Ctrl-C ask a run to stop after the step under way; a second Ctrl-C stops it at once."""

import signal
from types import FrameType, TracebackType
from typing import Self


class StopRequests:
    """While entered, remembers the first stop signal instead of dying of it. For the main thread."""

    def __init__(self, *signals: signal.Signals) -> None:
        """``signals``: which ones; none means SIGINT and SIGTERM."""
        self._signals = signals or (signal.SIGINT, signal.SIGTERM)
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

    def __enter__(self) -> Self:
        for number in self._signals:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
