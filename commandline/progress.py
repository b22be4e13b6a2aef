"""One progress display: a live bar on a terminal, a plain line every few seconds elsewhere."""

import threading
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from commandline.lines import plain, write_line

PLAIN_INTERVAL_S = 5.0
LINE_WIDTH = 80
"""Columns of a plain line: what a terminal has that nobody made larger."""
_BAR_WIDTH = 10
_MAX_HOURS = 9999


def format_duration(seconds: float) -> str:
    """``4.2s``, ``3m05s``, ``2h07m``: what a person plans by."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours}h{minutes:02d}m" if hours <= _MAX_HOURS else f"over {_MAX_HOURS}h"


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
            self._width = console.width - _BAR_WIDTH - 2
            # The line that goes elsewhere too: rich would take from each of several columns what is too wide.
            text = TextColumn("{task.description}", markup=False)
            self._bar = RichProgress(BarColumn(_BAR_WIDTH), text, console=console)
            self._task = self._bar.add_task(self._line(self._width), total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and kind is None and self.completed > self._already_done:
            write_line(self._line(LINE_WIDTH, has_ended=True))

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
                self._bar.update(self._task, completed=self.completed, description=self._line(self._width))
            elif not self._quiet and time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
                self._last_line = time.monotonic()
                write_line(self._line(LINE_WIDTH))

    def _line(self, width: int, *, has_ended: bool = False) -> str:
        """How far it is, in at most ``width`` columns: first the count and the time, then what there is room for."""
        parts = [f"{self.label}: {self.completed:,}/{self.total:,} {self.unit}"]
        if has_ended:
            parts.append(f"took {format_duration(self.elapsed_s)}")
        elif self.rate > 0:
            parts.append(f"{format_duration((self.total - self.completed) / self.rate)} left")
        parts.append(f"{self.rate:,.0f} {self.unit}/s")
        line = plain(", ".join(filter(None, [*parts, self._note])))
        return line if len(line) <= width else f"{line[: width - 1]}…"
