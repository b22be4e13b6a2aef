"""What a run reports about itself: JSON lines in metrics.jsonl, and reading them back."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from commandline import write_line
from commandline.files import Appender, write_whole
from trainer.monitor.events import EventsFile

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrainPoint:
    """Averages over the steps since the last point; errors are fractions."""

    epoch: int
    step: int
    global_step: int
    loss: float
    top1_error: float
    top5_error: float
    rate: float
    """Learning rate of the weights."""
    images_per_s: float
    data_wait: float
    """Share of the time that the step waited for a batch, 0..1."""


@dataclass(frozen=True, kw_only=True)
class EpochPoint:
    """One epoch's averages, and the validation after it (None without a validation split)."""

    epoch: int
    global_step: int
    train_loss: float
    train_top1_error: float
    train_top5_error: float
    rate: float
    validation_loss: float | None = None
    validation_top1_error: float | None = None
    validation_top5_error: float | None = None


Point = TrainPoint | EpochPoint
_KINDS: dict[str, type[TrainPoint] | type[EpochPoint]] = {"train": TrainPoint, "epoch": EpochPoint}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the file."""

    point: Point
    time_s: float
    """When it was written, in seconds since 1970."""

    @property
    def key(self) -> tuple[str, int]:
        """What there is one line of: a step with a point, an epoch."""
        if isinstance(self.point, TrainPoint):
            return "train", self.point.global_step
        return "epoch", self.point.epoch

    def to_line(self) -> str:
        """The line, with its end."""
        return json.dumps({"kind": self.key[0], "time_s": round(self.time_s, 3)} | vars(self.point)) + "\n"


class MetricsWriter:
    """Appends points to the run's files, each step and epoch once. One owner, who closes it.

    What is there already of steps after ``global_step`` and of epochs from ``epoch`` on is removed first: a run that
    continues takes those again. ``history`` is the folder whose lines it continues, if not ``run_dir``'s own.
    TensorBoard's events are made anew from the lines, so that both always hold the same;
    when they cannot be written they are given up, with a warning. Raises OSError that names metrics.jsonl.
    """

    def __init__(
        self, run_dir: Path, *, epoch: int, global_step: int, tensorboard: bool, history: Path | None = None
    ) -> None:
        self._path = run_dir / METRICS_NAME
        kept = [
            entry
            for entry in _read_entries(history or run_dir)
            if (entry.point.global_step <= global_step if entry.key[0] == "train" else entry.point.epoch < epoch)
        ]
        write_whole(self._path, "".join(map(Entry.to_line, kept)))
        self._events: EventsFile | None = None
        if tensorboard:
            with self._optional_events():
                self._events = EventsFile(run_dir / "tensorboard")
                for entry in kept:
                    self._add_event(entry)
        self._file = Appender(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, point: Point) -> None:
        """Appends ``point``; a killed run loses no line."""
        entry = Entry(point=point, time_s=time.time())
        self._file.append(entry.to_line().encode())
        if self._events is not None:
            with self._optional_events():
                self._add_event(entry)

    def _add_event(self, entry: Entry) -> None:
        assert self._events is not None
        kind, _ = entry.key
        scalars = {
            f"{kind}/{name}": value
            for name, value in vars(entry.point).items()
            if name not in ("epoch", "step", "global_step") and value is not None
        }
        self._events.add(scalars, step=entry.point.global_step, time_s=entry.time_s)

    @contextmanager
    def _optional_events(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            write_line(f"WARNING: {error.filename}: {error.strerror}; the run goes on without TensorBoard events")
            if self._events is not None:
                self._events.close()
            self._events = None


def history_of(checkpoint: Path) -> Path:
    """The folder with the metrics of the run that saved ``checkpoint``: its own, or that of its branch set aside."""
    branch = checkpoint.parent
    return branch if (branch / METRICS_NAME).is_file() else branch.parent


def read_points(run_dir: Path) -> tuple[list[TrainPoint], list[EpochPoint]]:
    """The run's points in order."""
    points = [entry.point for entry in _read_entries(run_dir)]
    train = [point for point in points if isinstance(point, TrainPoint)]
    return train, [point for point in points if isinstance(point, EpochPoint)]


def _read_entries(run_dir: Path) -> list[Entry]:
    """What metrics.jsonl holds, in the order of steps, each step and epoch once: of several lines the last.

    Lines that are no points, such as one that a kill cut off, are left out.
    """
    path = run_dir / METRICS_NAME
    if not path.is_file():
        return []
    changed_s = path.stat().st_mtime
    found: dict[tuple[str, int], Entry] = {}
    for text in path.read_text("utf-8", errors="replace").splitlines():
        entry = _entry_of(text, changed_s)
        if entry is not None:
            found[entry.key] = entry
    return sorted(found.values(), key=lambda entry: (entry.point.global_step, entry.key[0] == "epoch"))


def _entry_of(text: str, otherwise_s: float) -> Entry | None:
    """The line's point; ``otherwise_s`` is its time where the line has none."""
    try:
        line = json.loads(text)
        kind = _KINDS[line["kind"]]
        values = {field.name: line[field.name] for field in dataclasses.fields(kind)}
        time_s = float(line.get("time_s", otherwise_s))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    is_sound = all(
        isinstance(value, int | float) or (value is None and name.startswith("validation_"))
        for name, value in values.items()
    )
    return Entry(point=kind(**values), time_s=time_s) if is_sound else None
