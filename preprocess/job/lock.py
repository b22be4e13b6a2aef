"""One run at a time on a store: a lock that dies with its owner, and a record of who that is."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocess.errors import StoreError

LOCK_NAME = "run.lock"


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Holds the lock of ``store``, a folder, until the block ends. Raises StoreError, with the owner, when it is taken.

    The lock is the kernel's on a range of the file, which shared file systems carry from machine to machine, and which
    ends with the process however that ends. The file goes with the block; after a kill it stays and means nothing.
    """
    path = store / LOCK_NAME
    descriptor = _acquire(path)
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            os.close(descriptor)
            if not isinstance(error, BlockingIOError | PermissionError):
                raise StoreError(f"{path}: expected a file system with locks, found none: {error.strerror}") from None
            raise StoreError(
                f"{path.parent}: is being written by {owner}: wait for it, or give another --out"
            ) from None
        # Its owner may have ended, and removed the file, between our opening it and our locking it.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run, which has only just begun"
