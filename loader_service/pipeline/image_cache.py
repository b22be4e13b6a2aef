"""Decoded images in memory, shared by every stream: admitted until full, never evicted.

Under uniform shuffling every image is equally likely to be next, so an LRU would only churn (its hit rate is the
same fraction of the data set, bought with copies).
"""

import threading

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]


class DecodedCache:
    """Up to ``max_bytes`` of decoded images by (split, index). Thread-safe; 0 bytes keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self._images: dict[tuple[str, int], tuple[int, UInt8]] = {}
        self._lock = threading.Lock()

    def get(self, split: str, index: int) -> tuple[int, UInt8] | None:
        """Label and pixels (not to be written to), or None. Reading a dict takes no lock."""
        if not self.max_bytes:
            return None
        found = self._images.get((split, index))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def has(self, split: str, index: int) -> bool:
        """Whether an image is kept, without counting as a hit or a miss."""
        return (split, index) in self._images

    def has_room(self, size_bytes: int) -> bool:
        """Whether an image of ``size_bytes`` would be kept, were it offered now."""
        return self.size_bytes + size_bytes <= self.max_bytes

    def offer(self, split: str, index: int, label: int, pixels: UInt8) -> None:
        """Keeps a copy of ``pixels`` if there is room."""
        if not self.has_room(pixels.nbytes):
            return
        kept = pixels.copy()
        kept.flags.writeable = False
        with self._lock:
            key = (split, index)
            if key not in self._images and self.has_room(kept.nbytes):
                self._images[key] = (label, kept)
                self.size_bytes += kept.nbytes
