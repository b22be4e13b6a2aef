"""The window that finds its own size, in a simulated world where time is reckoned and replicas pace themselves."""

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from loader_service.client.leases import Lease, LeaseBook
from loader_service.client.window import USUAL_STEPS, Window

_MESSAGES_PER_STEP = 4
_STREAMS = 2
_TRIP_S = 0.002
"""From a client that asks to a replica that begins."""
_IDLE_WAIT_S = 0.05


@dataclass
class World:
    """Replicas of one decode thread each, which their calls share message by message, and one consumer."""

    paces_s: list[float]
    """Seconds for a step, by replica."""
    window: Window
    num_steps: int
    consume_s: float = 0.0
    """Seconds that the consumer is busy with each step."""
    seed: int = 1
    most_ahead: int = 0
    """Most steps past the consumer that were handed out at once."""
    first_asked: dict[int, int] = field(default_factory=dict)
    """The replica that was first asked for a position."""
    _events: list[tuple[float, int, Any]] = field(default_factory=list)

    def run(self) -> float:
        """Steps a second."""
        self._dice = random.Random(self.seed)
        self._book = LeaseBook(
            num_positions=self.num_steps, steps_per_epoch=10**9, first_step=0, window=self.window, lease_size=2
        )
        self._calls: list[list[tuple[Lease, int, int]]] = [[] for _ in self.paces_s]
        """Of each replica: lease, position, messages of it made."""
        self._busy: set[int] = set()
        self._idle: list[int] = []
        self._ready: set[int] = set()
        self._consumed = 0
        self._is_waiting = True
        for number in range(_STREAMS * len(self.paces_s)):
            self._at(0.0, lambda now, number=number: self._ask(number // _STREAMS, now))
        self._at(0.0, self._poll)
        now = 0.0
        while not self._book.is_finished:
            now, _, event = heapq.heappop(self._events)
            event(now)
        return self.num_steps / now

    def _at(self, now: float, event: Any) -> None:
        self._ticket = getattr(self, "_ticket", 0) + 1
        heapq.heappush(self._events, (now, self._ticket, event))

    def _poll(self, now: float) -> None:
        self._wake(now)
        self._at(now + _IDLE_WAIT_S, self._poll)

    def _wake(self, now: float) -> None:
        idle, self._idle = self._idle, []
        for replica in idle:
            self._ask(replica, now)

    def _ask(self, replica: int, now: float) -> None:
        lease = self._book.next_lease(str(replica), now, is_starved=self._is_waiting)
        if lease is None:
            self._idle.append(replica)
            return
        self.most_ahead = max(self.most_ahead, lease.end - self._consumed)
        for position in range(lease.begin, lease.end):
            self.first_asked.setdefault(position, replica)
        self._at(now + _TRIP_S, lambda now: self._begin(replica, (lease, lease.begin, 0), now))

    def _begin(self, replica: int, call: tuple[Lease, int, int], now: float) -> None:
        self._calls[replica].append(call)
        self._make(replica, now)

    def _make(self, replica: int, now: float) -> None:
        if replica in self._busy or not self._calls[replica]:
            return
        self._busy.add(replica)
        call = self._calls[replica].pop(0)
        took_s = self.paces_s[replica] / _MESSAGES_PER_STEP * self._dice.lognormvariate(0.0, 0.3)
        self._at(now + took_s, lambda now: self._made(replica, *call, now))

    def _made(self, replica: int, lease: Lease, position: int, num_made: int, now: float) -> None:
        self._busy.discard(replica)
        num_made += 1
        if num_made == _MESSAGES_PER_STEP:
            if self._book.complete(position, lease, now):
                self._ready.add(position)
            position, num_made = position + 1, 0
        if self._is_waiting:
            self._take(now)
        if position == lease.end or self._book.is_superseded(lease):
            self._book.end(lease)
            self._ask(replica, now)
        else:
            self._calls[replica].append((lease, position, num_made))
        self._make(replica, now)

    def _take(self, now: float) -> None:
        was_waiting, self._is_waiting = self._is_waiting, self._consumed not in self._ready
        if not self._is_waiting:
            self._ready.discard(self._consumed)
            self._book.consume(self._consumed)
            self._consumed += 1
            self._at(now + self.consume_s, self._take)
        if not (self._is_waiting and was_waiting):
            self._wake(now)


def even(count: int) -> list[float]:
    return [0.04] * count


def uneven(count: int) -> list[float]:
    """The slowest takes three times as long as the fastest."""
    return [0.04 * (1 + 2 * number / max(count - 1, 1)) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("paces_of", [even, uneven])
def test_as_good_as_the_best_fixed_window(count: int, paces_of: Any) -> None:
    num_steps = max(40 * count, 400)
    sizes = {max(USUAL_STEPS, factor * count) for factor in (4, 8, 16)}
    best = max(World(paces_of(count), Window(size, is_fixed=True), num_steps).run() for size in sizes)
    assert World(paces_of(count), Window(10_000), num_steps).run() >= 0.95 * best


@pytest.mark.parametrize("count", [2, 4, 12, 32])
def test_clients_of_one_stream_ask_the_same_replicas_for_the_same_steps(count: int) -> None:
    """Which then make them once for all: whoever is free would be the same one once in ``count`` times."""
    clients = [World(even(count), Window(10_000), 100 * count, seed=seed) for seed in (1, 2)]
    for client in clients:
        client.run()
    first, second = (client.first_asked for client in clients)
    assert sum(second[position] == replica for position, replica in first.items()) > 0.6 * len(first)


@pytest.mark.parametrize("paces_s", [[0.04], [0.04, 0.04], [0.04, 0.4]])
@pytest.mark.parametrize("consume_s", [0.0, 0.1])
def test_one_replica_or_two_have_no_more_than_the_usual(paces_s: list[float], consume_s: float) -> None:
    world = World(paces_s, Window(10_000), 200, consume_s)
    world.run()
    assert world.most_ahead <= USUAL_STEPS


def test_a_bound_of_memory_is_kept() -> None:
    world = World(even(12), Window(20), 300)
    world.run()
    assert world.most_ahead == 20
    tiny = World(even(12), Window(2), 100)
    tiny.run()
    assert tiny.most_ahead == 2


def test_a_slow_consumer_holds_less_and_does_not_wait() -> None:
    """Half of what sixteen replicas can do, and a tenth: it gets what it takes, and its window is a part of theirs."""
    hungry = World(even(16), Window(10_000), 1500)
    hungry.run()
    for share, most_steps in ((2, hungry.most_ahead // 2), (10, 2 * USUAL_STEPS)):
        slow = World(even(16), Window(10_000), 1500, consume_s=share * 0.04 / 16)
        assert slow.run() >= 0.97 / slow.consume_s
        assert slow.window.size <= most_steps


def test_replicas_that_go_take_their_share_of_the_window_along() -> None:
    window = Window(10_000)
    book = LeaseBook(num_positions=None, steps_per_epoch=10**9, first_step=0, window=window, lease_size=2)
    leases = [book.next_lease(str(number // 2), 0.0, is_starved=True) for number in range(24)]
    assert None not in leases, "each of twelve replicas has two leases"
    assert window.size > USUAL_STEPS
    for lease in leases[:4] + leases[4:]:
        assert lease is not None
        if int(lease.replica) >= 2:
            book.forget(lease.replica)
            book.end(lease)
        else:
            assert book.complete(lease.begin, lease, 1.0)
    book.consume(0)
    assert window.size == USUAL_STEPS


def test_a_consumer_that_does_not_wait_makes_no_room() -> None:
    window = Window(10_000)
    book = LeaseBook(num_positions=None, steps_per_epoch=10**9, first_step=0, window=window, lease_size=2)
    leases = [book.next_lease(str(number), 0.0, is_starved=False) for number in range(24)]
    assert sum(lease is not None for lease in leases) == window.size == USUAL_STEPS
