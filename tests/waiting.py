"""Waiting in tests: until something is so, for much longer than it takes on a machine that does nothing else."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 100.0) -> None:
    """Returns once ``condition()``; fails, saying that it waited for ``what``, after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)


def start_ray(start: Callable[[], T]) -> T:
    """What ``start()`` returns. Ray gives its own processes 30 seconds to start, whatever else the machine does; the
    third attempt then finds all of its files in memory."""
    import ray

    for _ in range(2):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    return start()
