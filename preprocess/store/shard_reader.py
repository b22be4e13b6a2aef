"""One shard's file, open for reading: its records by position, and what the disk is asked for ahead of that."""

import os
import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from preprocess.errors import DamagedRecordError
from preprocess.store import page_cache
from preprocess.store.digests import ShardDigests
from preprocess.store.folder import StoreFolder, store_error
from preprocess.store.format import ShardInfo
from preprocess.store.index_pages import record_places

# Where the kernel does not say whether it has bytes in memory: to copy a record takes less, to wait for a disk more.
_LONGEST_COPY_S = 0.001


class ShardFile:
    """A shard that any number of threads read. What the kernel has in memory need not be copied; what it has not is
    read in one piece, where others may go on meanwhile: a mapping alone would wait for its pages one by one, and hold
    Python's lock.

    Raises DamagedRecordError when it is not the shard of the manifest, as far as its size, its index and its digests
    say, and StoreUnavailableError when the system does not let it be opened.
    """

    def __init__(self, folder: StoreFolder, info: ShardInfo) -> None:
        self.path, self._info = folder.path / info.file, info
        self._descriptor = -1
        try:
            self._descriptor = folder.open(info.file)
            self._open()
        except (OSError, MemoryError) as error:
            self.close()
            raise store_error(self.path, error) from None
        except ValueError as error:
            self.close()
            raise DamagedRecordError(f"{self.path}: {error}") from None

    def _open(self) -> None:
        """Raises ValueError for another shard."""
        info, status = self._info, os.fstat(self._descriptor)
        if status.st_size != info.size_bytes:
            raise ValueError(f"expected {info.size_bytes:,} bytes, found {status.st_size:,}: truncated or foreign")
        page_cache.read_no_further(self._descriptor)
        places = record_places(self._descriptor, info.num_images)
        self._checksums: memoryview | None = None
        self._written_ns = status.st_mtime_ns
        if len(places) > info.num_images + 1:
            offset, size_bytes = places[info.num_images].tolist()
            digests = ShardDigests.unpack(os.pread(self._descriptor, size_bytes, offset), info.num_images)
            if digests.content_sha256 != info.content_sha256:
                raise ValueError(
                    f"expected the shard of content SHA-256 {info.content_sha256}, found {digests.content_sha256}: "
                    "another store's"
                )
            self._checksums = digests.checksums.data
            places = np.delete(places, info.num_images, axis=0)
        self._mapped = page_cache.MappedFile(self._descriptor, info.size_bytes)
        # An item of these is a Python number at once, for a fourth of the time that one of an array takes.
        self._offsets, self._sizes = (np.ascontiguousarray(column).data for column in places.T)

    @property
    def record_bytes(self) -> npt.NDArray[np.int64]:
        """int64 [num_images]: bytes of each record."""
        return np.asarray(self._sizes)[:-1]

    def checksum(self, position: int) -> int | None:
        """What the checksum of a record should be, or of the list of names; None in shards that do not say."""
        return None if self._checksums is None else self._checksums[position]

    def read(self, position: int, *, is_copied: bool) -> tuple[memoryview, float]:
        """The bytes of a record, and how long it waited for the disk; the list of names is at ``num_images``.

        With ``is_copied`` they are a copy in any case, and not the kernel's own memory.

        Raises DamagedRecordError when the file has become shorter, since to touch what is mapped there would kill the
        process, or was written to though nothing in it would show that, and StoreUnavailableError when the disk cannot
        read it.
        """
        if self._checksums is None and os.fstat(self._descriptor).st_mtime_ns != self._written_ns:
            raise DamagedRecordError(
                f"{self.path}: key {position}: expected a shard that stays as it is, found it changed"
            )
        offset, size_bytes = self._offsets[position], self._sizes[position]
        try:
            is_cached = self._mapped.is_cached(offset, size_bytes)
            if is_cached and not is_copied:
                return self._mapped.content[offset : offset + size_bytes], 0.0
            started = time.perf_counter()
            record = os.pread(self._descriptor, size_bytes, offset)
            elapsed_s = time.perf_counter() - started
            if len(record) < size_bytes:
                raise EOFError
        except EOFError:
            found = os.fstat(self._descriptor).st_size
            raise DamagedRecordError(
                f"{self.path}: key {position}: expected a shard of {self._info.size_bytes:,} bytes, found {found:,}: "
                "truncated since it was opened"
            ) from None
        except (OSError, MemoryError) as error:
            raise store_error(self.path, error) from None
        is_copy = is_cached or (is_cached is None and elapsed_s < _LONGEST_COPY_S)
        return memoryview(record), 0.0 if is_copy else elapsed_s

    def will_need(self, positions: Iterable[int]) -> int:
        """Has the kernel begin to read records; returns their bytes. May wait for the device to take the requests."""
        extents = [(self._offsets[position], self._sizes[position]) for position in sorted(positions)]
        page_cache.will_need(self._descriptor, extents)
        return sum(size_bytes for _, size_bytes in extents)

    def close(self) -> None:
        """Records that are still referred to stay readable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
