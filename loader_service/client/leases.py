"""Which replica fetches which steps: the client's bookkeeping, without threads or RPCs.

Positions number the steps of a stream from its start, across epochs. The book hands out leases (short runs of
consecutive positions), takes back what a failed lease left undone, and lets an idle replica ask again for steps that
are late elsewhere. No position is handed out that is past the consumer's by the window or more, which bounds memory.
"""

from collections import Counter
from dataclasses import dataclass, field

from loader_service.client.window import Window

_REPEAT_BUDGET = 0.2
"""How large a share of all positions may be asked for twice while the first asking is merely late."""
_SLOW = 2.0
"""A replica that takes so many times as long as the fastest has no steps that others leave to it."""


@dataclass(eq=False)
class Lease:
    """Positions [begin, end) given to one replica. ``missing`` shrinks as they arrive, from whoever is first."""

    replica: str
    begin: int
    end: int
    started_s: float
    missing: set[int] = field(default_factory=set)
    is_delivered: bool = False
    """Whether this lease's own replica has sent its last position."""


class LeaseBook:
    """Not thread-safe: the stream that owns it holds a lock.

    ``lease_size`` is the most positions a lease has, and never more than a fast replica could finish while the
    slowest one finishes one.
    """

    def __init__(
        self,
        *,
        num_positions: int | None,
        steps_per_epoch: int,
        first_step: int,
        window: Window,
        lease_size: int,
    ) -> None:
        self._end = num_positions
        self._steps_per_epoch = steps_per_epoch
        self._first_step = first_step
        self._window = window
        self._lease_size = lease_size
        self._next = 0
        self._open: list[int] = []
        """Positions before ``_next`` that nobody is fetching."""
        self._returned: set[int] = set()
        """Those of them that a failed lease left undone: whoever asks first gets them."""
        self._leases: list[Lease] = []
        self._consumed = 0
        self._done: set[int] = set()
        self._lost: dict[int, set[str]] = {}
        self._repeats = 0
        self._step_time_s: dict[str, float] = {}

    def next_lease(self, replica: str, now_s: float, *, is_starved: bool) -> Lease | None:
        """Work for ``replica``, or None when there is nothing for it to do now. ``is_starved``: the consumer waits, so
        that a window which leaves a replica idle is too small."""
        lease = self._fresh(replica, now_s)
        if lease is None and is_starved and self._is_held_up():
            self._window.grow(self._size_for(replica), num_replicas=self._count(replica))
            lease = self._fresh(replica, now_s)
        lease = lease or self._fresh(replica, now_s, of_others=True) or self._repeat(replica, now_s)
        if lease is not None:
            self._leases.append(lease)
        return lease

    def complete(self, position: int, lease: Lease, now_s: float) -> bool:
        """Notes that ``position`` has arrived; False when it had arrived before."""
        pace = (now_s - lease.started_s) / (position - lease.begin + 1)
        known = self._step_time_s.get(lease.replica, pace)
        self._step_time_s[lease.replica] = 0.5 * known + 0.5 * pace
        lease.is_delivered |= position == lease.end - 1
        if position in self._done or position < self._consumed:
            return False
        self._done.add(position)
        for other in self._leases:
            other.missing.discard(position)
        return True

    def end(self, lease: Lease) -> None:
        """Ends a lease, whole or not; what it left undone, and nobody else is fetching, is handed out again first."""
        self._leases.remove(lease)
        left = lease.missing.difference(*(other.missing for other in self._leases))
        self._open = sorted({*self._open, *left})
        self._returned |= left

    def lose(self, position: int, replica: str) -> None:
        """Notes that ``replica`` cannot deliver ``position``, which is still to be consumed: its copy is damaged."""
        self._lost.setdefault(position, set()).add(replica)

    def is_lost(self, position: int, replicas: set[str]) -> bool:
        """Whether none of ``replicas``, of which there are some, can deliver ``position``."""
        return bool(replicas) and replicas <= self._lost.get(position, set())

    def consume(self, position: int) -> None:
        """Notes that the consumer took ``position``; the window moves on."""
        self._consumed = position + 1
        self._done.discard(position)
        self._lost.pop(position, None)
        self._window.note_taken(len(self._done), num_replicas=self._count())

    def forget(self, replica: str) -> None:
        """Forgets how fast ``replica`` was, for instance since it was restarted."""
        self._step_time_s.pop(replica, None)

    def is_superseded(self, lease: Lease) -> bool:
        """Whether all of a lease's positions have arrived from others while its own replica is still sending."""
        return not lease.missing and not lease.is_delivered

    @property
    def is_finished(self) -> bool:
        return self._end is not None and self._consumed >= self._end

    def locate(self, position: int) -> tuple[int, int]:
        """(epochs after the first, step) of a position."""
        return divmod(self._first_step + position, self._steps_per_epoch)

    def _fresh(self, replica: str, now_s: float, *, of_others: bool = False) -> Lease | None:
        """The earliest positions that nobody is fetching and that fall to ``replica``; or, ``of_others``, to anyone."""
        last = self._consumed + self._window.size
        if self._end is not None:
            last = min(last, self._end)
        self._open += range(self._next, last)
        self._next = max(self._next, last)
        falls_to_it = [True] if of_others else self._shares_of(replica)
        allowed = [p for p in self._open if p < last and replica not in self._lost.get(p, ())]
        begin = next(
            (p for p in allowed if p in self._returned or falls_to_it[self._block(p)[1] % len(falls_to_it)]), None
        )
        if begin is None:
            return None
        end, most = begin + 1, begin + self._size_for(replica)
        while end < most and end in allowed and self._block(end) == self._block(begin):
            end += 1
        lease = Lease(replica, begin, end, now_s, missing=set(range(begin, end)))
        self._open = [p for p in self._open if p not in lease.missing]
        self._returned -= lease.missing
        return lease

    def _block(self, position: int) -> tuple[int, int]:
        """Epoch and number of the block that a position is in: a lease ends with it, as a request does with an epoch.

        By that number blocks fall to replicas in turn, for every client alike: of the clients of one stream each asks
        the same replica for the same steps, which makes them once for all.
        """
        epoch, step = self.locate(position)
        return epoch, step // self._lease_size

    def _shares_of(self, replica: str) -> list[bool]:
        """Which blocks, by their number modulo the replicas', fall to ``replica``: its own, and those of slow ones."""
        most_s = _SLOW * min(self._step_time_s.values(), default=0.0)
        return [r == replica or self._step_time_s.get(r, 0.0) > most_s for r in sorted(self._replicas(replica))]

    def _repeat(self, replica: str, now_s: float) -> Lease | None:
        """The oldest position that is late: overdue by what this replica would need to fetch it twice."""
        if self._repeats > _REPEAT_BUDGET * max(self._next, 10):
            return None
        own_pace = self._step_time_s.get(replica)
        if own_pace is None:
            return None
        late_leases = [
            lease
            for lease in self._leases
            if now_s - lease.started_s > 2.0 * own_pace * (lease.end - lease.begin) + 0.05 and lease.replica != replica
        ]
        if not late_leases:
            return None
        counts = Counter(position for lease in self._leases for position in lease.missing)
        for lease in sorted(late_leases, key=lambda lease: lease.begin):
            late = [p for p in sorted(lease.missing) if counts[p] == 1 and replica not in self._lost.get(p, ())]
            if late:
                self._repeats += 1
                return Lease(replica, late[0], late[0] + 1, now_s, missing={late[0]})
        return None

    def _is_held_up(self) -> bool:
        """Whether it is the window, and not the stream's end, that keeps steps from being handed out."""
        return self._end is None or self._consumed + self._window.size < self._end

    def _count(self, *asking: str) -> int:
        return len(self._replicas(*asking))

    def _replicas(self, *asking: str) -> set[str]:
        """Replicas that have delivered since they last failed, or are at work, or ask for some."""
        return self._step_time_s.keys() | {lease.replica for lease in self._leases} | set(asking)

    def _size_for(self, replica: str) -> int:
        """Shorter leases for slower replicas, so that one of them holds up the window as little as can be."""
        own, fastest = self._step_time_s.get(replica), min(self._step_time_s.values(), default=0.0)
        if own is None or own <= 0.0:
            return 1
        return max(1, min(self._lease_size, round(self._lease_size * fastest / own)))
