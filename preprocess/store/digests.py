"""What a shard's bytes should be: the digest of its content, and the table that binds each record to its place.

A record's own checksum says that it is whole, not that it is this shard's: whoever reads compares it with the table,
which was read when the shard was opened. The table lies in the shard under DIGESTS_KEY: SHA-256 of the content, then
the uint64 checksum of each record in key order, and last that of the list of names.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_FRAME = struct.Struct("<QQ")
_SHA256_BYTES = 32


class ContentDigest:
    """A shard's ``content_sha256``: label, length and bytes of each image in key order, then the names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add_image(self, label: int, image: bytes | memoryview) -> None:
        self._digest.update(_FRAME.pack(label & 0xFFFFFFFFFFFFFFFF, len(image)))
        self._digest.update(image)

    def add_names(self, names: Iterable[bytes]) -> None:
        """Comes last."""
        for name in names:
            self._digest.update(_FRAME.pack(0, len(name)) + name)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ShardDigests:
    """What is kept under DIGESTS_KEY."""

    content_sha256: str
    checksums: npt.NDArray[np.uint64]
    """uint64 [num_images + 1]: of each record, and of the list of names."""

    def pack(self) -> bytes:
        return bytes.fromhex(self.content_sha256) + self.checksums.astype("<u8").tobytes()

    @classmethod
    def unpack(cls, content: bytes, num_images: int) -> "ShardDigests":
        """Raises ValueError for those of another number of images."""
        expected = _SHA256_BYTES + 8 * (num_images + 1)
        if len(content) != expected:
            raise ValueError(f"expected {expected:,} bytes of digests, found {len(content):,}")
        checksums = np.frombuffer(content[_SHA256_BYTES:], "<u8").astype(np.uint64)
        return cls(content_sha256=content[:_SHA256_BYTES].hex(), checksums=checksums)
