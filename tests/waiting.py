"""Waiting in tests: until something is so, for much longer than it takes on a machine that does nothing else."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 300.0) -> None:
    """Returns once ``condition()``; fails, saying that it waited for ``what``, after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)
