"""Averages between two points of the metrics: loss, errors, images a second, and the share of time without data."""

import contextlib
import math
import time

from commandline import Progress
from trainer.checkpoint.state import TrainingState
from trainer.data.feed import DeviceBatch, Feed
from trainer.errors import DivergedError
from trainer.monitor.metrics import MetricsWriter, TrainPoint
from trainer.monitor.prometheus import Exporter
from trainer.ranks import Ranks
from trainer.recipes.schedule import Rates


class Interval:
    """Counts from :meth:`restart` to :meth:`report`. Every rank must call both at the same steps."""

    def __init__(
        self,
        state: TrainingState,
        ranks: Ranks,
        *,
        progress: Progress,
        metrics: MetricsWriter | None,
        exporter: Exporter | None,
    ) -> None:
        self._state, self._ranks = state, ranks
        self._progress, self._metrics, self._exporter = progress, metrics, exporter
        self.restart()

    def restart(self) -> None:
        """Begins a new interval here."""
        self._started, self._wait_s = time.monotonic(), 0.0
        self._sums_before = self._ranks.sum(self._state.epoch_sums)

    def next(self, feed: Feed) -> DeviceBatch | None:
        """The feed's next batch, None after its last; adds up the time spent waiting for it."""
        began = time.monotonic()
        try:
            with self._exporter.waiting() if self._exporter is not None else contextlib.nullcontext():
                return next(feed, None)
        finally:
            self._wait_s += time.monotonic() - began

    def report(self, rates: Rates) -> TrainPoint:
        """Writes and shows the averages since the interval began; waits for the devices, once an interval.

        Raises DivergedError when the loss is no longer a finite number.
        """
        state = self._state
        sums = self._ranks.sum(state.epoch_sums)
        loss, top1, top5, count = (sums - self._sums_before).tolist()
        took_s = time.monotonic() - self._started
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at {state.place}")
        point = TrainPoint(
            epoch=state.epoch,
            step=state.step,
            global_step=state.global_step,
            loss=loss / count,
            top1_error=top1 / count,
            top5_error=top5 / count,
            rate=rates.weight,
            images_per_s=count / took_s,
            data_wait=self._wait_s / took_s,
        )
        if self._metrics is not None:
            self._metrics.write(point)
        if self._exporter is not None:
            self._exporter.show(point, count)
        self._progress.advance(0, note=f"loss {point.loss:.3f}")
        self.restart()
        return point
