"""Reads the images of a list one after another: files, byte ranges or rows, ahead of need."""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from commandline import one_line
from preprocess.errors import SourceError
from preprocess.sources.listing import ImageEntry, ImageList
from preprocess.sources.parquet import read_rows
from preprocess.sources.storage import Storage

# A disk that has not the file in memory takes a millisecond or more, an object store tens of them, whatever the size:
# so many reads are under way while the task decodes, and so many images are held at most.
_LOCAL_THREADS, _LOCAL_AHEAD = 4, 8
_REMOTE_THREADS, _REMOTE_AHEAD = 16, 32
_REMOTE_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
# What is wrong with one file, not with the storage: such an image goes to quarantine, anything else ends the task.
_FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class UnreadableImageError(Exception):
    """One image's bytes cannot be had; the message is the reason that quarantine gives."""


def read_images(storage: Storage, images: ImageList) -> Iterator[tuple[ImageEntry, bytes | UnreadableImageError]]:
    """Each image with its bytes, or with the reason why there are none; in the list's order, which for
    rows is that of the files.

    Raises OSError, or SourceError where it is remote, for what is wrong with the storage rather than with one file.
    """
    if images.access == "row":
        for entry, content in read_rows(storage, images):
            yield entry, UnreadableImageError("the row holds no bytes") if content is None else content
        return
    num_threads, num_ahead = (_LOCAL_THREADS, _LOCAL_AHEAD) if storage.is_local else (_REMOTE_THREADS, _REMOTE_AHEAD)
    with ThreadPoolExecutor(num_threads) as pool:
        entries = iter(images)
        ahead: deque[tuple[ImageEntry, Future[bytes | UnreadableImageError]]] = deque()
        try:
            while True:
                for entry in itertools.islice(entries, num_ahead - len(ahead)):
                    ahead.append((entry, pool.submit(_read, storage, entry)))
                if not ahead:
                    return
                entry, future = ahead.popleft()
                yield entry, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _read(storage: Storage, entry: ImageEntry) -> bytes | UnreadableImageError:
    """One image's bytes, asked for again where a network may have failed."""
    for attempt in range(1 if storage.is_local else _REMOTE_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            return _read_once(storage, entry)
        except _FILE_ERRORS as error:
            return UnreadableImageError(f"cannot be read: {error.strerror or error}")
        except Exception as error:  # of whichever client library fsspec has for the URL
            if storage.is_local:
                raise
            failure = error
    where = f"{storage.root}/{entry.container or entry.name.decode('utf-8', 'backslashreplace')}"
    raise SourceError(f"{where}: cannot be read after {_REMOTE_ATTEMPTS} attempts: {one_line(failure)}") from None


def _read_once(storage: Storage, entry: ImageEntry) -> bytes | UnreadableImageError:
    if entry.container is None:
        return storage.read(entry.name.decode("utf-8", "surrogateescape"))
    content = storage.read_range(entry.container, entry.offset, entry.size_bytes)
    if len(content) != entry.size_bytes:
        return UnreadableImageError(
            f"expected {entry.size_bytes:,} bytes at byte {entry.offset:,} of {entry.container}, found {len(content):,}"
        )
    return content
