"""Read-only LMDB environments, one a file and process: LMDB forbids opening a file twice in one process."""

import threading
from pathlib import Path
from typing import Any

import lmdb

_lock = threading.Lock()
_opened: dict[str, tuple[Any, int]] = {}


def acquire(path: Path) -> Any:
    """The environment of ``path``, opened if this process has not yet. Pair with ``release``. Raises lmdb.Error."""
    key = str(path.resolve())
    with _lock:
        environment, users = _opened.get(key, (None, 0))
        if environment is None:
            environment = lmdb.open(
                key, subdir=False, readonly=True, lock=False, max_readers=1, max_dbs=0, lib_version=0
            )
        _opened[key] = (environment, users + 1)
        return environment


def release(path: Path) -> None:
    """Closes the environment of ``path`` if nobody else in this process uses it."""
    key = str(path.resolve())
    with _lock:
        environment, users = _opened.pop(key)
        if users > 1:
            _opened[key] = (environment, users - 1)
        else:
            environment.close()
