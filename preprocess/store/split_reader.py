"""The records of one split of a store, from shards that are opened once and stay open."""

import bisect
import threading
from collections.abc import Iterable
from itertools import accumulate

from preprocess.errors import DamagedRecordError
from preprocess.store.digests import ContentDigest
from preprocess.store.folder import StoreFolder
from preprocess.store.format import RECORD_HEADER_BYTES, Manifest, names_checksum, unpack_record
from preprocess.store.shard_reader import ShardFile

_NUM_SAMPLED = 2
"""Records of a shard without digests that are looked at when it is opened."""


class Reads:
    """What has been read from a store, and how often and how long its readers waited for the disk. Thread-safe."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_waits = 0
        self.wait_s = 0.0
        self.are_from_disk = False
        """Said by whoever knows: most of what is read was just brought from the disk, and will make room for more soon.
        It is copied then: memory that is mapped too costs the kernel several times as much to take back."""
        self._lock = threading.Lock()

    def add_wait(self, wait_s: float) -> None:
        with self._lock:
            self.num_waits += 1
            self.wait_s += wait_s


class SplitReader:
    """The records of one split, by index ``[0, num_images)``."""

    def __init__(self, folder: StoreFolder, name: str, manifest: Manifest, reads: Reads) -> None:
        self._folder, self._reads = folder, reads
        self._stored_size_bytes, self._num_classes = manifest.image.stored_size_bytes, len(manifest.classes)
        self.name = name
        self.info = manifest.splits[name]
        self.num_images = self.info.num_images
        self._ends = list(accumulate(shard.num_images for shard in self.info.shards))
        self._files: dict[int, ShardFile] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> tuple[int, memoryview]:
        """The label and image bytes of record ``index``; the view stays valid.

        Raises DamagedRecordError, naming shard and key, when it is not the record that was written there, or when the
        shard has become shorter since it was opened, and StoreUnavailableError when the system cannot read it now.
        """
        shard, position = self.locate(index)
        return self._unpacked(self._file(shard), position)

    def open(self, shard: int) -> None:
        """Opens a shard, unless it is open. Raises StoreError."""
        self._file(shard)

    def check_content(self, shard: int) -> None:
        """Raises DamagedRecordError unless all of a shard is what its digest in the manifest says."""
        file, info, digest = self._file(shard), self.info.shards[shard], ContentDigest()
        for position in range(info.num_images):
            digest.add_image(*self._unpacked(file, position))
        digest.add_names(self.names(shard))
        if digest.hexdigest() != info.content_sha256:
            raise DamagedRecordError(
                f"{file.path}: expected content SHA-256 {info.content_sha256}, found {digest.hexdigest()}"
            )

    def will_need(self, indices: Iterable[int]) -> int:
        """Has the kernel begin to read records that will be read soon; returns their bytes.

        It waits for no record, but may wait for the device to take the requests. Raises DamagedRecordError.
        """
        positions: dict[int, list[int]] = {}
        for index in indices:
            shard, position = self.locate(index)
            positions.setdefault(shard, []).append(position)
        return sum(self._file(shard).will_need(wanted) for shard, wanted in positions.items())

    def names(self, shard: int) -> list[bytes]:
        """Where each image of a shard came from, in key order. Raises as ``read`` does."""
        file, num_images = self._file(shard), self.info.shards[shard].num_images
        names = bytes(self._record(file, num_images))
        if file.checksum(num_images) not in (None, names_checksum(names)):
            raise DamagedRecordError(f"{file.path}: expected the names that were written, found others")
        return names.split(b"\0") if num_images else []

    def locate(self, index: int) -> tuple[int, int]:
        """The shard and the position in it of record ``index``."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"split {self.name!r}: expected an index in [0, {self.num_images}), found {index}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard] - self.info.shards[shard].num_images)

    def close(self) -> None:
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def _unpacked(self, file: ShardFile, position: int) -> tuple[int, memoryview]:
        try:
            return unpack_record(self._record(file, position), file.checksum(position))
        except ValueError as error:
            raise DamagedRecordError(f"{file.path}: key {position}: {error}") from None

    def _record(self, file: ShardFile, position: int) -> memoryview:
        record, wait_s = file.read(position, is_copied=self._reads.are_from_disk)
        self._reads.num_bytes += len(record)  # no lock: a count now and then lost costs less
        if wait_s:
            self._reads.add_wait(wait_s)
        return record

    def _file(self, shard: int) -> ShardFile:
        file = self._files.get(shard)
        if file is None:
            # Without the lock, since it waits for the disk: many shards are opened at once when a stream begins.
            opened = ShardFile(self._folder, self.info.shards[shard])
            if opened.checksum(0) is None:
                self._check_without_digests(opened)
            with self._lock:
                file = self._files.setdefault(shard, opened)
            if file is not opened:
                opened.close()
        return file

    def _check_without_digests(self, file: ShardFile) -> None:
        """What can be known of a shard that does not say which it is: sizes of its records, labels of some. Raises
        StoreError."""
        size_bytes = file.record_bytes
        if self._stored_size_bytes is not None and (size_bytes != RECORD_HEADER_BYTES + self._stored_size_bytes).any():
            raise DamagedRecordError(f"{file.path}: expected images of {self._stored_size_bytes:,} bytes, found others")
        for position in spread(len(size_bytes), _NUM_SAMPLED):
            label, _ = self._unpacked(file, position)
            if not 0 <= label < self._num_classes:
                raise DamagedRecordError(
                    f"{file.path}: key {position}: expected a label in [0, {self._num_classes}), found {label}"
                )


def spread(size: int, count: int) -> list[int]:
    """At most ``count`` indices evenly over ``[0, size)``."""
    return [index * size // min(size, count) for index in range(min(size, count))]
