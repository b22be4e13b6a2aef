"""What an answer must be: held against each message before memory is made for its pixels."""

from dataclasses import replace

import numpy as np

from loader_service.wire.codec import PartHeader
from loader_service.wire.types import Description, StepRange

_HEADER_BYTES, _HEADER_BYTES_PER_IMAGE = 256, 28
"""Most that a message has before its pixels: scalars, and label, index and colour shift of each image."""


class Expected:
    """What the answer to a request for ``steps`` is, from a replica that describes itself so."""

    def __init__(self, steps: StepRange, description: Description) -> None:
        self.steps = replace(steps, spec=steps.spec.cropped(description.image_side))
        """Their crops have a size."""
        self._num_images = description.splits[steps.spec.split]
        self._num_classes = len(description.classes)

    @property
    def most_header_bytes(self) -> int:
        """Most bytes of a message before its pixels."""
        return _HEADER_BYTES + _HEADER_BYTES_PER_IMAGE * (self.steps.slice_end - self.steps.slice_begin)

    def check(self, part: PartHeader, step: int) -> None:
        """Raises ValueError, saying what was expected, for what cannot be a part of ``step``."""
        spec, crop_size = self.steps.spec, self.steps.crop_size
        dtype = np.dtype(spec.pixel_format)
        first = step * spec.batch_size
        begin = min(first + self.steps.slice_begin, self._num_images)
        end = min(first + self.steps.slice_end, self._num_images)
        found = part.epoch, part.step, part.slice_size, *part.shape[1:], part.dtype
        expected = self.steps.epoch, step, end - begin, spec.num_crops, crop_size, crop_size, 3, dtype
        if found != expected:
            raise ValueError(
                f"epoch, step, slice, crops, height, width, channels, type: expected {expected}, found {found}"
            )
        num_images = part.shape[0]
        if not min(part.slice_size, 1) <= num_images <= part.slice_size - part.offset:
            raise ValueError(f"expected images of a slice of {part.slice_size}, found {num_images} at {part.offset}")
        for name, values, end in (
            ("labels", part.labels, self._num_classes),
            ("indices", part.indices, self._num_images),
        ):
            if num_images and values.view(np.uint64).max() >= end:  # where negative ones are large
                raise ValueError(f"{name}: expected those in [0, {end}), found others")
        if not np.isfinite(part.colour_shifts).all():
            raise ValueError("colour_shifts: expected finite ones, found others")
