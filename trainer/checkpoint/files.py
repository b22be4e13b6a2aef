"""Files that are whole or not there, whatever kills the process or fills the disk; errors that name the file."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"
"""Ends the name of a file that is still being written; one that is left over belongs to nobody."""


class Sink:
    """A file to write to that keeps its first failure to itself until asked.

    Writers of other libraries (torch's zip files) answer a failed write with errors of their own that no longer say
    what failed; here they run to their end, and the disk's own error comes after.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._failure: OSError | None = None

    def write(self, data: bytes) -> int:
        if self._failure is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self._failure = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Does nothing: :func:`write_whole` flushes."""

    def raise_failure(self) -> None:
        """Raises the OSError of the first write that failed, if one did."""
        if self._failure is not None:
            raise self._failure


def write_whole(path: Path, write: Callable[[Sink], object]) -> None:
    """Gives ``path`` what ``write`` writes: a file beside it, fsync, rename, fsync of the folder.

    Raises OSError that names ``path``, which is then what it was before.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                sink = Sink(file)
                write(sink)
                sink.raise_failure()
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_text_whole(path: Path, text: str) -> None:
    """Gives ``path`` this text, as :func:`write_whole` does."""
    write_whole(path, lambda sink: sink.write(text.encode("utf-8")))


def link_whole(source: Path, path: Path) -> None:
    """Makes ``path`` another name of ``source``'s content; a copy where the filesystem has no hard links."""
    temporary = path.with_name(path.name + TEMPORARY)
    with naming(path):
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            write_whole(path, lambda sink: _copy(source, sink))
            return
        temporary.replace(path)
        sync_folder(path.parent)


def _copy(source: Path, sink: Sink) -> None:
    with source.open("rb") as file:
        shutil.copyfileobj(file, sink)


def sync_folder(folder: Path) -> None:
    """Returns when the folder's names are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process was writing; for the folder's only writer."""
    for path in folder.glob("*" + TEMPORARY):
        path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has every OSError of the block name ``path``: ``No space left on device`` alone helps nobody."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


class Appender:
    """A file that grows by records, each handed to the kernel at once: a killed process loses none.

    Raises OSError that names the file; a record that did not fit is then cut off somewhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming(path):
            self._file = path.open("ab", buffering=0)

    def append(self, record: bytes) -> None:
        """Adds ``record`` at the end."""
        rest = memoryview(record)
        with naming(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Closes the file, which holds everything already."""
        self._file.close()
