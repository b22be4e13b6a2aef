"""What a run reports about itself: JSON lines in metrics.jsonl and TensorBoard events, and reading them back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
    validation_loss: float | None
    validation_top1_error: float | None
    validation_top5_error: float | None


class MetricsWriter:
    """Appends points to the run's files. One owner, who closes it.

    Lines of steps after ``from_step`` are removed first: a resumed run takes those steps again.
    """

    def __init__(self, run_dir: Path, *, from_step: int, tensorboard: bool) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_NAME
        kept = [line for line in read_lines(run_dir) if line["global_step"] <= from_step]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # imported here: a run without events need not have it

            self._events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=from_step or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, point: TrainPoint | EpochPoint) -> None:
        """Appends ``point`` and flushes, so that a killed run loses no line."""
        kind = "train" if isinstance(point, TrainPoint) else "epoch"
        self._file.write(json.dumps({"kind": kind} | vars(point)) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in vars(point).items():
                if name not in ("epoch", "step", "global_step") and value is not None:
                    self._events.add_scalar(f"{kind}/{name}", value, point.global_step)

    def close(self) -> None:
        """Closes the files; the last events are on disk after it."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    """Every whole line of the run's metrics, in order; a line cut off by a kill is left out."""
    path = run_dir / METRICS_NAME
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def read_points(run_dir: Path) -> tuple[list[TrainPoint], list[EpochPoint]]:
    """The run's points in order."""
    train: list[TrainPoint] = []
    epochs: list[EpochPoint] = []
    for line in read_lines(run_dir):
        values = {name: value for name, value in line.items() if name != "kind"}
        if line["kind"] == "train":
            train.append(TrainPoint(**values))
        else:
            epochs.append(EpochPoint(**values))
    return train, epochs
