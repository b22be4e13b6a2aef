"""Waiting for something that a stop signal need not wait for."""

from collections.abc import Callable
from typing import TypeVar

from commandline.stopping import StopRequests
from trainer.checkpoint.background import Background
from trainer.errors import Stopped

T = TypeVar("T")

LOOK_S = 0.05


def unless_stopped(action: Callable[[], T], stop: StopRequests) -> T:
    """What ``action`` returns, or raises, from a thread of its own. Raises Stopped as soon as a signal comes.

    The thread is then left to end with the process, which is about to.
    """
    answers: list[T] = []
    asking = Background()
    asking.start(lambda: answers.append(action()))
    while asking.is_busy:
        if stop.wait(LOOK_S):
            raise Stopped("a signal asked to stop")
    asking.finish()
    return answers[0]
