"""Opens a store and reads its records: read-only, thread-safe."""

import bisect
import hashlib
import io
import resource
import threading
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np

from preprocess.errors import DamagedRecordError, StoreError
from preprocess.store.format import (
    MANIFEST_NAME,
    STATISTICS_NAME,
    Manifest,
    ShardInfo,
    SplitInfo,
    Statistics,
    unpack_record,
)
from preprocess.store.shard_reader import ShardFile

# Left for sockets, logs and libraries beside the shards, which stay open once read.
_OTHER_OPEN_FILES = 512


class Store:
    """A complete store, opened for reading. Shards are opened when first read and stay open until ``close``.

    Safe for use from many threads. Opening checks the manifest, the statistics'
    digest and every shard's size, and reads no image. Raises StoreError when something is missing or of another
    format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = _read_manifest(path)
        self.statistics = _read_statistics(path, self.manifest)
        for split in self.manifest.splits.values():
            for shard in split.shards:
                _check_size(path, shard)
        _allow_open_files(path, sum(len(split.shards) for split in self.manifest.splits.values()))
        self.reads = Reads()
        self._splits = {name: SplitReader(path, name, info, self.reads) for name, info in self.manifest.splits.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def split(self, name: str) -> "SplitReader":
        """The records of one split. Raises StoreError, naming the splits there are, when there is none such."""
        if name not in self._splits:
            raise StoreError(f"{self.path}: expected one of the splits {', '.join(self._splits)}, found {name!r}")
        return self._splits[name]

    def close(self) -> None:
        """Closes every shard; no thread may be reading."""
        for split in self._splits.values():
            split.close()


class Reads:
    """What has been read from a store, and how often and how long its readers waited for the disk. Thread-safe."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_waits = 0
        self.wait_s = 0.0
        self._lock = threading.Lock()

    def add_wait(self, wait_s: float) -> None:
        with self._lock:
            self.num_waits += 1
            self.wait_s += wait_s


class SplitReader:
    """The records of one split, by index ``[0, num_images)``."""

    def __init__(self, store: Path, name: str, info: SplitInfo, reads: Reads) -> None:
        self._store, self._reads = store, reads
        self.name = name
        self.info = info
        self.num_images = info.num_images
        self._ends = list(accumulate(shard.num_images for shard in info.shards))
        self._files: dict[int, ShardFile] = {}
        self._lock = threading.Lock()

    def read(self, index: int) -> tuple[int, memoryview]:
        """The label and image bytes of record ``index``; the view stays valid.

        Raises DamagedRecordError, naming shard and key, when the record's checksum does not hold, or when the shard has
        become shorter since it was opened.
        """
        shard, position = self.locate(index)
        file = self._file(shard)
        try:
            return unpack_record(self._record(file, position))
        except ValueError as error:
            raise DamagedRecordError(f"{file.path}: key {position}: {error}") from None

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
        """Where each image of a shard came from, in key order."""
        num_images = self.info.shards[shard].num_images
        return bytes(self._record(self._file(shard), num_images)).split(b"\0") if num_images else []

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

    def _record(self, file: ShardFile, position: int) -> memoryview:
        record, wait_s = file.read(position)
        self._reads.num_bytes += len(record)  # no lock: a count now and then lost costs less
        if wait_s:
            self._reads.add_wait(wait_s)
        return record

    def _file(self, shard: int) -> ShardFile:
        file = self._files.get(shard)
        if file is None:
            # Without the lock, since it waits for the disk: many shards are opened at once when a stream begins.
            info = self.info.shards[shard]
            _check_size(self._store, info)
            opened = ShardFile(self._store / info.file, info)
            with self._lock:
                file = self._files.setdefault(shard, opened)
            if file is not opened:
                opened.close()
        return file


def spread(size: int, count: int) -> list[int]:
    """At most ``count`` indices evenly over ``[0, size)``."""
    return [index * size // min(size, count) for index in range(min(size, count))]


def _read_manifest(path: Path) -> Manifest:
    manifest = path / MANIFEST_NAME
    try:
        text = manifest.read_text("utf-8")
    except FileNotFoundError:
        found = "a folder without one (an unfinished run?)" if path.is_dir() else "no such folder"
        raise StoreError(f"{path}: expected a store with {MANIFEST_NAME}, found {found}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{manifest}: cannot be read: {error}") from None
    return Manifest.from_json(text, str(manifest))


def _read_statistics(path: Path, manifest: Manifest) -> Statistics:
    file = path / STATISTICS_NAME
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: expected the store's statistics, found: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.statistics_sha256:
        raise StoreError(f"{file}: expected SHA-256 {manifest.statistics_sha256}, found {digest}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Statistics(
            num_images=int(arrays["num_images"]),
            mean_image=arrays["mean_image"],
            covariance=arrays["covariance"],
            eigenvalues=arrays["eigenvalues"],
            eigenvectors=arrays["eigenvectors"],
        )


def _allow_open_files(path: Path, num_shards: int) -> None:
    """Raises the process's limit of open files where the store's shards do not fit: ImageNet's 1,300 are over the
    usual 1,024. Raises StoreError when the system does not allow it."""
    needed = 2 * num_shards + _OTHER_OPEN_FILES  # Python's mapping of a file holds it open a second time
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StoreError(
            f"{path}: expected a limit of at least {needed:,} open files, for {num_shards:,} shards, found {hard:,}; "
            f"raise it (ulimit -n {needed}) or preprocess with more --images-per-shard"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_size(store: Path, shard: ShardInfo) -> None:
    path = store / shard.file
    try:
        found = path.stat()
    except OSError as error:
        raise DamagedRecordError(f"{path}: expected a shard, found: {error.strerror}") from None
    if found.st_size != shard.size_bytes:
        raise DamagedRecordError(
            f"{path}: expected {shard.size_bytes:,} bytes, found {found.st_size:,}: truncated or foreign"
        )
