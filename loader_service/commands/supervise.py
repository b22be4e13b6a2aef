"""Runs several processes of one service: restarts the one that dies, stops all together."""

import ctypes
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from commandline import one_line
from commandline.program import EXIT_FAILED
from commandline.stopping import StopRequests

log = logging.getLogger(__name__)

Config = TypeVar("Config")

_LOOK_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 5.0  # beyond the time to drain
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 10.0
_STEADY_AFTER_S = 30.0


def supervise(
    configs: Sequence[Config],
    run: Callable[[Config, Callable[[], None]], int],
    drain_s: float,
    *,
    user_errors: tuple[type[Exception], ...] = (),
) -> int:
    """Runs ``run(config, on_ready)`` in a process each until SIGTERM or Ctrl-C, then passes that on and waits for all.

    A process that ends by itself is started again, alone, at once; one that keeps dying, after a growing pause. When
    one ends before it was ever ready, trying again would not help: all are stopped, with 1 as the result.
    ``user_errors`` are logged as one line.

    Processes are spawned, never forked (gRPC does not survive a fork), and end if this one dies. They do not see
    Ctrl-C, which a terminal sends to all. Returns 0, or 1 if one had to be killed. A second Ctrl-C kills them and is
    raised as KeyboardInterrupt.
    """
    workers: list[_Worker] = []
    code = 0
    with StopRequests() as stop:
        try:
            for number, config in enumerate(configs):
                workers.append(_Worker(number, config, run, user_errors))
            while not code and not stop.wait(_LOOK_INTERVAL_S):
                for worker in workers:
                    if worker.cannot_start:
                        log.error("process %d has ended before it was ready: stopping all", worker.number)
                        code = 1
                    else:
                        worker.revive()
            for worker in workers:
                worker.process.terminate()
            deadline = time.monotonic() + drain_s + _STOP_TIMEOUT_S
            for worker in workers:
                worker.process.join(max(deadline - time.monotonic(), 0.1))
        finally:
            for worker in workers:
                if worker.process.is_alive():
                    log.error("process %d did not stop and is killed", worker.number)
                    worker.process.kill()
                    worker.process.join()
                    code = 1
    return code


class _Worker:
    """A process, from construction on, and those that take its place. Raises OSError where it cannot be started."""

    def __init__(
        self, number: int, config: Any, run: Callable[..., int], user_errors: tuple[type[Exception], ...]
    ) -> None:
        self.number = number
        self._context = multiprocessing.get_context("spawn")
        self._is_ready = self._context.RawValue(ctypes.c_bool, False)
        """Set by the process; no lock that it could take with it when it is killed."""
        self._arguments = (run, config, self._is_ready, user_errors)
        self._backoff_s = 0.0
        self._not_before = 0.0
        self.process = self._started()

    @property
    def cannot_start(self) -> bool:
        """Whether it has ended and was never ready, in this process or one before."""
        return not self.process.is_alive() and not self._is_ready.value

    def revive(self) -> None:
        """Starts the process again if it has ended and its pause is over."""
        if self.process.is_alive():
            return
        now = time.monotonic()
        if self._not_before <= self._started_at:
            if now - self._started_at > _STEADY_AFTER_S:
                self._backoff_s = 0.0
            self._pause(f"ended with {self.process.exitcode}", self.process.exitcode)
        if now >= self._not_before:
            try:
                self.process = self._started()
            except OSError as error:
                self._pause(f"cannot be started: {error}", None)

    def _started(self) -> SpawnProcess:
        process = self._context.Process(target=_run_child, args=self._arguments, name=f"loader-{self.number}")
        # The process inherits the mask. Its own Ctrl-C after our SIGTERM would count as the second request to stop, and
        # one while it still imports would end it with a traceback.
        resource_tracker.ensure_running()  # started by the process's start, it would take the signal out of the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._started_at = time.monotonic()
        return process

    def _pause(self, reason: str, exit_code: int | None) -> None:
        self._not_before = time.monotonic() + self._backoff_s
        log.error(
            "process %d %s; restarting it in %.1f s",
            self.number,
            reason,
            self._backoff_s,
            extra={"process_number": self.number, "exit_code": exit_code},
        )
        self._backoff_s = min(max(2 * self._backoff_s, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)


def _run_child(
    run: Callable[[Any, Callable[[], None]], int], config: Any, is_ready: Any, user_errors: tuple[type[Exception], ...]
) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()

    def on_ready() -> None:
        is_ready.value = True

    try:
        code = run(config, on_ready)
    except user_errors as error:
        log.error("%s", one_line(error))
        code = EXIT_FAILED
    os._exit(code)


def _end_with(parent_sentinel: int) -> None:
    """Asks this process to stop, as SIGTERM does, when its parent has died."""
    wait([parent_sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
