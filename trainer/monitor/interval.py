"""Averages between two points of the metrics: loss, errors, images a second, and the share of time without data."""

import contextlib
import math
import time
from collections.abc import Iterator

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
        batch_size: int,
        end_epoch: int,
        progress: Progress,
        metrics: MetricsWriter | None,
        exporter: Exporter | None,
    ) -> None:
        self._state, self._ranks = state, ranks
        self._batch_size, self._end_epoch = batch_size, end_epoch
        self._progress, self._metrics, self._exporter = progress, metrics, exporter
        self.restart()

    def restart(self) -> None:
        """Begins a new interval here."""
        self._started, self._wait_s = time.monotonic(), 0.0
        self._first_step = self._state.global_step
        self._sums_before = self._ranks.sum(self._state.epoch_sums)

    def timed(self, feed: Feed) -> Iterator[DeviceBatch]:
        """Yields the feed's batches, adding up the time spent waiting for them."""
        while True:
            began = time.monotonic()
            with self._exporter.waiting() if self._exporter is not None else contextlib.nullcontext():
                batch = next(feed, None)
            self._wait_s += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def report(self, rates: Rates) -> TrainPoint:
        """Writes and shows the averages since the interval began; waits for the devices, once an interval.

        Raises DivergedError when the loss is no longer a finite number.
        """
        state = self._state
        sums = self._ranks.sum(state.epoch_sums)
        loss, top1, top5, count = (sums - self._sums_before).tolist()
        took_s = time.monotonic() - self._started
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
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at epoch {state.epoch}, step {state.step}: try a lower --lr, or --init fan_in"
            )
        if self._metrics is not None:
            self._metrics.write(point)
        if self._exporter is not None:
            self._exporter.show(point, count)
        note = (
            f"epoch {point.epoch + 1}/{self._end_epoch} loss {point.loss:.3f} "
            f"top-1 err {100 * point.top1_error:.1f}% top-5 err {100 * point.top5_error:.1f}% "
            f"lr {point.rate:g} data-wait {100 * point.data_wait:.0f}%"
        )
        self._progress.advance((state.global_step - self._first_step) * self._batch_size, note=note)
        self.restart()
        return point
