"""What the bytes of a store mean: names, records, manifest and fingerprint. Changing any of it changes FORMAT_VERSION.

    STORE/
      manifest.json              what the store holds, in which order, and its fingerprint
      statistics.npz             mean image, covariance, eigenvalues and eigenvectors of the training split
      quarantine.jsonl           a line for each image that could not be used, with the reason
      shards/train-00000.lmdb    one LMDB environment (a single file) a shard
      shards/train-00000.json    the shard's sidecar; a shard without a valid one does not exist
      shards/train-00000.npz     the shard's part of the statistics (training split only)

A shard maps big-endian uint64 keys 0, 1, ... num_images - 1 to records, DIGESTS_KEY to what these should be (see
``ShardDigests``; shards of earlier releases have none), and NAMES_KEY to the source names of its records (NUL-joined,
in key order). Image i of a split is record ``i - first`` of the shard whose range ``[first, first + num_images)``
holds i.

An image's bytes are, by ``ImageSpec.encoding``:

    jpeg      a JPEG file
    yuv420    uint8 [side, side] of Y, then [side / 2, side / 2] of U and of V: BT.601, video range
    raw       uint8 [side, side, 3], RGB
"""

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from preprocess.errors import StoreError

FORMAT_NAME = "alexnet-store"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
STATISTICS_NAME = "statistics.npz"
QUARANTINE_NAME = "quarantine.jsonl"
SHARDS_DIRECTORY = "shards"
# The split whose images the statistics are over.
STATISTICS_SPLIT = "train"

REMEDY = (
    f"copy the store again, or delete {MANIFEST_NAME} and repeat the run that made it, which writes both files anew"
)
"""What to do about a damaged manifest, or about damaged statistics."""

# Of an image, in pixels.
SMALLEST_SIDE, LARGEST_SIDE = 8, 4096

