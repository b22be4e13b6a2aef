"""What to make for a range of an epoch: each message's images and their draws, before any image is touched."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader_service.pipeline.augment import Draws, colour_scales, colour_shifts, draw
from loader_service.pipeline.order_cache import OrderCache
from loader_service.wire.types import ColourScale, PixelFormat, View
from preprocess.store import Store

_NUM_CROPS: dict[View, int] = {"train": 1, "centre": 1, "ten_crop": 10, "full": 1}


@dataclass(frozen=True, kw_only=True)
class StepRange:
    """Steps [first_step, last_step) of one epoch, and positions [slice_begin, slice_end) of each: a valid request."""

    split: str
    view: View
    crop_size: int
    shuffle: bool
    seed: int
    epoch: int
    batch_size: int
    first_step: int
    last_step: int
    slice_begin: int
    slice_end: int
    colour_std: float
    colour_scale: ColourScale
    pixel_format: PixelFormat

    @property
    def num_crops(self) -> int:
        """Crops of each image."""
        return _NUM_CROPS[self.view]

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's crops as they are sent."""
        pixel_bytes = 4 if self.pixel_format == "float32" else 1
        return self.num_crops * self.crop_size * self.crop_size * 3 * pixel_bytes

    @property
    def slice_bytes(self) -> int:
        """Bytes of the images of one step."""
        return (self.slice_end - self.slice_begin) * self.image_bytes


@dataclass(frozen=True, kw_only=True)
class Job:
    """One message's worth of work."""

    range: StepRange
    step: int
    offset: int
    slice_size: int
    indices: npt.NDArray[np.int64]
    tops: list[int]
    lefts: list[int]
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
        num_images = self._store.split(steps.split).num_images
        order = self._orders.get(num_images, steps.seed, steps.epoch) if steps.shuffle else None
        statistics = self._store.statistics
        scales = colour_scales(statistics.eigenvalues, unit=steps.colour_scale == "unit_eigenvalue")
        images_per_message = self.images_per_message(steps)
        for step in range(steps.first_step, steps.last_step):
            begin = step * steps.batch_size + steps.slice_begin
            end = min(step * steps.batch_size + steps.slice_end, num_images)
            begin = min(begin, end)
            indices = np.arange(begin, end, dtype=np.int64) if order is None else order[begin:end].astype(np.int64)
            draws = self._draws(indices, steps)
            shifts = colour_shifts(draws.alphas, scales, statistics.eigenvectors, steps.colour_std)
            tops, lefts, mirrors = draws.tops.tolist(), draws.lefts.tolist(), draws.mirrors.tolist()
            # A slice past the end of a short last step still gets its one, empty message.
            for offset in range(0, max(len(indices), 1), images_per_message):
                part = slice(offset, offset + images_per_message)
                yield Job(
                    range=steps,
                    step=step,
                    offset=offset,
                    slice_size=len(indices),
                    indices=indices[part],
                    tops=tops[part],
                    lefts=lefts[part],
                    mirrors=mirrors[part],
                    colour_shifts=shifts[part],
                )

    def _draws(self, indices: npt.NDArray[np.int64], steps: StepRange) -> Draws:
        side = self._store.manifest.image.side
        if steps.view == "train":
            return draw(indices, seed=steps.seed, epoch=steps.epoch, side=side, crop_size=steps.crop_size)
        centre = (side - steps.crop_size) // 2
        num_images = len(indices)
        return Draws(
            tops=np.full(num_images, centre),
            lefts=np.full(num_images, centre),
            mirrors=np.zeros(num_images, np.bool_),
            alphas=np.zeros((num_images, 3)),
        )
