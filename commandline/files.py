"""Files that are whole or not there, whatever kills the process, fills the disk or cuts the power."""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a new name beside ``path``, under which the block makes a file, which then takes ``path``'s place.

    The file is on the disk before its name is, and both are when this returns: a power cut leaves the old file or the
    new one, whole. Folders that are missing are made. After an error of the block, or of fsync, the new file is removed
    and ``path`` is as it was; after SIGKILL the new one stays, for :func:`remove_leftovers`.
    """
    make_folder(path.parent)
    # Not the process id: machines that share a folder may each have the same one.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Gives ``path`` this content, text as UTF-8, as :func:`atomic_file` does. Raises OSError that names ``path``."""
    with naming(path), atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def link_whole(source: Path, path: Path) -> None:
    """Makes ``path`` another name of ``source``'s content; a copy where the file system has no hard links.

    Raises OSError that names ``path``.
    """
    if path.exists() and path.samefile(source):  # which a rename would leave as two
        return
    with naming(path), atomic_file(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def move_into(folder: Path, paths: list[Path]) -> None:
    """Moves files into ``folder``, which is made; returns when the disk has their names there and no longer here."""
    make_folder(folder)
    for path in paths:
        path.rename(folder / path.name)
    for each in (folder, *{path.parent for path in paths}):
        sync(each)


def make_folder(folder: Path) -> None:
    """Makes ``folder`` and those above it that are missing, on the disk too."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes the new files that killed processes left in ``folder``, where nobody may be writing, and nothing else."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
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
