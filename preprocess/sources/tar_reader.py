"""Reads a tar from its first header to its end mark, and says where it is damaged, cut off or followed by more.

Python's ``tarfile`` takes any block that is no header for the end. Here the end is the end mark, where the last
member says that it should be, and nothing but the rest of a record of zeros after it.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from commandline import one_line
from preprocess.errors import SourceError
from preprocess.sources.storage import Storage

_BLOCK = 512
# The end mark is two blocks of zeros; most writers fill their last record of twenty blocks after it.
_MOST_ZEROS = 2 * _BLOCK + 19 * _BLOCK
# How far beyond the zeros is looked for what follows them, so that the error can say it.
_LOOKED_THROUGH = 64 << 20
# Of one header with its extensions; of a name, as systems have them; of what one tar may hold, since a gzipped one of a
# megabyte may hold millions.
_MOST_READ_BYTES = 1 << 20
_MOST_NAME_LENGTH = 4096
_MOST_MEMBERS = 1 << 24
# Of what gzip reads a byte at a time: zeros after a member, a name in its header. Gigabytes of them would take hours.
_MOST_SINGLE_BYTES = 1 << 20
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
            with gzip.GzipFile(fileobj=cast(BinaryIO, _Compressed(file)), mode="rb") as expanded:
                yield cast(BinaryIO, expanded)
        else:
            yield file


def iterate_members(file: BinaryIO, section: TarSection) -> Iterator[tarfile.TarInfo]:
    """Each member of the tar that ``section`` of ``file`` is, folders and links too; ``offset_data`` is within the
    section. Raises SourceError, with tar and byte, unless it is whole.
    """
    window = _Window(file, section)
    num_members = at = 0
    try:
        try:
            with tarfile.open(
                fileobj=cast(BinaryIO, window), mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                is_empty = archive.firstmember is None  # type: ignore[attr-defined]
                # For a header of numbers that cannot be, tarfile says that it is the end, and goes on after it: the end
                # is looked for at ``at``, after the last member.
                while not is_empty and (member := archive.next()) is not None:
                    # The archive remembers every member: for a million of them that is a gigabyte.
                    archive.members = []  # type: ignore[attr-defined]
                    num_members += 1
                    _check_member(member, archive.offset, num_members, section)
                    yield member
                    at = archive.offset
        except (SourceError, OSError, EOFError, zlib.error, MemoryError):
            raise
        except Exception as error:  # TarError where tarfile knows what is wrong; others for numbers that cannot be
            _check_end(window, at, section)
            raise _damaged(section, at, one_line(error)) from None
        _check_end(window, at, section)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{section.root}/{section.name}: expected a whole gzipped tar, found: {error}") from None


def _check_member(member: tarfile.TarInfo, next_offset: int, number: int, section: TarSection) -> None:
    """Raises SourceError for a member that a sound tar cannot hold, or that is read in another way than others do."""
    end = member.offset_data + member.size
    if section.size_bytes is not None and end > section.size_bytes:
        raise _damaged(section, member.offset, f"{member.name!r}, which goes on past the end")
    if member.issparse():
        raise _damaged(section, member.offset, f"{member.name!r}, which has holes: pack without -S")
    if member.size < 0 or (member.isreg() and end > next_offset) or next_offset <= member.offset:
        # A header's own size and an extension's, of which one may be negative: the next header is found by the other.
        raise _damaged(
            section, member.offset, f"{member.name[:_MOST_NAME_LENGTH]!r} of two sizes, or of less than none"
        )
    if "\0" in member.name or len(member.name) > _MOST_NAME_LENGTH:
        raise _damaged(section, member.offset, "a name with a zero byte, or of more than 4,096 characters")
    if number > _MOST_MEMBERS:
        raise _damaged(section, member.offset, f"more than {_MOST_MEMBERS:,} members")


def _check_end(window: "_Window", at: int, section: TarSection) -> None:
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


class _Compressed:
    """A gzipped file, as ``gzip`` reads it, of which no gigabytes are read a byte at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._num_single_bytes = file, 0

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def read(self, size_bytes: int) -> bytes:
        self._num_single_bytes = self._num_single_bytes + 1 if size_bytes == 1 else 0
        if self._num_single_bytes > _MOST_SINGLE_BYTES:
            raise gzip.BadGzipFile(f"more than {_MOST_SINGLE_BYTES:,} zeros after its data, or a name of as many bytes")
        return self._file.read(size_bytes)


class _Window:
    """A section of a file, as tarfile reads it: a header at a time."""

    def __init__(self, file: BinaryIO, section: TarSection) -> None:
        self._file, self._offset, self._size_bytes = file, section.offset, section.size_bytes
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, size_bytes: int) -> bytes:
        """As many bytes, or fewer at the end. Raises ReadError for more than headers have, before memory is made."""
        if not 0 <= size_bytes <= _MOST_READ_BYTES or self._position < 0:
            raise tarfile.ReadError(f"a header of {size_bytes:,} bytes")
        if self._size_bytes is not None:
            size_bytes = max(0, min(size_bytes, self._size_bytes - self._position))
        self._file.seek(self._offset + self._position)
        content = self._file.read(size_bytes)
        self._position += len(content)
        return content
