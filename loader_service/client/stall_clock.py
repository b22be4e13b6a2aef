"""Tells a replica that is silent from one that is slow."""


class StallClock:
    """Of one call: how long no byte of it has come. For one watcher, who says how much time has passed: none while this
    process itself was stopped.
    """

    def __init__(self) -> None:
        self._num_seen = 0
        self._silent_s = 0.0
        self.is_stalled = False
        """Whether it was silent for too long, which stays so: it is given up."""

    def advance(self, seconds: float, num_received: int, timeout_s: float) -> bool:
        """Notes how many bytes the call has received in all. Returns whether some came since the last time."""
        has_moved = num_received != self._num_seen
        self._num_seen = num_received
        self._silent_s = 0.0 if has_moved else self._silent_s + seconds
        self.is_stalled |= self._silent_s > timeout_s
        return has_moved
