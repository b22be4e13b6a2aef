"""One progress display: a live bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_INTERVAL_S = 5.0


def write_line(text: str) -> None:
    """Writes one line to stderr: where people read, leaving stdout to results."""
    print(text, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """``4.2s``, ``3m05s``, ``2h07m``: what a person plans by."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
    return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02d}m"


class Progress:
    """Counts ``total`` units of work on stderr, with a rate and the time left. Thread-safe.

    ``done`` units that an earlier run finished count towards the total and not towards the rate.
    """

    def __init__(self, label: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.completed = done
        self._already_done = done
        self._note = ""
        self._quiet = quiet
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._last_line = self._started
        console = Console(stderr=True)
        self._bar: RichProgress | None = None
        if console.is_terminal and not quiet:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                expand=True,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, rate="", note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and kind is None and self.completed > self._already_done:
            write_line(self._line() + f", took {format_duration(self.elapsed_s)}")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Units a second since this display began."""
        return (self.completed - self._already_done) / max(self.elapsed_s, 1e-9)

    def advance(self, amount: int = 1, *, note: str | None = None) -> None:
        """Counts ``amount`` more units; ``note`` replaces the text at the end of the line."""
        with self._lock:
            self.completed += amount
            self._note = self._note if note is None else note
            if self._bar is not None:
                rate = f"{self.rate:,.0f} {self.unit}/s"
                self._bar.update(self._task, completed=self.completed, rate=rate, note=self._note)
            elif not self._quiet and time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
                self._last_line = time.monotonic()
                left = (self.total - self.completed) / max(self.rate, 1e-9)
                write_line(f"{self._line()}, {format_duration(left)} left")

    def _line(self) -> str:
        note = f", {self._note}" if self._note else ""
        return f"{self.label}: {self.completed:,}/{self.total:,} {self.unit}, {self.rate:,.0f} {self.unit}/s{note}"
