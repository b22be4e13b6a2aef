"""A run as sections of a page, each drawn from what the run's folder and its loaders hold by now."""

import html
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch

from loader_service.client import Batch, LoaderClient, LoaderError
from trainer.checkpoint.folder import newest, numbered
from trainer.config import TrainConfig
from trainer.data.crops import Pixels, default_crop
from trainer.errors import TrainerError
from trainer.monitor.metrics import METRICS_NAME, EpochPoint, TrainPoint, read_points
from trainer.monitor.run_record import options_of, read_record
from trainer.recipes.schedule import colour_std_at
from trainer.report.charts import error_chart, loss_chart, speed_chart, wait_chart
from trainer.report.markup import tiles
from trainer.report.pictures import data_uri, filter_figures, thumbnails
from trainer.watch.config import WatchConfig
from trainer.watch.loaders import LoaderTable

NUM_CROPS = 16
"""Of a batch; about as many are shown."""
_THUMBNAIL_SIDE = 112
_LOADER_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Section:
    """A part of the page. Several browsers may ask for it; it is drawn by one thread at a time."""

    name: str
    heading: str
    every_s: int
    """Seconds between two looks at it."""
    _draw: Callable[[], str]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self) -> str:
        """The section as HTML, or the line that says why it cannot be drawn."""
        with self._lock:
            try:
                return self._draw()
            except (LoaderError, TrainerError, OSError) as error:
                return f"<p class=soft>{html.escape(str(error))}</p>"


class RunView:
    """The sections of one run. Use it as a context manager: it keeps a client of the loaders open."""

    def __init__(self, config: WatchConfig) -> None:
        self._run_dir, self._config = config.run_dir, config
        self._client: LoaderClient | None = None
        self._shown: dict[str, tuple[object, str]] = {}
        self._read: tuple[object, tuple[list[TrainPoint], list[EpochPoint]]] | None = None
        table = LoaderTable(config.metrics_urls, config.tls_ca)
        self.sections = (
            Section("summary", "Now", 2, self._summary),
            Section("curves", "Loss, errors, speed", 2, self._curves),
            Section("loaders", "Loaders", 2, table.draw),
            Section("batch", "What it was just shown", 5, self._batch),
            Section("filters", "The first layer's filters", 5, self._filters),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def _summary(self) -> str:
        train, epochs = self._points()
        last, options = train[-1], options_of(read_record(self._run_dir))
        of = f" of {options.resolved_recipe.schedule.end_epoch}" if options else ""
        figures = [
            (f"{last.epoch + 1}{of}", f"epoch; step {last.step:,}, {last.global_step:,} in all"),
            (f"{last.loss:.3f}", f"training loss, top-1 error {100 * last.top1_error:.1f} %"),
            *_validation_tiles(epochs),
            (f"{last.images_per_s:,.0f}", "images/s"),
            (f"{100 * last.data_wait:.0f} %", "of the time without data"),
            (f"{last.rate:g}", "learning rate"),
        ]
        silent_s = time.time() - (self._run_dir / METRICS_NAME).stat().st_mtime
        quiet = f"<p class=soft>Nothing new for {silent_s / 60:.0f} minutes.</p>" if silent_s >= 60 else ""
        return quiet + tiles(figures)

    def _curves(self) -> str:
        train, epochs = self._points()
        charts = loss_chart(train, epochs), error_chart(epochs), speed_chart(train), wait_chart(train)
        return f"<div class=charts>{''.join(charts)}</div>"

    def _filters(self) -> str:
        paths = numbered(self._run_dir)
        if not paths:
            return "<p class=soft>Waiting for the first checkpoint.</p>"

        def draw() -> str:
            found = newest(self._run_dir)
            assert found is not None
            path, snapshot = found
            place = f"{path.name}: after {snapshot.epoch} epochs and {snapshot.step:,} steps"
            return f"<p class=soft>{place}</p>{filter_figures(snapshot.weights)}"

        return self._kept("filters", paths[0], draw)

    def _batch(self) -> str:
        train, _ = self._points()
        point, options = train[-1], options_of(read_record(self._run_dir))
        if options is None:
            raise TrainerError("run.json does not tell the run's options: its batches cannot be asked for")
        return self._kept("batch", (point.epoch, point.step), lambda: self._draw_batch(options, point))

    def _draw_batch(self, options: TrainConfig, point: TrainPoint) -> str:
        if self._client is None:
            connect = self._config if self._config.target else options
            patience = replace(connect.client_options, unavailable_timeout_s=_LOADER_TIMEOUT_S, prefetch_steps=1)
            self._client = LoaderClient(connect.target, patience)
        description = self._client.describe()
        crop = options.crop or default_crop(description.image_side)
        colour_std = colour_std_at(options.resolved_recipe, point.epoch)
        share = max(options.batch_size // NUM_CROPS, 1)
        spec = options.stream_spec(crop, colour_std, rank=0, world_size=share)
        with self._client.stream(spec, epoch=point.epoch, step=point.step - 1) as stream:
            batch = next(stream)
        names = [description.classes[label][1] for label in batch.labels.tolist()]
        figures = "".join(
            f'<figure><img alt="{name}" src="{data_uri(pixels)}"><figcaption>{name}</figcaption></figure>'
            for name, pixels in zip(map(html.escape, names), _as_seen(batch), strict=True)
        )
        place = f"{batch.num_images} of the {spec.batch_size} images of epoch {point.epoch + 1}, step {point.step:,}"
        return f"<p class=soft>{place}, as cut, mirrored and coloured for it.</p><div class=batch>{figures}</div>"

    def _points(self) -> tuple[list[TrainPoint], list[EpochPoint]]:
        """The run's points, read anew when their file has changed. Raises TrainerError as long as there are none."""
        path = self._run_dir / METRICS_NAME
        status = path.stat() if path.is_file() else None
        change = status and (status.st_mtime_ns, status.st_size)
        if self._read is None or self._read[0] != change:
            self._read = change, read_points(self._run_dir)
        train, epochs = self._read[1]
        if not train:
            raise TrainerError("Waiting for the run's first point.")
        return train, epochs

    def _kept(self, name: str, key: object, draw: Callable[[], str]) -> str:
        """What was drawn last for ``name``, drawn anew when it was for another ``key``."""
        if name not in self._shown or self._shown[name][0] != key:
            self._shown[name] = (key, draw())
        return self._shown[name][1]


def _validation_tiles(epochs: list[EpochPoint]) -> list[tuple[str, str]]:
    for point in reversed(epochs):
        if point.validation_top1_error is not None and point.validation_top5_error is not None:
            errors = f"{100 * point.validation_top1_error:.1f} / {100 * point.validation_top5_error:.1f} %"
            return [(errors, f"validation errors, top-1 / top-5, after epoch {point.epoch + 1}")]
    return []


def _as_seen(batch: Batch) -> Pixels:
    """uint8 [N, side, side, 3]: the crops with their colour shifts, clipped for the eye, and small."""
    shifted = np.clip(np.rint(batch.images + batch.colour_shifts[:, None, None]), 0, 255).astype(np.uint8)
    return thumbnails(torch.from_numpy(shifted), _THUMBNAIL_SIDE).numpy()
