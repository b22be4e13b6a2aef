"""Opens a store and reads its records: read-only, thread-safe, nothing copied."""

import bisect
import hashlib
import io
import os
import resource
import threading
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np

from preprocess.errors import DamagedRecordError, StoreError
from preprocess.store import environments
from preprocess.store.format import (
    MANIFEST_NAME,
    NAMES_KEY,
    STATISTICS_NAME,
    Manifest,
    ShardInfo,
    SplitInfo,
    Statistics,
    shard_key,
    unpack_record,
)

# Left for sockets, logs and libraries beside the shards, which stay open once read.
_OTHER_OPEN_FILES = 512


class Store:
    """A complete store, opened for reading. Shards are opened when first read and stay open until ``close``.

    Safe for use from many threads; not to be carried across a fork. Opening checks the manifest, the statistics'
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
        self._splits = {name: SplitReader(path, name, info) for name, info in self.manifest.splits.items()}

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
        """Closes every shard; views of records die with it, so no thread may be reading."""
        for split in self._splits.values():
            split.close()


class SplitReader:
    """The records of one split, by index ``[0, num_images)``."""

    def __init__(self, store: Path, name: str, info: SplitInfo) -> None:
        self._store = store
        self.name = name
        self.info = info
        self.num_images = info.num_images
        self._ends = list(accumulate(shard.num_images for shard in info.shards))
        self._environments: dict[int, Any] = {}
        self._opened: dict[int, tuple[str, os.stat_result]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def read(self, index: int) -> tuple[int, memoryview]:
        """The label and image bytes of record ``index``; the view is valid until the store is closed.

        Raises DamagedRecordError, naming shard and key, when the record's checksum does not hold, or when the shard has
        become shorter since it was opened.
        """
        shard, position = self.locate(index)
        self._check_length(shard, position)
        record = self._transaction(shard).get(shard_key(position))
        if record is None:
            raise DamagedRecordError(f"{self._file(shard)}: key {position}: expected a record, found none")
        try:
            return unpack_record(memoryview(record))
        except ValueError as error:
            raise DamagedRecordError(f"{self._file(shard)}: key {position}: {error}") from None

    def names(self, shard: int) -> list[bytes]:
        """Where each image of a shard came from, in key order."""
        packed = self._transaction(shard).get(NAMES_KEY)
        if packed is None:
            raise DamagedRecordError(f"{self._file(shard)}: expected the list of names, found none")
        names = bytes(packed).split(b"\0")
        return names if self.info.shards[shard].num_images else []

    def locate(self, index: int) -> tuple[int, int]:
        """The shard and the position in it of record ``index``."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"split {self.name!r}: expected an index in [0, {self.num_images}), found {index}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard] - self.info.shards[shard].num_images)

    def close(self) -> None:
        with self._lock:
            self._local = threading.local()
            for shard in self._environments:
                environments.release(self._file(shard))
            self._environments.clear()
            self._opened.clear()

    def _file(self, shard: int) -> Path:
        return self._store / self.info.shards[shard].file

    def _check_length(self, shard: int, position: int) -> None:
        """Raises DamagedRecordError when an open file has been cut short in place: to touch what is mapped beyond its
        end would kill the process. One that was unlinked or replaced is whole behind its mapping. Takes 2 us.
        """
        if shard not in self._opened:
            return
        file, opened = self._opened[shard]
        try:
            now = os.stat(file)
        except OSError:
            return
        if now.st_size < opened.st_size and now.st_ino == opened.st_ino and now.st_dev == opened.st_dev:
            raise DamagedRecordError(
                f"{file}: key {position}: expected a shard of {opened.st_size:,} bytes, found {now.st_size:,}: "
                "truncated since it was opened"
            )

    def _transaction(self, shard: int) -> Any:
        """This thread's read transaction on a shard: the files never change, so it may stay open for good."""
        transactions: dict[int, Any] | None = getattr(self._local, "transactions", None)
        if transactions is None:
            transactions = self._local.transactions = {}
        if shard not in transactions:
            transactions[shard] = self._environment(shard).begin(buffers=True)
        return transactions[shard]

    def _environment(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._environments:
                found = _check_size(self._store, self.info.shards[shard])
                try:
                    self._environments[shard] = environments.acquire(self._file(shard))
                except lmdb.Error as error:
                    raise DamagedRecordError(f"{self._file(shard)}: LMDB cannot open it: {error}") from None
                self._opened[shard] = str(self._file(shard)), found
            return self._environments[shard]


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
    needed = num_shards + _OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StoreError(
            f"{path}: expected a limit of at least {needed:,} open files, for {num_shards:,} shards, found {hard:,}; "
            f"raise it (ulimit -n {needed}) or preprocess with more --images-per-shard"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_size(store: Path, shard: ShardInfo) -> os.stat_result:
    path = store / shard.file
    try:
        found = path.stat()
    except OSError as error:
        raise DamagedRecordError(f"{path}: expected a shard, found: {error.strerror}") from None
    if found.st_size != shard.size_bytes:
        raise DamagedRecordError(
            f"{path}: expected {shard.size_bytes:,} bytes, found {found.st_size:,}: truncated or foreign"
        )
    return found
