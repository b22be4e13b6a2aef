"""Reads files where they are: the local file system, or anything that fsspec has a URL for."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

from commandline import one_line
from preprocess.errors import SourceError
from preprocess.sources.file_info import FileInfo, check_size, leaving_link
from preprocess.sources.local_storage import LocalStorage
from preprocess.sources.member_names import is_system

_REACH_S = 20.0
# Of a file that is read whole for labels or names: a line for each of a million images.
MOST_TEXT_BYTES = 64 << 20


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

    def read(self, path: str, most_bytes: int) -> bytes:
        """A whole file. Raises OSError, or TooLargeError where it has more than ``most_bytes``."""

    def read_range(self, path: str, offset: int, size_bytes: int) -> bytes:
        """Bytes ``[offset, offset + size_bytes)`` of a file; fewer when it ends before. Raises OSError."""

    def open(self, path: str) -> BinaryIO:
        """A seekable file, which the caller closes. Raises OSError."""

    def close(self) -> None:
        """Closes the files that ``read_range`` keeps open; no thread may be reading."""


def open_storage(root: str, *, follow_links: bool = True) -> Storage:
    """Storage for a local path, or for a URL such as ``s3://bucket/imagenet``. Raises SourceError.

    Without ``follow_links`` its methods raise SourceError for a link that leaves the root: what lists a stranger's
    files goes without. What reads those that were listed need not look again.
    """
    return RemoteStorage(root, follow_links) if "://" in root else LocalStorage(root, follow_links)


def split_path(path: str) -> tuple[str, str]:
    """The folder and the name of a local path or URL."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), name


class RemoteStorage:
    """Any file system of fsspec, by URL. How large its files are is the service's word."""

    is_local = False

    def __init__(self, root: str, follow_links: bool = True) -> None:
        import fsspec

        self.root = root
        self._follow_links = follow_links
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
            path = prefix + name.rsplit("/", 1)[-1]
            if info.get("islink") and not self._follow_links and not is_system(name.rsplit("/", 1)[-1]):
                raise leaving_link(f"{self.root}/{path}")
            kind, size_bytes = info["type"], info["size"]
            if kind not in ("directory", "file"):  # a link, to which kind of thing only asking tells
                kind = "directory" if self._fs.isdir(name) else "file" if self._fs.isfile(name) else None
                size_bytes = self._fs.size(name) if kind == "file" else 0
            if kind == "directory":
                found.append(FileInfo(path, 0, "folder"))
            else:
                found.append(FileInfo(path, int(size_bytes or 0), "file" if kind == "file" else "dangling"))
        found.sort(key=lambda info: os.fsencode(info.path))
        return found

    def is_folder(self, path: str) -> bool:
        return bool(self._fs.isdir(self._path(path)))

    def size_of(self, path: str) -> int | None:
        path = self._path(path)
        return int(self._fs.size(path)) if self._fs.isfile(path) else None

    def read(self, path: str, most_bytes: int) -> bytes:
        content: bytes = self._fs.cat_file(self._path(path))
        check_size(f"{self.root}/{path}", len(content), most_bytes)
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
    """Makes one line of whatever a URL's client library raises, and of a local read that does not say which file's;
    other errors of local files, and ours, stay as they are."""
    where = f"{storage.root}/{what}" if what else storage.root
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        if storage.is_local and isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise SourceError(f"{where}: cannot be read: {error.strerror}") from None
        if storage.is_local:
            raise
        raise SourceError(
            f"{where}: cannot be read: {type(error).__name__}: {one_line(error)}; expected a service that answers, and "
            "credentials where its client looks for them"
        ) from None
