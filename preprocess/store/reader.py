"""Opens a store and reads its records: read-only, thread-safe."""

import hashlib
import io
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from preprocess.errors import DamagedRecordError, StoreError
from preprocess.store.folder import StoreFolder, store_error
from preprocess.store.format import (
    MANIFEST_NAME,
    STATISTICS_NAME,
    Manifest,
    ShardInfo,
    Statistics,
)
from preprocess.store.split_reader import Reads, SplitReader

# Left for sockets, logs and libraries beside the shards, which stay open once read.
_OTHER_OPEN_FILES = 512
_NUM_THREADS = 16
"""That open or check shards."""


class Store:
    """A complete store, opened for reading. Its folder is held open, and shards from when they are first read, or from
    ``open_shards``, until ``close``: what its path leads to later does not matter.

    Safe for use from many threads. Opening checks the manifest, the statistics'
    digest and every shard's size, and reads no image. Raises StoreError when something is missing or of another
    format version, and StoreUnavailableError when the system does not let it be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = StoreFolder(path)
        try:
            self.manifest = _read_manifest(self._folder)
            self.statistics = _read_statistics(self._folder, self.manifest)
            for split in self.manifest.splits.values():
                for shard in split.shards:
                    _check_size(self._folder, shard)
            _allow_open_files(path, sum(len(split.shards) for split in self.manifest.splits.values()))
        except BaseException:
            self._folder.close()
            raise
        self.reads = Reads()
        self._splits = {
            name: SplitReader(self._folder, name, self.manifest, self.reads) for name in self.manifest.splits
        }

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

    def open_shards(self) -> None:
        """Opens every shard now, and so finds those that are another store's. Raises StoreError."""
        self._each_shard(lambda reader, shard: reader.open(shard))

    def check_content(self, on_checked: Callable[[int], object]) -> None:
        """Reads every record, and compares the digest of each shard's content with the manifest's. ``on_checked`` is
        told each shard's number of images. Raises StoreError for the first shard that is not what was written."""

        def check(reader: SplitReader, shard: int) -> None:
            reader.check_content(shard)
            on_checked(reader.info.shards[shard].num_images)

        self._each_shard(check)

    def _each_shard(self, do: "Callable[[SplitReader, int], None]") -> None:
        """On many threads, since each waits for the disk. Raises what the first raises that fails."""
        shards = [(reader, shard) for reader in self._splits.values() for shard in range(len(reader.info.shards))]
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for _ in pool.map(lambda each: do(*each), shards):
                pass

    def close(self) -> None:
        """Closes every shard, and the folder; no thread may be reading."""
        for split in self._splits.values():
            split.close()
        self._folder.close()


def _read_manifest(folder: StoreFolder) -> Manifest:
    manifest = folder.path / MANIFEST_NAME
    try:
        text = folder.read(MANIFEST_NAME).decode()
    except FileNotFoundError:
        found = "a folder without one (an unfinished run?)"
        raise StoreError(f"{folder.path}: expected a store with {MANIFEST_NAME}, found {found}") from None
    except OSError as error:
        raise store_error(manifest, error) from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{manifest}: cannot be read: {error}") from None
    return Manifest.from_json(text, str(manifest))


def _read_statistics(folder: StoreFolder, manifest: Manifest) -> Statistics:
    file = folder.path / STATISTICS_NAME
    try:
        content = folder.read(STATISTICS_NAME)
    except OSError as error:
        raise store_error(file, error) from None
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


def _check_size(folder: StoreFolder, shard: ShardInfo) -> None:
    path = folder.path / shard.file
    try:
        found = os.stat(shard.file, dir_fd=folder.descriptor)
    except OSError as error:
        raise store_error(path, error) from None
    if found.st_size != shard.size_bytes:
        raise DamagedRecordError(
            f"{path}: expected {shard.size_bytes:,} bytes, found {found.st_size:,}: truncated or foreign"
        )
