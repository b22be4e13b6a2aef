"""One process at a time for a folder: a lock that dies with its owner, and a record of who that is."""

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from commandline.files import make_folder, naming

LOCK_NAME = "run.lock"
OWNER_NAME = "run.owner"
"""A second file, where the file system has no locks."""


class FolderLock:
    """Holds a folder from construction until it is closed.

    The lock is the kernel's, on ``run.lock``: most shared file systems carry it from machine to machine, and it ends
    with its process however that ends. Where there are none, ``run.owner`` is made by one process only, and is taken
    over when its owner is known to be gone: on this machine, or before it was started anew. The files go when the lock
    is closed; after a kill they stay, and ``run.lock`` means nothing then.
    """

    def __init__(self, folder: Path, refusal: Callable[[str], Exception]) -> None:
        """``folder`` is made if it is missing. Raises what ``refusal`` makes of who holds it, or OSError that names the
        file.
        """
        self._path = folder / LOCK_NAME
        self._owner_path: Path | None = None
        self._record = _record()
        with naming(self._path):
            make_folder(folder)
            self._descriptor = self._lock(refusal)
            try:
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, self._record, 0)
            except OSError:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the folder go."""
        with suppress(OSError):  # a file system that has become read-only
            if self._is_current(self._descriptor):
                self._path.unlink()
            if self._owner_path is not None and self._owner_path.read_bytes() == self._record:
                self._owner_path.unlink()
        os.close(self._descriptor)

    def _lock(self, refusal: Callable[[str], Exception]) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _read(self._path)
                os.close(descriptor)
                raise refusal(_described(owner)) from None
            except OSError:  # no locks here
                try:
                    self._claim(refusal)
                except BaseException:
                    os.close(descriptor)
                    raise
                return descriptor
            # Its owner may have ended, and removed the file, between our opening it and our locking it.
            if self._is_current(descriptor):
                return descriptor
            os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _claim(self, refusal: Callable[[str], Exception]) -> None:
        path = self._path.with_name(OWNER_NAME)
        while True:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                owner = _read(path)
                if not _is_gone(owner):
                    raise refusal(f"{_described(owner)} (if that has ended, remove {path})") from None
                _set_aside(path, owner)
                continue
            self._owner_path = path
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._record)
            return


def _record() -> bytes:
    """Who this process is, and on which run of which machine its number means it."""
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot": _boot(),
        "processes": _processes(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    return json.dumps(owner).encode()


def _boot() -> str:
    """The kernel's name for the time since the machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _processes() -> str:
    """Which numbering of processes this is: each container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: Path) -> dict[str, Any]:
    """An owner's record; empty when there is none that can be read."""
    try:
        owner = json.loads(path.read_bytes()[:4096])
        return owner if isinstance(owner, dict) else {}
    except (OSError, ValueError):
        return {}


def _described(owner: dict[str, Any]) -> str:
    if {"host", "pid", "since"} <= owner.keys():
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    return "another run, which has only just begun"


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether an owner is known to have ended; of one on another machine that is not known."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return False
    if owner.get("boot") != _boot():
        return True
    if owner.get("processes") != _processes():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _set_aside(path: Path, owner: dict[str, Any]) -> None:
    """Removes the record of an owner that is gone, unless another has just taken its place."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with suppress(FileNotFoundError):  # another was faster
        path.rename(aside)
        if _read(aside) != owner:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
