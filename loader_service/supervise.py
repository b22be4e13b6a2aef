"""Runs several processes of one service: restarts the one that dies, stops all together."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, TypeVar

from commandline.stopping import StopRequests

log = logging.getLogger(__name__)

Config = TypeVar("Config")

_LOOK_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 5.0  # beyond the time to drain
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 10.0
_STEADY_AFTER_S = 30.0


def supervise(configs: Sequence[Config], run: Callable[[Config], int], drain_s: float) -> int:
    """Runs ``run(config)`` in a process each until SIGTERM or Ctrl-C, then passes that on and waits for all.

    A process that ends by itself is started again, alone, at once; one that keeps dying, after a growing pause.
    Processes are spawned, never forked (gRPC does not survive a fork), and end if this one dies. They do not see
    Ctrl-C, which a terminal sends to all. Returns 0, or 1 if one had to be killed. A second Ctrl-C kills them and is
    raised as KeyboardInterrupt.
    """
    workers = [_Worker(number, config, run) for number, config in enumerate(configs)]
    with StopRequests() as stop:
        for worker in workers:
            worker.start()
        while not stop.wait(_LOOK_INTERVAL_S):
            for worker in workers:
                worker.revive()
        try:
            for worker in workers:
                worker.process.terminate()
            deadline = time.monotonic() + drain_s + _STOP_TIMEOUT_S
            for worker in workers:
                worker.process.join(max(deadline - time.monotonic(), 0.1))
        finally:
            stubborn = [worker for worker in workers if worker.process.is_alive()]
            for worker in stubborn:
                log.error("process %d did not stop and is killed", worker.number)
                worker.process.kill()
                worker.process.join()
    return 1 if stubborn else 0


class _Worker:
    def __init__(self, number: int, config: Any, run: Callable[[Any], int]) -> None:
        self.number = number
        self._config = config
        self._run = run
        self._backoff_s = 0.0
        self._not_before = 0.0

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_run_child, args=(self._run, self._config), name=f"loader-{self.number}")
        # The process inherits the mask. Its own Ctrl-C after our SIGTERM would count as the second request to stop, and
        # one while it still imports would end it with a traceback.
        resource_tracker.ensure_running()  # started by the process's start, it would take the signal out of the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._started_at = time.monotonic()

    def revive(self) -> None:
        """Starts the process again if it has ended and its pause is over."""
        if self.process.is_alive():
            return
        now = time.monotonic()
        if self._not_before <= self._started_at:
            if now - self._started_at > _STEADY_AFTER_S:
                self._backoff_s = 0.0
            self._not_before = now + self._backoff_s
            log.error(
                "process %d ended with %s; restarting it in %.1f s",
                self.number,
                self.process.exitcode,
                self._backoff_s,
                extra={"process_number": self.number, "exit_code": self.process.exitcode},
            )
            self._backoff_s = min(max(2 * self._backoff_s, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)
        if now >= self._not_before:
            self.start()


def _run_child(run: Callable[[Any], int], config: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    os._exit(run(config))


def _end_with(parent_sentinel: int) -> None:
    """Asks this process to stop, as SIGTERM does, when its parent has died."""
    wait([parent_sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
