"""Runs commands in processes of their own, several at once, and a loader beside them. Knows nothing of networks."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from commandline.files import naming
from commandline.stopping import StopRequests
from trainer.errors import Stopped, TrainerError

LOOK_S = 0.1
"""How often processes are looked at."""
LOOK_INTO_S = 2.0
"""How often it is asked whether they have done enough."""
START_TIMEOUT_S = 120.0
"""How long a loader may take until it serves."""
END_TIMEOUT_S = 120.0
"""How long a process has to save and end after SIGTERM, before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command: a module and its arguments as after ``python -m``, and the file that takes what it prints."""

    name: str
    command: tuple[str, ...]
    log: Path


class Child:
    """A job's process; it ends when this one does, even when that is killed. A terminal's Ctrl-C does not reach it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        with naming(job.log):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "trainer.experiments.child", *job.command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Asks it to save and end."""
        self._process.terminate()

    def close(self) -> None:
        """Waits for its end, and kills it after END_TIMEOUT_S."""
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def run_jobs(
    jobs: Sequence[Job],
    *,
    at_once: int,
    stop: StopRequests,
    is_enough: Callable[[Job], bool],
    ended: Callable[[Job, int], None],
) -> None:
    """Runs ``jobs``, ``at_once`` of them at a time; ``ended`` gets each with its exit code. One that has done enough is
    asked to end.

    Raises Stopped when a signal has come, and what ``ended`` raises, once all that still ran have saved and ended.
    """
    waiting, running, ending = list(reversed(jobs)), list[Child](), set[Job]()
    looked_into = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(Child(waiting.pop()))
            if stop.wait(LOOK_S):
                raise Stopped("a signal asked to stop")
            for child in list(running):
                code = child.poll()
                if code is not None:
                    running.remove(child)
                    child.close()
                    ended(child.job, code)
            if time.monotonic() - looked_into > LOOK_INTO_S:
                for child in running:
                    if child.job not in ending and is_enough(child.job):
                        child.terminate()
                        ending.add(child.job)
                looked_into = time.monotonic()
    finally:
        for child in running:
            child.terminate()
        for child in running:
            child.close()


@contextlib.contextmanager
def loader_over(store: Path, folder: Path, stop: StopRequests, *, num_processes: int) -> Iterator[tuple[str, ...]]:
    """A loader of so many processes over ``store`` while the block runs: its targets. Raises TrainerError when it does
    not serve."""
    where = ("--store", str(store), "--listen", "127.0.0.1:0", "--processes", str(num_processes))
    command = ("loader_service", "serve", *where)
    log = folder / "loader.log"
    log.unlink(missing_ok=True)
    child = Child(Job(name="loader", command=(*command, "--log-level", "warning"), log=log))
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while len(targets := _served(log)) < num_processes:
            if child.poll() is not None or time.monotonic() > deadline:
                raise TrainerError(f"--store {store}: the loader does not serve it: {last_line(log)}")
            if stop.wait(LOOK_S):
                raise Stopped("a signal asked to stop")
        yield targets
    finally:
        child.terminate()
        child.close()


def last_line(log: Path) -> str:
    """What a job said last."""
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _served(log: Path) -> tuple[str, ...]:
    """The addresses in the lines with which a loader's processes say that they are ready."""
    lines = log.read_text("utf-8", errors="replace").splitlines(keepends=True)
    return tuple(line.split()[-1] for line in lines if line.startswith("serving ") and line.endswith("\n"))
