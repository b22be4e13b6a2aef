"""Writes shards, statistics and manifests so that each is whole or absent."""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb
import numpy as np

from commandline.files import atomic_file, write_whole
from preprocess.store.digests import ContentDigest, ShardDigests
from preprocess.store.format import (
    DIGESTS_KEY,
    MANIFEST_NAME,
    NAMES_KEY,
    STATISTICS_NAME,
    Manifest,
    ShardInfo,
    Statistics,
    checksum_of,
    names_checksum,
    pack_record,
    shard_key,
)

# A commit bounds the dirty pages that LMDB holds in memory; a fixed count keeps the file's bytes reproducible.
_RECORDS_PER_COMMIT = 128
_FIRST_MAP_SIZE_BYTES = 1 << 26


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``: the last thing a job writes, so a store that has one is complete."""
    write_whole(directory / MANIFEST_NAME, manifest.to_json())


def write_statistics(directory: Path, statistics: Statistics) -> str:
    """Writes ``statistics.npz`` and returns its SHA-256. The same statistics give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **asdict(statistics))
    write_whole(directory / STATISTICS_NAME, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


class ShardWriter:
    """Writes one shard. Use as a context manager; the file appears under its name when the block ends well.

    Records get keys 0, 1, ... in the order of ``add``. Memory stays at a few MB whatever the shard's size, and the
    map grows as needed, so its size never fails a run. The same records give the same bytes of file on one
    platform; ``content_sha256`` is the same on all.

    Raises OSError (``ENOSPC`` among them) when the file cannot be written; nothing is left behind then.
    """

    info: ShardInfo
    """The finished shard; only after the block has ended."""

    def __init__(self, store: Path, file: str) -> None:
        self._path = store / file
        self._file = file
        self._names: list[bytes] = []
        self._pending: list[tuple[bytes, bytes]] = []
        self._content = ContentDigest()
        self._checksums: list[int] = []

    def __enter__(self) -> Self:
        self._block = self._writing()
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, trace)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with atomic_file(self._path) as temporary:
            try:
                self._environment = lmdb.open(
                    str(temporary),
                    subdir=False,
                    map_size=_FIRST_MAP_SIZE_BYTES,
                    lock=False,
                    sync=False,
                    metasync=False,
                    mode=0o666,
                    max_dbs=0,
                    lib_version=0,
                )
            except lmdb.Error as error:
                raise _as_os_error(error, self._path, 0) from error
            with closing(self._environment):
                yield
                names = b"\0".join(self._names)
                self._content.add_names(self._names)
                checksums = np.array([*self._checksums, names_checksum(names)], np.uint64)
                digests = ShardDigests(content_sha256=self._content.hexdigest(), checksums=checksums)
                self._pending += [(DIGESTS_KEY, digests.pack()), (NAMES_KEY, names)]
                self._commit()
                self._sync()
        self.info = ShardInfo(
            file=self._file,
            num_images=len(self._names),
            size_bytes=self._path.stat().st_size,
            content_sha256=self._content.hexdigest(),
        )

    def add(self, label: int, name: bytes, image: bytes) -> None:
        """Appends one record. ``name`` is where the image came from, and holds no NUL."""
        assert b"\0" not in name
        record = pack_record(label, image)
        self._pending.append((shard_key(len(self._names)), record))
        self._checksums.append(checksum_of(record))
        self._names.append(name)
        self._content.add_image(label, image)
        if len(self._pending) >= _RECORDS_PER_COMMIT:
            self._commit()

    def _commit(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value, append=True)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                needed_bytes = sum(len(value) for _, value in self._pending)
                raise _as_os_error(error, self._path, needed_bytes) from error
        self._pending.clear()

    def _sync(self) -> None:
        """Has the file on the disk by the handle that wrote it: a network file system tells no other of a lost page."""
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            raise _as_os_error(error, self._path, 0) from error


def _as_os_error(error: lmdb.Error, path: Path, needed_bytes: int) -> OSError:
    """LMDB's error as the OSError behind it: a full disk reads 'No space left on device: PATH'."""
    # LMDB says "Input/output error" of a write that the disk cut short, and gives no number: so the system is asked
    # again, with as many bytes.
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(needed_bytes + 4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as reason:
        return OSError(reason.errno, os.strerror(reason.errno or 0), str(path))
    return OSError(f"{path}: LMDB could not write: {error}")
