"""Real loader processes for tests: started, found, stopped, killed."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def free_port() -> int:
    """A port that nothing listens on now, for a process that must come back at the same address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LoaderProcess:
    """``python -m loader_service serve`` over a store; ready when the constructor returns."""

    def __init__(self, store: Path, *options: str, port: int = 0, stderr: IO[bytes] | None = None) -> None:
        command = [sys.executable, "-m", "loader_service", "serve", "--store", str(store)]
        self._command = [*command, "--listen", f"127.0.0.1:{port}", "--log-level", "error", *options]
        self._stderr = stderr
        self.start()

    def start(self) -> None:
        """Starts it, and again when it has ended: with a ``port`` of its own it comes back at the same address."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=self._stderr, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("serving "), f"expected a ready line, found {line!r}"
        self.target = line.split()[-1]
        self.pid = self._process.pid

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)  # does nothing to a process that has been waited for

    def wait(self, timeout_s: float = 300.0) -> int:
        """The exit code."""
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Kills the process, whatever state it is in."""
        self.send(signal.SIGCONT)
        self._process.kill()
        self._process.wait(300.0)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def loader_processes(
    store: Path, count: int, *options: str, stderr: IO[bytes] | None = None
) -> Iterator[list[LoaderProcess]]:
    """``count`` replicas; killed at the end. The list may be changed meanwhile: what is in it is killed."""
    replicas: list[LoaderProcess] = []
    try:
        replicas.extend(LoaderProcess(store, *options, stderr=stderr) for _ in range(count))
        yield replicas
    finally:
        for replica in replicas:
            replica.end()
