"""What a run tells Prometheus, and the port it is read from (``--metrics-listen``)."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from loader_service.wire.addresses import host_and_port
from trainer.errors import TrainerError
from trainer.monitor.metrics import TrainPoint


class Exporter:
    """One run's metrics over HTTP, in a registry of their own, from construction until it is closed.

    Written by the training thread; read by Prometheus at any time. The wait for data counts while it lasts, so that a
    run that gets nothing at all is seen to wait. Raises TrainerError when prometheus-client is missing or ``listen``
    (HOST:PORT) cannot be bound.
    """

    def __init__(self, listen: str) -> None:
        try:
            # Imported here: a trainer whose metrics nobody asks for need not have it.
            from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
            from prometheus_client.core import CounterMetricFamily

            from commandline.metrics_port import MetricsPort
        except ImportError:
            raise TrainerError("--metrics-listen needs prometheus-client: pip install prometheus-client") from None
        self._lock = threading.Lock()
        self._waited_s = 0.0
        self._waiting_since: float | None = None
        registry = CollectorRegistry()
        self._images = Counter(
            "alexnet_trainer_images", "Images trained on since this process began.", registry=registry
        )
        self._gauges = {
            name: Gauge(f"alexnet_trainer_{name}", text, registry=registry)
            for name, text in (
                ("step", "Updates made since the run began, over all its processes."),
                ("epoch", "The epoch under way, from 0."),
                ("loss", "Training loss over the last steps."),
                ("top1_error", "Training top-1 error over the last steps, 0 to 1."),
                ("learning_rate", "Learning rate of the weights."),
            )
        }
        for gauge in self._gauges.values():
            gauge.set(float("nan"))  # nothing is known before the first point; 0 would be drawn as a value
        ProcessCollector(registry=registry)
        exporter = self

        class Waits:
            def collect(self) -> Iterator[CounterMetricFamily]:
                text = "Seconds that steps waited for a batch, the present wait included."
                yield CounterMetricFamily("alexnet_trainer_data_wait_seconds", text, exporter.data_wait_s)

        registry.register(Waits())
        try:
            self._metrics_port = MetricsPort(*host_and_port(listen, lowest_port=0), registry)
        except OSError as error:
            raise TrainerError(f"--metrics-listen {listen}: {error}") from None
        self.port = self._metrics_port.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics_port.close()

    @property
    def data_wait_s(self) -> float:
        """Seconds waited for batches so far, with the wait that lasts."""
        with self._lock:
            since = self._waiting_since
            return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        with self._lock:
            self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                assert self._waiting_since is not None
                self._waited_s += time.monotonic() - self._waiting_since
                self._waiting_since = None

    def show(self, point: TrainPoint, num_images: float) -> None:
        """Shows a point of the metrics, which averages ``num_images`` images that were not shown before."""
        self._images.inc(num_images)
        values = {
            "step": point.global_step,
            "epoch": point.epoch,
            "loss": point.loss,
            "top1_error": point.top1_error,
            "learning_rate": point.rate,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
