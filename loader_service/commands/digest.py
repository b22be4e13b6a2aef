"""``digest``: one SHA-256 for an epoch's stream, so that anyone can compare two deployments."""

import hashlib
import struct

from loader_service.client import Batch

_ROW = struct.Struct("<qq")


class StreamDigest:
    """SHA-256 over index, label (little-endian int64), crop bytes and colour shift (float32 [3]) of each image.

    It depends on the images' order and not on how they are cut into batches.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_images = 0

    def add(self, batch: Batch) -> None:
        """Takes in a batch; batches must come in order."""
        shifts = batch.colour_shifts.astype("<f4", copy=False)
        for i in range(batch.num_images):
            self._hash.update(_ROW.pack(int(batch.indices[i]), int(batch.labels[i])))
            self._hash.update(memoryview(batch.images[i]).cast("B"))
            self._hash.update(memoryview(shifts[i]).cast("B"))
        self.num_images += batch.num_images

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
