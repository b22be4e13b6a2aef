"""A store's folder, held open: its files stay those of one store, wherever its path leads to later."""

import errno
import os
from pathlib import Path

from preprocess.errors import DamagedRecordError, StoreError, StoreUnavailableError
from preprocess.store.format import MANIFEST_NAME

_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG))
"""What the system says of a file that is not there. All else that it says is its own trouble."""


class StoreFolder:
    """Opens and reads the files of one folder by their names. Raises StoreError when there is no such folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _ABSENT:
                raise StoreError(f"{path}: expected a store with {MANIFEST_NAME}, found no such folder") from None
            raise store_error(path, error) from None

    def open(self, name: str) -> int:
        """A descriptor to read a file with, which the caller closes. Raises OSError."""
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor)

    def read(self, name: str) -> bytes:
        """A whole file. Raises OSError."""
        with open(self.open(name), "rb") as file:
            return file.read()

    def close(self) -> None:
        """Closes the folder; what was opened in it stays open."""
        os.close(self.descriptor)


def store_error(where: Path, error: OSError | MemoryError) -> StoreError:
    """What an error of the system says of a store. A file that is not there is damage; descriptors or memory that have
    run out, permissions, a disk or a server that does not answer are no fault of the store's bytes."""
    reason = getattr(error, "strerror", None) or str(error) or "out of memory"
    if isinstance(error, OSError) and error.errno in _ABSENT:
        return DamagedRecordError(f"{where}: expected a file of the store, found: {reason}")
    return StoreUnavailableError(f"{where}: cannot be read now: {reason}")
