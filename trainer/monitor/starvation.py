"""Notices that the devices wait for data, and says what to scale."""

import time

from commandline import write_line

WAIT_SHARE = 0.1
"""A step that waits for more than this share of its time starves."""
SAY_AGAIN_S = 60.0


class StarvationWatch:
    """Looks at each interval's data-wait; speaks when two intervals in a row starve, at most once a minute."""

    def __init__(self, num_targets: int) -> None:
        self._num_targets = num_targets
        self._in_a_row = 0
        self._said_at: float | None = None

    def look(self, data_wait: float, images_per_s: float) -> None:
        """Takes one interval's share of waiting (0..1) and its rate."""
        self._in_a_row = self._in_a_row + 1 if data_wait > WAIT_SHARE else 0
        now = time.monotonic()
        if self._in_a_row < 2 or (self._said_at is not None and now - self._said_at < SAY_AGAIN_S):
            return
        self._said_at = now
        write_line(starvation_message(data_wait, images_per_s, self._num_targets))


def starvation_message(data_wait: float, images_per_s: float, num_targets: int) -> str:
    """What a starving run says: what arrives, what the devices could take, and what to add."""
    could_take = images_per_s / max(1.0 - data_wait, 0.01)
    factor = could_take / max(images_per_s, 1e-9)
    return (
        f"STARVING: {100 * data_wait:.0f}% of the time is spent waiting for data. The loaders deliver "
        f"{images_per_s:,.0f} images/s, the devices could take about {could_take:,.0f}: give the loader service about "
        f"{factor:.1f} times its cores (serve --threads, or more replicas in --target, now {num_targets}), or "
        f"--cache-bytes for its memory; `python -m loader_service bench` measures it alone"
    )
