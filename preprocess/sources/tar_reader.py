"""Reads a tar from its first header to its end mark, and says where it is damaged, cut off or followed by more.

Python's ``tarfile`` takes any block that is no header for the end. Here the end is the end mark, where the last
member says that it should be, and nothing but the rest of a record of zeros after it.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from preprocess.errors import SourceError
from preprocess.sources.storage import Storage

_BLOCK = 512
# The end mark is two blocks of zeros; most writers fill their last record of twenty blocks after it.
_MOST_ZEROS = 2 * _BLOCK + 19 * _BLOCK
# How far beyond the zeros is looked for what follows them, so that the error can say it.
_LOOKED_THROUGH = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
GZIP_SUFFIXES = (".gz", ".tgz")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, kw_only=True)
class TarSection:
    """Bytes ``[offset, offset + size_bytes)`` of a file, which are a tar: a whole one, or one within another."""

    root: str
    path: str
    offset: int
    """Where a gzipped file is meant, in what it expands to."""
    size_bytes: int | None
    """None where only reading tells: of a gzipped tar."""
    name: str
    """What errors call it."""


def whole_tar(storage: Storage, path: str) -> TarSection:
    """A file that is a tar, gzipped or not."""
    size_bytes = None if path.lower().endswith(GZIP_SUFFIXES) else storage.size_of(path)
    return TarSection(root=storage.root, path=path, offset=0, size_bytes=size_bytes, name=path)


def is_tar(name: str) -> bool:
    """Whether a name ends as a tar's that can be read."""
    return name.lower().endswith(TAR_SUFFIXES)


@contextmanager
def open_container(storage: Storage, path: str) -> Iterator[BinaryIO]:
    """A file, expanded where it is gzipped: that is read forwards, since going back begins anew."""
    with storage.open(path) as file:
        if path.lower().endswith(GZIP_SUFFIXES):
            with gzip.GzipFile(fileobj=file) as expanded:
                yield cast(BinaryIO, expanded)
        else:
            yield file


def iterate_members(file: BinaryIO, section: TarSection) -> Iterator[tarfile.TarInfo]:
    """Each member of the tar that ``section`` of ``file`` is, folders and links too; ``offset_data`` is within the
    section. Raises SourceError, with tar and byte, unless it is whole.
    """
    window = cast(BinaryIO, io.BufferedReader(_Window(file, section), _BLOCK))
    archive = None
    try:
        try:
            with tarfile.open(fileobj=window, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                while (member := archive.next()) is not None:
                    # The archive remembers every member: for a million of them that is a gigabyte.
                    archive.members = []  # type: ignore[attr-defined]
                    end = member.offset_data + member.size
                    if section.size_bytes is not None and end > section.size_bytes:
                        raise _damaged(section, member.offset, f"{member.name!r}, which goes on past the end")
                    if member.issparse():
                        raise _damaged(section, member.offset, f"{member.name!r}, which has holes: pack without -S")
                    yield member
            at = archive.offset
        except tarfile.TarError as error:
            at = archive.offset if archive is not None else 0
            _check_end(window, at, section)
            raise _damaged(section, at, str(error)) from None
        _check_end(window, at, section)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{section.root}/{section.name}: expected a whole gzipped tar, found: {error}") from None


def _check_end(window: BinaryIO, at: int, section: TarSection) -> None:
    """Raises SourceError unless the end mark is at ``at`` and the rest of the section is zeros, and not many."""
    window.seek(at)
    tail = window.read(_MOST_ZEROS + 1)
    mark = tail[:_BLOCK]
    if at == 0 and mark.startswith(_GZIP_MAGIC):
        raise _damaged(section, at, "gzipped bytes: call it .tar.gz")
    if len(mark) < _BLOCK:
        raise _damaged(section, at, f"the end of the file after {len(mark)} bytes: it is cut off")
    if mark.strip(b"\0"):
        raise _damaged(section, at, "a block that is neither: the header is damaged")
    num_zeros = 0
    while tail and not tail.strip(b"\0") and num_zeros < _LOOKED_THROUGH:
        num_zeros += len(tail)
        tail = window.read(1 << 20)
    if tail:
        num_zeros += len(tail) - len(tail.lstrip(b"\0"))
        raise _damaged(section, at, f"{num_zeros:,} zeros and then more: damaged headers, or tars joined by cat")
    if num_zeros > _MOST_ZEROS:
        raise _damaged(
            section, at, f"{num_zeros:,} zeros where at most {_MOST_ZEROS:,} end a tar: a download that was broken off?"
        )


def _damaged(section: TarSection, at: int, found: str) -> SourceError:
    return SourceError(
        f"{section.root}/{section.name}: expected a whole tar, with a header or its end at byte {at:,}, found {found}"
    )


class _Window(io.RawIOBase):
    """A section of a file, as a file."""

    def __init__(self, file: BinaryIO, section: TarSection) -> None:
        self._file, self._offset, self._size_bytes = file, section.offset, section.size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        assert whence != os.SEEK_END, "the end of a gzipped file is not known"
        self._position = position if whence == os.SEEK_SET else self._position + position
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = len(buffer)
        if self._size_bytes is not None:
            count = max(0, min(count, self._size_bytes - self._position))
        self._file.seek(self._offset + self._position)
        content = self._file.read(count)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
