"""Waiting for something that a stop signal need not wait for."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from commandline.stopping import StopRequests
from trainer.errors import Stopped

T = TypeVar("T")

LOOK_S = 0.05


def unless_stopped(action: Callable[[], T], stop: StopRequests) -> T:
    """What ``action`` returns, or raises, from a thread of its own. Raises Stopped as soon as a signal comes.

    The thread is then left to end with the process, which is about to.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((action(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, name="unless-stopped", daemon=True).start()
    while answers.empty():
        if stop.wait(LOOK_S):
            raise Stopped("a signal asked to stop")
    result, failure = answers.get()
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]
