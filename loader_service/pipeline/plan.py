"""What to make for a range of an epoch: each message's images and their draws, before any image is touched."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader_service.pipeline.draws import Draws, colour_scales, colour_shifts, draw
from loader_service.pipeline.order_cache import OrderCache
from loader_service.pipeline.resized_crop import Windows, draw_windows
from loader_service.wire.types import StepRange
from preprocess.store import Store


@dataclass(frozen=True, kw_only=True)
class Job:
    """One message's worth of work."""

    range: StepRange
    step: int
    offset: int
    slice_size: int
    indices: npt.NDArray[np.int64]
    windows: list[list[int]]
    """Top, left, height and width of each image's crop in what is stored."""
    mirrors: list[bool]
    colour_shifts: npt.NDArray[np.float32]


class Planner:
    """Splits ranges of steps over one store into messages of at most ``message_bytes``, or of one image."""

    def __init__(self, store: Store, message_bytes: int) -> None:
        self._store = store
        self._message_bytes = message_bytes
        self._orders = OrderCache()

    def close(self) -> None:
        """Ends the thread that makes the next epoch's order."""
        self._orders.close()

    def images_per_message(self, steps: StepRange) -> int:
        """Images in each message but a step's last, which may have fewer."""
        return max(self._message_bytes // steps.image_bytes, 1)

    def jobs(self, steps: StepRange) -> Iterator[Job]:
        """The messages of ``steps``, in order; at least one a step."""
        spec = steps.spec
        num_images = self._store.split(spec.split).num_images
        order = self._orders.get(num_images, spec.seed, steps.epoch) if spec.shuffle else None
        statistics = self._store.statistics
        scales = colour_scales(statistics.eigenvalues, unit=spec.colour_scale == "unit_eigenvalue")
        images_per_message = self.images_per_message(steps)
        for step in range(steps.first_step, steps.last_step):
            begin = step * spec.batch_size + steps.slice_begin
            end = min(step * spec.batch_size + steps.slice_end, num_images)
            begin = min(begin, end)
            indices = np.arange(begin, end, dtype=np.int64) if order is None else order[begin:end].astype(np.int64)
            draws = self._draws(indices, steps)
            shifts = colour_shifts(draws.alphas, scales, statistics.eigenvectors, spec.colour_std)
            windows = self._windows(indices, steps, draws)
            places = np.stack([windows.tops, windows.lefts, windows.heights, windows.widths], axis=1).tolist()
            mirrors = (draws.mirrors & spec.mirror).tolist()
            # A slice past the end of a short last step still gets its one, empty message.
            for offset in range(0, max(len(indices), 1), images_per_message):
                part = slice(offset, offset + images_per_message)
                yield Job(
                    range=steps,
                    step=step,
                    offset=offset,
                    slice_size=len(indices),
                    indices=indices[part],
                    windows=places[part],
                    mirrors=mirrors[part],
                    colour_shifts=shifts[part],
                )

    def _windows(self, indices: npt.NDArray[np.int64], steps: StepRange, draws: Draws) -> Windows:
        """Where in the stored images the crops are cut."""
        spec = steps.spec
        if not spec.is_resized:
            size = np.full(len(indices), steps.crop_size)
            return Windows(tops=draws.tops, lefts=draws.lefts, heights=size, widths=size)
        side = self._store.manifest.image.side
        return draw_windows(indices, seed=spec.seed, epoch=steps.epoch, side=side, scale=spec.scale, ratio=spec.ratio)

    def _draws(self, indices: npt.NDArray[np.int64], steps: StepRange) -> Draws:
        side = self._store.manifest.image.side
        if steps.spec.view in ("train", "resized_crop"):
            return draw(indices, seed=steps.spec.seed, epoch=steps.epoch, side=side, crop_size=steps.crop_size)
        centre = (side - steps.crop_size) // 2
        num_images = len(indices)
        return Draws(
            tops=np.full(num_images, centre),
            lefts=np.full(num_images, centre),
            mirrors=np.zeros(num_images, np.bool_),
            alphas=np.zeros((num_images, 3)),
        )
