"""Where the members of a tar are: read from its headers alone, skipping what they describe. Runs in tasks."""

import io
import os
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from preprocess.errors import SourceError
from preprocess.sources.storage import open_storage


@dataclass(frozen=True, kw_only=True)
class TarSection:
    """Bytes ``[offset, offset + size_bytes)`` of a file, which are a tar: a whole one, or one within another."""

    root: str
    path: str
    offset: int
    size_bytes: int
    name: str
    """What errors call it."""


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The regular files of a tar, in its order, as columns of length N."""

    section: TarSection
    name_bytes: bytes
    name_ends: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    """int64 [N]: of the first byte, in the file that ``section`` is part of."""
    sizes: npt.NDArray[np.int64]

    def members(self) -> Iterator[tuple[bytes, int, int]]:
        """Name, first byte and size of each file, in the tar's order."""
        start = 0
        for end, offset, size in zip(self.name_ends, self.offsets, self.sizes, strict=True):
            yield self.name_bytes[start:end], int(offset), int(size)
            start = end


def index_tar(section: TarSection) -> TarIndex:
    """Lists a tar. Reads 512 bytes a member from local storage. Raises SourceError when it is cut off or no tar."""
    names = bytearray()
    name_ends, offsets, sizes = array("q"), array("q"), array("q")
    storage = open_storage(section.root)
    with storage.open(section.path) as file:
        for member, _ in iterate_members(file, section):
            names += os.fsencode(member.name)
            name_ends.append(len(names))
            offsets.append(section.offset + member.offset_data)
            sizes.append(member.size)
    return TarIndex(
        section=section,
        name_bytes=bytes(names),
        name_ends=np.array(name_ends, np.int64),
        offsets=np.array(offsets, np.int64),
        sizes=np.array(sizes, np.int64),
    )


def iterate_members(file: BinaryIO, section: TarSection) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Each regular file of the tar that ``section`` of ``file`` is, with the archive to read it from."""
    window = io.BufferedReader(_Window(file, section.offset, section.size_bytes), 512)
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # The archive remembers every member: for a million of them that is a gigabyte.
                archive.members = []  # type: ignore[attr-defined]
                if member.offset_data + member.size > section.size_bytes:
                    raise tarfile.ReadError(f"{member.name} goes on past the end")
                if member.isreg():
                    yield member, archive
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"{section.root}/{section.name}: expected a whole tar, found: {error}") from None


class _Window(io.RawIOBase):
    """Bytes ``[offset, offset + size_bytes)`` of a file, as a file."""

    def __init__(self, file: BinaryIO, offset: int, size_bytes: int) -> None:
        self._file, self._offset, self._size_bytes = file, offset, size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = base + position
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size_bytes - self._position))
        self._file.seek(self._offset + self._position)
        content = self._file.read(count)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
