"""One run a folder: a lock that the kernel lets go when its process ends, however it ends."""

import fcntl
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from commandline import write_line
from commandline.files import make_folder, naming
from trainer.errors import TrainerError

LOCK_NAME = "run.lock"


class RunLock:
    """Holds a run folder from construction until it is closed.

    Raises TrainerError that names the owner when another process holds it. Its file stays: removing it would let two
    processes hold locks on two files of that name.
    """

    def __init__(self, run_dir: Path) -> None:
        if run_dir.exists() and not run_dir.is_dir():
            raise TrainerError(f"{run_dir}: expected a folder, or nothing, found a file")
        path = run_dir / LOCK_NAME
        with naming(path):
            make_folder(run_dir)
            self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().decode(errors="replace").strip() or "another process"
            self._file.close()
            raise TrainerError(
                f"{run_dir}: expected a folder that no other run writes to, found it held by {owner}; wait for that "
                "one, stop it, or choose another --run-dir"
            ) from None
        except OSError as error:
            write_line(f"WARNING: {path} cannot be locked ({error.strerror}): let no other run write to this folder")
        owner = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n"
        try:
            with naming(path):
                self._file.truncate(0)
                self._file.write(owner.encode())
        except OSError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the folder go."""
        with suppress(OSError):
            self._file.close()