Encoding = Literal["jpeg", "yuv420", "raw"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

# Little-endian int64 label, uint64 checksum, then the image's bytes (16-byte header keeps them aligned).
_RECORD_HEADER = struct.Struct("<qQ")
RECORD_HEADER_BYTES = _RECORD_HEADER.size
_KEY = struct.Struct(">Q")
NAMES_KEY = b"\xff" * 8
DIGESTS_KEY = b"\xff" * 7 + b"\xfe"


def shard_key(position: int) -> bytes:
    """The LMDB key of the record at ``position`` in its shard: fixed width, so that byte order is number order."""
    return _KEY.pack(position)


def shard_stem(split: str, shard: int) -> str:
    """``train-00042``: the name that a shard's files share."""
    return f"{split}-{shard:05d}"


def _checksum(label: int, image: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(image, seed=label & 0xFFFFFFFFFFFFFFFF)


def checksum_of(record: bytes) -> int:
    """The checksum that a record carries."""
    return int(_RECORD_HEADER.unpack_from(record)[1])


def names_checksum(names: bytes | memoryview) -> int:
    """The checksum of a list of names, which carries none."""
    return _checksum(0, names)


def pack_record(label: int, image: bytes) -> bytes:
    """A record's bytes. The checksum covers the label too."""
    return _RECORD_HEADER.pack(label, _checksum(label, image)) + image


def unpack_record(record: memoryview, expected: int | None = None) -> tuple[int, memoryview]:
    """A record's label and image bytes (a view into ``record``). Raises ValueError when their checksum is not the
    ``expected`` one, or where none is known the record's own."""
    if len(record) < _RECORD_HEADER.size:
        raise ValueError(f"expected at least {_RECORD_HEADER.size} bytes, found {len(record)}")
    label, checksum = _RECORD_HEADER.unpack_from(record)
    image = record[_RECORD_HEADER.size :]
    if expected is None:
        expected = checksum
    if _checksum(label, image) != expected:
        raise ValueError(f"expected checksum {expected:016x}, found {_checksum(label, image):016x}")
    return label, image


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How every image of a store was made. Part of the fingerprint."""

    encoding: Encoding = "jpeg"
    side: int = 256
    """Images are ``side`` x ``side`` RGB: shorter side scaled to it, then the centre cut out."""
    quality: int = 95
    """JPEG quality; ignored by the others."""
    subsampling: Subsampling = "4:2:0"
    """JPEG chroma subsampling; ignored by the others."""
    apply_exif: bool = False
    """Whether EXIF orientation was honoured. The original pipeline ignores it."""

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise ValueError(f"encoding: expected one of {', '.join(get_args(Encoding))}, found {self.encoding!r}")
        if not SMALLEST_SIDE <= self.side <= LARGEST_SIDE:
            raise ValueError(f"side: expected {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, found {self.side}")
        if self.encoding == "yuv420" and self.side % 2:
            raise ValueError(f"side: expected an even number of pixels for encoding yuv420, found {self.side}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality: expected 1 to 100, found {self.quality}")
        if self.subsampling not in get_args(Subsampling):
            raise ValueError(
                f"subsampling: expected one of {', '.join(get_args(Subsampling))}, found {self.subsampling!r}"
            )

    @property
    def raw_size_bytes(self) -> int:
        """Bytes of one decoded image: side * side * 3."""
        return self.side * self.side * 3

    @property
    def stored_size_bytes(self) -> int | None:
        """Bytes of every stored image; None where each has its own size: JPEG."""
        return {"jpeg": None, "yuv420": self.raw_size_bytes // 2, "raw": self.raw_size_bytes}[self.encoding]


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """One class; its label is its place in ``Manifest.classes``."""

    id: str
    """The wnid (``n01440764``) or folder name: classes are sorted by it."""
    name: str
    """Human-readable name, or the id again where the source has none."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard as the manifest lists it."""

    file: str
    """Path of the LMDB file, relative to the store, and in it."""
    num_images: int
    size_bytes: int
    """Exact size of the LMDB file; another size means a truncated or foreign file."""
    content_sha256: str
    """SHA-256 over the records in key order (see ``ContentDigest``), independent of how LMDB lays out its pages."""

    def __post_init__(self) -> None:
        if "\0" in self.file or not set(self.file.split("/")).isdisjoint(("", ".", "..")):
            raise ValueError(f"file: expected a name inside the store, found {self.file!r}")


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split (``train``, ``val``, ...): its shards in order."""

    shards: tuple[ShardInfo, ...]

    @property
    def num_images(self) -> int:
        return sum(shard.num_images for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Exact statistics of the training split's images as they were before encoding, RGB, range 0..255."""

    num_images: int
    mean_image: npt.NDArray[np.float32]
    """float32 [side, side, 3]: mean of each pixel over the training images."""
    covariance: npt.NDArray[np.float64]
    """float64 [3, 3]: covariance of RGB over all pixels of all training images."""
    eigenvalues: npt.NDArray[np.float64]
    """float64 [3]: of the covariance, largest first."""
    eigenvectors: npt.NDArray[np.float64]
    """float64 [3, 3]: column j belongs to eigenvalue j; the sign makes its component of largest size positive."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds."""

    image: ImageSpec
    classes: tuple[ClassInfo, ...]
    splits: dict[str, SplitInfo]
    statistics_sha256: str
    """SHA-256 of statistics.npz."""
    source: dict[str, Any]
    """Where the images came from (layout, path, the listing's digest): for people, not part of the fingerprint."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that decides which samples a store yields, and in which order."""
        content = {
            "format_version": FORMAT_VERSION,
            "image": asdict(self.image),
            "classes": [info.id for info in self.classes],
            "splits": {
                name: [[shard.num_images, shard.content_sha256] for shard in split.shards]
                for name, split in sorted(self.splits.items())
            },
            "statistics": self.statistics_sha256,
        }
        return json_digest(content)

    def to_json(self) -> str:
        document = {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            **asdict(self),
        }
        return json.dumps(document, indent=1, ensure_ascii=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Parses a manifest; ``where`` is named in errors. Raises StoreError for anything but a sound manifest."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{where}: expected a JSON manifest, found {error}: {REMEDY}") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT_NAME:
            raise StoreError(f"{where}: expected a manifest of format {FORMAT_NAME!r}, found something else: {REMEDY}")
        if document.get("format_version") != FORMAT_VERSION:
            raise StoreError(
                f"{where}: expected store format version {FORMAT_VERSION}, found {document.get('format_version')!r}; "
                "preprocess again, or use the release that wrote it"
            )
        try:
            manifest = cls(
                image=ImageSpec(**document["image"]),
                classes=tuple(ClassInfo(**info) for info in document["classes"]),
                splits={
                    name: SplitInfo(shards=tuple(ShardInfo(**shard) for shard in split["shards"]))
                    for name, split in document["splits"].items()
                },
                statistics_sha256=document["statistics_sha256"],
                source=document["source"],
            )
            found = document["fingerprint"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{where}: the manifest is malformed: {type(error).__name__}: {error}: {REMEDY}") from None
        if manifest.fingerprint != found:
            raise StoreError(
                f"{where}: expected fingerprint {manifest.fingerprint} from its contents, found {found}; "
                f"the manifest was edited or damaged: {REMEDY}"
            )
        return manifest


def canonical_json(value: Any) -> bytes:
    """One byte string a value, whatever the order of its keys: for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def json_digest(value: Any) -> str:
    """SHA-256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
