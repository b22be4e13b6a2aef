"""What a source holds, as columns: about 52 bytes an image, so that ImageNet-21k's 14.2 million fit in 1 GB."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.sources.ledger import PassedOver
from preprocess.store.format import ClassInfo, canonical_json, json_digest

Access = Literal["file", "range", "row", "stream", "cifar"]
# The offset of a link in a tar that leads to nothing.
NOWHERE = -1
_LARGEST_SIZE = 2**32 - 1
# Labels are kept as int32.
MAX_LABEL = 2**31 - 1
_HASHED_AT_ONCE = 1 << 20


class ImageEntry(NamedTuple):
    """One image: where its bytes are, what it is called and what it shows."""

    name: bytes
    """Its path within the source, unique in its split; bytes, since file names need not be UTF-8."""
    label: int
    size_bytes: int
    """Exact up to 4 GiB, except for ``row`` access, where it is a mean."""
    container: str | None
    """The file that holds it among others, relative to the source's root; None: the file called ``name``."""
    offset: int
    """Its row in the container (``row``), or else its first byte there; NOWHERE for a link that leads to nothing."""


@dataclass(frozen=True, kw_only=True)
class ImageList:
    """Images in columns of length N. Cheap to slice, to send to another process and to hash."""

    access: Access
    """``file``: a file an image. ``range``: bytes within a container. ``stream``: bytes within what a container, which
    may be gzipped, expands to. ``cifar``: the same, of pixels as CIFAR has them. ``row``: a row of a parquet file."""
    containers: tuple[str, ...]
    name_bytes: bytes
    name_ends: npt.NDArray[np.int64]
    """int64 [N]: name i is ``name_bytes[name_ends[i - 1] : name_ends[i]]``."""
    labels: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.uint32]
    container_indices: npt.NDArray[np.int32]
    """int32 [N]: into ``containers``; -1 for ``file`` access."""
    offsets: npt.NDArray[np.int64]
    group_starts: npt.NDArray[np.int64] | None = None
    """int64 [G]: the first image of each run that storage reads as one (a parquet row group); None: no such runs."""

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[ImageEntry]:
        return (self.entry(index) for index in range(len(self)))

    def name(self, index: int) -> bytes:
        start = self.name_ends[index - 1] if index else 0
        return self.name_bytes[start : self.name_ends[index]]

    def entry(self, index: int) -> ImageEntry:
        container = int(self.container_indices[index])
        return ImageEntry(
            name=self.name(index),
            label=int(self.labels[index]),
            size_bytes=int(self.sizes[index]),
            container=None if container < 0 else self.containers[container],
            offset=int(self.offsets[index]),
        )

    def take(self, indices: npt.NDArray[np.integer]) -> "ImageList":
        """The images at ``indices``, in that order, with the containers that they use and no others."""
        names = [self.name(int(index)) for index in indices]
        used, renumbered = np.unique(self.container_indices[indices], return_inverse=True)
        if self.access == "file":
            used, renumbered = used[:0], np.full(len(indices), -1)
        return ImageList(
            access=self.access,
            containers=tuple(self.containers[index] for index in used),
            name_bytes=b"".join(names),
            name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
            labels=self.labels[indices],
            sizes=self.sizes[indices],
            container_indices=renumbered.astype(np.int32),
            offsets=self.offsets[indices],
        )

    def digest(self) -> str:
        """SHA-256 over names, labels, sizes and places: an unchanged source gives the same each time it is listed."""
        digest = hashlib.sha256(canonical_json([self.access, list(self.containers), len(self)]))
        digest.update(self.name_bytes)
        for column in (self.name_ends, self.labels, self.sizes, self.container_indices, self.offsets):
            # By parts: a constant column takes no memory until it is copied.
            for start in range(0, len(column), _HASHED_AT_ONCE):
                digest.update(np.ascontiguousarray(column[start : start + _HASHED_AT_ONCE]).data)
        return digest.hexdigest()


class ImageListBuilder:
    """Collects images in the order in which they are added, in no more memory than the finished list."""

    def __init__(self, access: Access) -> None:
        self._access: Access = access
        self._containers: list[str] = []
        self._names = bytearray()
        self._name_ends = array("q")
        self._labels = array("i")
        self._sizes = array("I")
        self._container_indices = array("i")
        self._offsets = array("q")
        self._group_starts = array("q")

    def __len__(self) -> int:
        return len(self._labels)

    def begin_container(self, path: str) -> None:
        """The images that follow are in the file at ``path``."""
        self._containers.append(path)

    def begin_group(self) -> None:
        """The images that follow are read from storage as one."""
        self._group_starts.append(len(self))

    def add(self, name: bytes, label: int, size_bytes: int, offset: int = 0) -> None:
        self._names += name
        self._name_ends.append(len(self._names))
        self._labels.append(label)
        try:
            self._sizes.append(size_bytes)
        except OverflowError:
            self._sizes.append(_LARGEST_SIZE)
        if self._access != "file":
            self._container_indices.append(len(self._containers) - 1)
            self._offsets.append(offset)

    def build(self) -> ImageList:
        """The list of what was added. Its columns are the builder's own memory: add nothing after."""
        num_images = len(self)
        if self._access == "file":
            containers = np.broadcast_to(np.int32(-1), (num_images,))
            offsets = np.broadcast_to(np.int64(0), (num_images,))
        else:
            containers = np.frombuffer(self._container_indices, np.int32)
            offsets = np.frombuffer(self._offsets, np.int64)
        return ImageList(
            access=self._access,
            containers=tuple(self._containers),
            name_bytes=bytes(self._names),
            name_ends=np.frombuffer(self._name_ends, np.int64),
            labels=np.frombuffer(self._labels, np.int32),
            sizes=np.frombuffer(self._sizes, np.uint32),
            container_indices=containers,
            offsets=offsets,
            group_starts=np.frombuffer(self._group_starts, np.int64) if self._group_starts else None,
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as found: its classes in label order and its splits in a fixed order."""

    layout: str
    root: str
    """Local path or fsspec URL."""
    classes: tuple[ClassInfo, ...]
    splits: dict[str, ImageList]
    num_members: int = 0
    """All that was found: images, what was read for them, and what was passed over."""
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()
    """What is no error, and what a person would want to know before weeks of training."""

    def describe(self) -> str:
        """``folder layout: train 9,469 images, val 3,925 images in 10 classes``."""
        counts = ", ".join(f"{name} {len(images):,} images" for name, images in self.splits.items())
        return f"{self.layout} layout: {counts} in {len(self.classes):,} classes"

    def digest(self) -> str:
        """SHA-256 over classes and listings, without the root: a moved source is the same source."""
        content = {
            "classes": [[info.id, info.name] for info in self.classes],
            "splits": {name: images.digest() for name, images in self.splits.items()},
        }
        return json_digest(content)
