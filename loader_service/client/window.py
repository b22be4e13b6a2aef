"""How far past the consumer steps are handed out: as few as keep every replica at work, within a bound of memory."""

USUAL_STEPS = 8
"""The window to begin with, the most for one replica or two, and the reserve that a consumer which is slow keeps."""


class Window:
    """Not thread-safe: it belongs to a lease book.

    It grows when a replica is idle for want of a step while the consumer waits for one, up to ``USUAL_STEPS`` for each
    replica but the first, and never past ``most`` steps. It shrinks to what the replicas there are may have, and by
    half of what lay ready beyond ``USUAL_STEPS`` all the time in which the consumer took a whole window. If
    ``is_fixed``, it is ``most`` steps always.
    """

    def __init__(self, most: int, *, is_fixed: bool = False) -> None:
        self._most = most
        self._least = most if is_fixed else min(USUAL_STEPS, most)
        self.size = self._least
        """Steps that may be handed out past the last one that was consumed."""
        self._num_taken, self._least_ready = 0, most

    def grow(self, num_steps: int, *, num_replicas: int) -> None:
        """Makes room for so many more steps, if it may, for an idle one of ``num_replicas``."""
        self.size = max(self.size, min(self.size + num_steps, self._limit(num_replicas)))

    def note_taken(self, num_ready: int, *, num_replicas: int) -> None:
        """Notes that the consumer took a step, and that ``num_ready`` lie ready after it."""
        self._num_taken += 1
        self._least_ready = min(self._least_ready, num_ready)
        if self._num_taken >= self.size:
            self.size = max(self.size - max(self._least_ready - USUAL_STEPS, 0) // 2, self._least)
            self._num_taken, self._least_ready = 0, self._most
        self.size = min(self.size, self._limit(num_replicas))

    def _limit(self, num_replicas: int) -> int:
        return min(max(USUAL_STEPS * (num_replicas - 1), self._least), self._most)
