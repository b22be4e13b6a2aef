"""Reads files where they are: the local file system, or anything that fsspec has a URL for."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from stat import S_ISREG
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from commandline import one_line
from preprocess.errors import SourceError

_REACH_S = 20.0


class FileInfo(NamedTuple):
    """One name in a folder."""

    path: str
    """Relative to the storage's root; bytes that are not UTF-8 are surrogate-escaped, as in os.fsdecode."""
    size_bytes: int
    """0 for all but files."""
    kind: Literal["file", "folder", "dangling", "loop", "special"]
    """``dangling``: a link that leads nowhere. ``loop``: a link to a folder that it lies in. ``special``: a pipe, a
    socket or a device. Other links are what they lead to."""

    @property
    def is_folder(self) -> bool:
        return self.kind == "folder"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class Storage(Protocol):
    """Files below one root, read by any number of threads.

    Paths are relative to the root, with ``/``; ``""`` is the root itself.
    """

    root: str
    is_local: bool

    def reach(self) -> None:
        """Asks for the root once. Raises SourceError when nothing answers within seconds, or what the client raises."""

    def list(self, folder: str) -> list[FileInfo]:
        """What ``folder`` holds, sorted by name. Raises OSError."""

    def is_folder(self, path: str) -> bool: ...

    def size_of(self, path: str) -> int | None:
        """Bytes of the file at ``path``; None when there is none."""

    def read(self, path: str) -> bytes:
        """A whole file. Raises OSError."""

    def read_range(self, path: str, offset: int, size_bytes: int) -> bytes:
        """Bytes ``[offset, offset + size_bytes)`` of a file; fewer when it ends before. Raises OSError."""

    def open(self, path: str) -> BinaryIO:
        """A seekable file, which the caller closes."""

    def close(self) -> None:
        """Closes the files that ``read_range`` keeps open; no thread may be reading."""


def open_storage(root: str) -> Storage:
    """Storage for a local path, or for a URL such as ``s3://bucket/imagenet``. Raises SourceError."""
    return RemoteStorage(root) if "://" in root else LocalStorage(root)


def split_path(path: str) -> tuple[str, str]:
    """The folder and the name of a local path or URL."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), name


class LocalStorage:
    """The local file system."""

    is_local = True

    def __init__(self, root: str) -> None:
        self.root = root
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
        folder = link
        while folder:
            folder = folder.rpartition("/")[0]
            here = os.path.realpath(self._path(folder))
            if os.path.commonpath([here, target]) == target:
                return True
        return False

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(self._path(path))

    def size_of(self, path: str) -> int | None:
        path = self._path(path)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def read(self, path: str) -> bytes:
        with open(self._path(path), "rb", buffering=0) as file:
            return file.read()

    def read_range(self, path: str, offset: int, size_bytes: int) -> bytes:
        thread = threading.get_ident()
        opened, descriptor = self._files.get(thread, (None, -1))
        if opened != path:
            if opened is not None:
                os.close(self._files.pop(thread)[1])
            descriptor = os.open(self._path(path), os.O_RDONLY)
            self._files[thread] = path, descriptor
        return os.pread(descriptor, size_bytes, offset)

    def open(self, path: str) -> BinaryIO:
        return open(self._path(path), "rb")

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1][1])

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path) if path else self.root


class RemoteStorage:
    """Any file system of fsspec, by URL."""

    is_local = False

    def __init__(self, root: str) -> None:
        import fsspec

        self.root = root
        try:
            self._fs, base = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise SourceError(f"{root}: cannot be opened: {error}") from None
        self._base = str(base).rstrip("/")

    def reach(self) -> None:
        failures: list[Exception] = []

        def ask() -> None:
            try:
                self._fs.info(self._path(""))
            except FileNotFoundError:
                pass  # some have no folders, only names that begin alike
            except Exception as error:
                failures.append(error)

        # Clients have timeouts of minutes, and try again. The thread, being a daemon, does not outlive the process.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_REACH_S)
        if thread.is_alive():
            raise SourceError(f"{self.root}: expected a service that answers, found none within {_REACH_S:.0f} s")
        if failures:
            raise failures[0]

    def list(self, folder: str) -> list[FileInfo]:
        base = self._path(folder)
        prefix = f"{folder}/" if folder else ""
        found = []
        for info in self._fs.ls(base, detail=True):
            name = info["name"].rstrip("/")
            if name == base.rstrip("/"):
                continue  # object stores list a folder's own marker
            is_folder = info["type"] == "directory"
            size_bytes = 0 if is_folder else int(info["size"] or 0)
            found.append(FileInfo(prefix + name.rsplit("/", 1)[-1], size_bytes, "folder" if is_folder else "file"))
        found.sort(key=lambda info: os.fsencode(info.path))
        return found

    def is_folder(self, path: str) -> bool:
        return bool(self._fs.isdir(self._path(path)))

    def size_of(self, path: str) -> int | None:
        path = self._path(path)
        return int(self._fs.size(path)) if self._fs.isfile(path) else None

    def read(self, path: str) -> bytes:
        content: bytes = self._fs.cat_file(self._path(path))
        return content

    def read_range(self, path: str, offset: int, size_bytes: int) -> bytes:
        content: bytes = self._fs.cat_file(self._path(path), start=offset, end=offset + size_bytes)
        return content

    def open(self, path: str) -> BinaryIO:
        file: Any = self._fs.open(self._path(path), "rb")
        return file  # type: ignore[no-any-return]

    def close(self) -> None:
        pass

    def _path(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base or "/"


@contextmanager
def client_errors(storage: Storage, what: str) -> Iterator[None]:
    """Makes one line of whatever a URL's client library raises; errors of local files, and ours, stay as they are."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        if storage.is_local:
            raise
        where = f"{storage.root}/{what}" if what else storage.root
        raise SourceError(
            f"{where}: cannot be read: {type(error).__name__}: {one_line(error)}; expected a service that answers, and "
            "credentials where its client looks for them"
        ) from None
