"""The parts of an answer put together into batches: no threads, no connections."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from loader_service.wire.codec import PartHeader
from loader_service.wire.types import Batch

Allocate = Callable[[tuple[int, ...], Any], npt.NDArray[Any]]


class Assembly:
    """Puts the parts of one step together, in the arrays that the batch will own."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._filled = 0

    def room_for(self, part: PartHeader) -> memoryview:
        """Where the pixels of the next part belong, as bytes. Raises TypeError when ``allocate`` made an array that is
        not what it was asked for."""
        if part.offset == 0:
            shape = _shape_of(part)
            images = self._allocate(shape, part.dtype)
            _expect_array(images, shape, np.dtype(part.dtype))
            self._begin(part, images)
        room = self._batch.images[part.offset : part.offset + part.shape[0]]
        return room.reshape(-1).view(np.uint8).data

    def adopt(self, part: PartHeader, pixels: npt.NDArray[np.uint8]) -> Batch:
        """The batch of a part that is all of a step, and whose pixels stay where they are."""
        self._begin(part, pixels.view(part.dtype).reshape(_shape_of(part)))
        batch = self.add(part)
        assert batch is not None
        return batch

    def add(self, part: PartHeader) -> Batch | None:
        """Takes a part whose pixels are in their place; the batch, when that completes it."""
        end = part.offset + len(part.labels)
        self._batch.labels[part.offset : end] = part.labels
        self._batch.indices[part.offset : end] = part.indices
        self._batch.colour_shifts[part.offset : end] = part.colour_shifts
        self._filled = end
        if end < part.slice_size:
            return None
        self._filled = 0
        return self._batch

    def expect(self, part: PartHeader) -> None:
        """Raises ValueError unless ``part`` is the next."""
        if part.offset != self._filled:
            raise ValueError(f"expected the part at {self._filled}, found the one at {part.offset}")

    def _begin(self, part: PartHeader, images: npt.NDArray[Any]) -> None:
        self._batch = Batch(
            epoch=part.epoch,
            step=part.step,
            images=images,
            labels=np.empty(len(images), np.int64),
            indices=np.empty(len(images), np.int64),
            colour_shifts=np.empty((len(images), 3), np.float32),
        )


def _shape_of(part: PartHeader) -> tuple[int, ...]:
    """Shape of all images of the step that ``part`` is one of."""
    _, num_crops, *image_shape = part.shape
    return (part.slice_size, *([num_crops] if num_crops > 1 else []), *image_shape)


def _expect_array(found: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    expected = f"allocate: expected a writable C-contiguous array {dtype} {list(shape)}"
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{expected}, found a {type(found).__name__}")
    if found.shape != shape or found.dtype != dtype:
        raise TypeError(f"{expected}, found {found.dtype} {list(found.shape)}")
    if not (found.flags.c_contiguous and found.flags.writeable):
        raise TypeError(f"{expected}, found one with other flags: {' '.join(str(found.flags).split())}")
