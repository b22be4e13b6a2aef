"""What a run has consumed, as one running digest that a checkpoint holds and continues."""

import hashlib
from typing import Any

import numpy as np

from loader_service.client import Batch

BLOCK_BYTES = 4096
_SAMPLED = 4
"""Rows, and columns, of a crop whose crossings stand for its pixels."""


def rows_of(batch: Batch) -> bytes:
    """What the digest takes in of each image: index, label, colour shift, and 16 pixels spread over its crop.

    Those 16 move with the crop and change sides with a mirror image; hashing all pixels would cost as much as decoding.
    """
    side = batch.images.shape[-2]
    # Unevenly spread and off the middle, so that no place is its own mirror image.
    places = np.array([side * n * n // (_SAMPLED * _SAMPLED) for n in range(_SAMPLED)])
    pixels = batch.images[..., places[:, None], places[None, :], :]
    columns = (
        batch.indices.astype("<i8", copy=False),
        batch.labels.astype("<i8", copy=False),
        batch.colour_shifts.astype("<f4", copy=False),
        pixels,
    )
    rows = [np.ascontiguousarray(each).reshape(batch.num_images, -1).view(np.uint8) for each in columns]
    return np.concatenate(rows, axis=1).tobytes()


class ConsumedDigest:
    """A SHA-256 chained over blocks of the consumed rows, in order; how they were cut into batches does not matter.

    hashlib's own state cannot be saved: here it is the chain's last link and the bytes after it.
    """

    def __init__(self, link: bytes = b"", rest: bytes = b"", epochs: tuple[str, ...] = ()) -> None:
        self._link, self._rest = link, rest
        self.epochs = epochs
        """After each epoch, the digest of all that was consumed until then."""

    def add(self, rows: bytes) -> None:
        """Takes in the rows of the next batch."""
        self._rest += rows
        while len(self._rest) >= BLOCK_BYTES:
            self._link = hashlib.sha256(self._link + self._rest[:BLOCK_BYTES]).digest()
            self._rest = self._rest[BLOCK_BYTES:]

    def end_epoch(self) -> None:
        """Notes the digest at an epoch's end."""
        self.epochs += (hashlib.sha256(self._link + self._rest).hexdigest(),)

    def to_plain(self) -> dict[str, Any]:
        """Its state, as a checkpoint holds it."""
        return {"link": self._link.hex(), "rest": self._rest.hex(), "epochs": list(self.epochs)}

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> "ConsumedDigest":
        """The digest of that state. Raises KeyError, TypeError or ValueError for anything else."""
        epochs = tuple(map(str, plain["epochs"]))
        return ConsumedDigest(bytes.fromhex(plain["link"]), bytes.fromhex(plain["rest"]), epochs)
