"""Files of the local file system: regular ones alone, no more bytes than are wanted, and links that stay within."""

import errno
import os
import threading
from pathlib import PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from preprocess.sources.file_info import FileInfo, check_size, leaving_link
from preprocess.sources.member_names import is_system


class LocalStorage:
    """The local file system. Of its files only regular ones are read: a pipe or a device may block, or never end."""

    is_local = True

    def __init__(self, root: str, follow_links: bool = True) -> None:
        self.root = root
        self._real_root = None if follow_links else os.path.realpath(root)
        # Each thread keeps the file open that it read from last: the path and the descriptor, by thread.
        self._files: dict[int, tuple[str, int]] = {}

    def reach(self) -> None:
        pass

    def list(self, folder: str) -> list[FileInfo]:
        prefix = f"{folder}/" if folder else ""
        with os.scandir(self._path(folder)) as entries:
            found = [self._info(entry, prefix + entry.name) for entry in entries]
        found.sort(key=lambda info: os.fsencode(info.path))
        return found

    def _info(self, entry: "os.DirEntry[str]", path: str) -> FileInfo:
        if entry.is_symlink() and not is_system(entry.name):
            self._check_within(entry.path)
        try:
            if entry.is_dir():
                return FileInfo(path, 0, "loop" if entry.is_symlink() and self._leads_up(path) else "folder")
            found = entry.stat()
        except OSError:
            return FileInfo(path, 0, "dangling")
        return FileInfo(path, found.st_size, "file") if S_ISREG(found.st_mode) else FileInfo(path, 0, "special")

    def _leads_up(self, link: str) -> bool:
        """Whether a link leads to a folder on the way to it, itself reached by links perhaps: following never ends."""
        target = os.path.realpath(self._path(link))
        folders = (os.path.realpath(self._path(str(folder))) for folder in PurePosixPath(link).parents)
        return any(os.path.commonpath([folder, target]) == target for folder in folders)

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(self._path(path))

    def size_of(self, path: str) -> int | None:
        path = self._path(path)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def read(self, path: str, most_bytes: int) -> bytes:
        descriptor = self._open(path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            check_size(self._path(path), size_bytes, most_bytes)
            # One more than there are: a file whose size is no word on its bytes shows that.
            content = _read_at(descriptor, 0, size_bytes + 1)
        finally:
            os.close(descriptor)
        if len(content) > size_bytes:
            raise OSError(errno.EIO, f"expected {size_bytes:,} bytes, found more: it grows", self._path(path))
        return content

    def read_range(self, path: str, offset: int, size_bytes: int) -> bytes:
        thread = threading.get_ident()
        opened, descriptor = self._files.get(thread, (None, -1))
        if opened != path:
            if opened is not None:
                os.close(self._files.pop(thread)[1])
            descriptor = self._open(path)
            self._files[thread] = path, descriptor
        return _read_at(descriptor, offset, size_bytes)

    def open(self, path: str) -> BinaryIO:
        return os.fdopen(self._open(path), "rb")

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1][1])

    def _open(self, path: str) -> int:
        """A descriptor of a regular file. Does not wait for a pipe's writer."""
        path = self._path(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
        if S_ISREG(mode):
            return descriptor
        os.close(descriptor)
        if S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, "expected a file, found a pipe, socket or device", path)

    def _path(self, path: str) -> str:
        path = os.path.join(self.root, path) if path else self.root
        self._check_within(path)
        return path

    def _check_within(self, path: str) -> None:
        """Raises SourceError for a path that a link leads out of the root, unless such links are followed."""
        if self._real_root is not None and self._real_root != os.path.commonpath(
            [self._real_root, os.path.realpath(path)]
        ):
            raise leaving_link(path)


def _read_at(descriptor: int, offset: int, size_bytes: int) -> bytes:
    """Bytes ``[offset, offset + size_bytes)`` of a file, fewer only where it ends. A block that cannot be read cuts a
    read short, and is an error when it is asked for again.
    """
    content = os.pread(descriptor, size_bytes, offset)
    while len(content) < size_bytes and (
        more := os.pread(descriptor, size_bytes - len(content), offset + len(content))
    ):
        content += more
    return content
