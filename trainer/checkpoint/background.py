"""Work beside training: one piece at a time in a thread of its own, whose failure the training thread hears of."""

import threading
from collections.abc import Callable


class Background:
    """Runs one piece of work at a time. For one thread, which ends with :meth:`finish`.

    The thread is a daemon: a second Ctrl-C ends the process also while a disk does not answer, and what is being
    written then is a temporary file.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begins ``work`` once what is under way has ended. Raises what that raised."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(work,), name="background", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what finished work raised; does not wait."""
        if not self.is_busy:
            self.finish()

    def finish(self) -> None:
        """Waits until nothing is under way. Raises what it raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error
