"""Reads the images of a list one after another: files, byte ranges or rows, ahead of need."""

import errno
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from commandline import one_line
from preprocess.errors import SourceError
from preprocess.sources.cifar import bitmap
from preprocess.sources.file_info import TooLargeError
from preprocess.sources.listing import NOWHERE, ImageEntry, ImageList
from preprocess.sources.parquet_rows import read_rows
from preprocess.sources.storage import Storage, client_errors
from preprocess.sources.tar_reader import open_container
from preprocess.store.sidecar import UNREADABLE

# A disk that has not the file in memory takes a millisecond or more, an object store tens of them, whatever the size:
# so many reads are under way while the task decodes, and so many images are held at most.
_LOCAL_THREADS, _LOCAL_AHEAD = 4, 8
_REMOTE_THREADS, _REMOTE_AHEAD = 16, 32
# What can only be read in order is read by one thread.
_FORWARDS_AHEAD = 16
_REMOTE_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
# And so many bytes, by their sizes: a list with one image that is larger is read one by one.
_MOST_BYTES_AHEAD = 64 << 20
# What is wrong with this process or with the whole storage, not with one file.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENETDOWN, errno.EINTR}
# What is wrong with one file where a service has been asked for it.
_FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


Item = TypeVar("Item")


class UnreadableImageError(Exception):
    """One image's bytes cannot be had; the message is the reason that quarantine gives."""


def read_images(
    storage: Storage, images: ImageList, most_bytes: int
) -> Iterator[tuple[ImageEntry, bytes | UnreadableImageError]]:
    """Each image with its bytes, or with the reason why there are none; in the list's order, which is that of the
    places in each container unless the images are files. One of more than ``most_bytes`` is not read.

    Raises OSError, or SourceError where it is remote, for what is wrong with the storage rather than with one file.
    """
    largest = min(int(images.sizes.max(initial=1)), most_bytes)
    fit = max(1, _MOST_BYTES_AHEAD // max(1, largest))
    if images.access == "row":
        for entry, row in ahead_of_need(read_rows(storage, images), min(_FORWARDS_AHEAD, fit)):
            if row is None:
                yield entry, UnreadableImageError("the row holds no bytes")
            else:
                yield entry, _too_large(len(row), most_bytes) or row
        return
    if images.access in ("stream", "cifar"):
        for entry, content in ahead_of_need(_read_forwards(storage, images, most_bytes), min(_FORWARDS_AHEAD, fit)):
            yield entry, bitmap(content) if images.access == "cifar" and isinstance(content, bytes) else content
        return
    num_threads, num_ahead = (_LOCAL_THREADS, _LOCAL_AHEAD) if storage.is_local else (_REMOTE_THREADS, _REMOTE_AHEAD)
    num_ahead = min(num_ahead, fit)
    with ThreadPoolExecutor(num_threads) as pool:
        entries = iter(images)
        ahead: deque[tuple[ImageEntry, Future[bytes | UnreadableImageError]]] = deque()
        try:
            while True:
                for entry in itertools.islice(entries, num_ahead - len(ahead)):
                    ahead.append((entry, pool.submit(_read, storage, entry, most_bytes)))
                if not ahead:
                    return
                entry, future = ahead.popleft()
                yield entry, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def ahead_of_need(items: Generator[Item], num_ahead: int) -> Generator[Item]:
    """The same items, of which ``num_ahead`` are made on a thread while the caller is at work on others.

    The end and any error come in their place; ``items`` is closed with what this returns.
    """
    done = object()
    with closing(items), ThreadPoolExecutor(1) as pool:
        try:
            ahead = deque(pool.submit(next, items, done) for _ in range(num_ahead))
            while (item := ahead.popleft().result()) is not done:
                ahead.append(pool.submit(next, items, done))
                yield item  # type: ignore[misc]  # it is not the mark of the end
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(storage: Storage, entry: ImageEntry, most_bytes: int) -> bytes | UnreadableImageError:
    """One image's bytes, asked for again where a network may have failed."""
    for attempt in range(1 if storage.is_local else _REMOTE_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            return _read_once(storage, entry, most_bytes)
        except TooLargeError as error:
            return UnreadableImageError(str(error))
        except Exception as error:  # of whichever client library fsspec has for the URL
            if isinstance(error, OSError if storage.is_local else _FILE_ERRORS) and error.errno not in _OURS:
                return UnreadableImageError(f"{UNREADABLE}{error.strerror or one_line(error)}")
            if storage.is_local:
                raise
            failure = error
    where = f"{storage.root}/{entry.container or entry.name.decode('utf-8', 'backslashreplace')}"
    raise SourceError(f"{where}: cannot be read after {_REMOTE_ATTEMPTS} attempts: {one_line(failure)}") from None


def _read_forwards(
    storage: Storage, images: ImageList, most_bytes: int
) -> Generator[tuple[ImageEntry, bytes | UnreadableImageError]]:
    """Images of containers that are expanded while they are read, each once from its beginning."""
    for path, entries in itertools.groupby(images, key=lambda entry: entry.container):
        assert path is not None
        with client_errors(storage, path), open_container(storage, path) as file:
            for entry in entries:
                reason = _unreadable(entry, most_bytes)
                if reason is not None:
                    yield entry, reason
                    continue
                file.seek(entry.offset)
                yield entry, _whole(entry, file.read(entry.size_bytes))


def _read_once(storage: Storage, entry: ImageEntry, most_bytes: int) -> bytes | UnreadableImageError:
    reason = _unreadable(entry, most_bytes)
    if reason is not None:
        return reason
    if entry.container is None:
        return storage.read(entry.name.decode("utf-8", "surrogateescape"), most_bytes)
    return _whole(entry, storage.read_range(entry.container, entry.offset, entry.size_bytes))


def _unreadable(entry: ImageEntry, most_bytes: int) -> UnreadableImageError | None:
    """The reason why an image is not even asked for, if there is one."""
    if entry.offset == NOWHERE:
        return UnreadableImageError("a link to what the tar does not hold")
    return _too_large(entry.size_bytes, most_bytes)


def _too_large(size_bytes: int, most_bytes: int) -> UnreadableImageError | None:
    if size_bytes <= most_bytes:
        return None
    return UnreadableImageError(f"expected at most {most_bytes:,} bytes of image, found at least {size_bytes:,}")


def _whole(entry: ImageEntry, content: bytes) -> bytes | UnreadableImageError:
    if len(content) == entry.size_bytes:
        return content
    return UnreadableImageError(
        f"expected {entry.size_bytes:,} bytes at byte {entry.offset:,} of {entry.container}, found {len(content):,}"
    )
