"""Several trainer processes (torchrun): who this one is, its slice of each step, and what all agree on."""

import hashlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from commandline import one_line
from commandline.stopping import stop_signals
from loader_service.client import StreamSpec
from trainer.errors import PeerFailedError, RanksError, Stopped, TrainerError
from trainer.network.columns import BatchSlice
from trainer.parent import PARENT_PID

Plain = TypeVar("Plain", str, bool, str | None)

LEAST_PATIENCE_S = 600.0
"""How long a rank waits for the others in one exchange before it gives up, at least."""
PARENT_LOOK_S = 1.0
PARENT_GRACE_S = 30.0
"""How long a rank whose parent has died may take to save and end."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among ``world_size`` equal ones; each drives its own devices on its slice of every step.

    Every method but ``leads`` and ``rows`` is called by all ranks together, and raises RanksError when one is gone.
    """

    rank: int = 0
    world_size: int = 1
    votes: Any = None
    """A gloo group for small exchanges on the CPU; None when there is one process."""

    @property
    def leads(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def rows(self, batch_size: int) -> BatchSlice:
        """This rank's part of a step: that of its stream."""
        begin, end = StreamSpec(batch_size=batch_size, rank=self.rank, world_size=self.world_size).slice
        return BatchSlice(begin=begin, end=end, total=batch_size)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces every gradient by its sum over the ranks; launched together, in the same order everywhere."""
        if self.world_size == 1:
            return
        with _one_line_of_a_dead_peer():
            works = [dist.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
            for work in works:
                work.wait()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the ranks, on the CPU."""
        values = values.detach().cpu().clone()
        if self.world_size > 1:
            with _one_line_of_a_dead_peer():
                dist.all_reduce(values, group=self.votes)
        return values

    def agree(self, *, stop: bool, failure: Exception | None, save: bool = False) -> bool:
        """Whether the leading rank wants to save now. Raises Stopped where any rank wants to stop, and ``failure``
        where any rank has failed, on all of them alike: so all hold the same state then, and can save it together.
        """
        if self.world_size == 1:
            wishes = [stop, failure is not None, save]
        else:
            mine = torch.tensor([int(stop), int(failure is not None), int(save and self.leads)])
            wishes = [wish > 0 for wish in self.sum(mine).tolist()]
        if wishes[0]:
            raise Stopped("a signal asked to stop")
        if wishes[1]:
            raise failure or PeerFailedError("another rank gets no batches: its own line says why")
        return wishes[2]

    def decide(self, choose: Callable[[], Plain]) -> Plain:
        """What ``choose`` returns on the leading rank, which alone calls it; its errors are raised everywhere."""
        if self.world_size == 1:
            return choose()
        answer: tuple[Any, str | None] = (None, None)
        failure: Exception | None = None
        if self.leads:
            try:
                answer = (choose(), None)
            except Exception as error:
                failure = error
                answer = (None, one_line(error))
        chosen: Plain
        chosen, problem = self._told(answer, by=0)
        if failure is not None:
            raise failure
        if problem is not None:
            raise TrainerError(f"rank 0: {problem}")
        return chosen

    def expect_same(self, what: str) -> None:
        """Raises RanksError on every rank when one of them says something else than the leading one."""
        if self.world_size == 1:
            return
        answers = [self._told((socket.gethostname(), what), by=rank) for rank in range(self.world_size)]
        for rank, (host, theirs) in enumerate(answers):
            if theirs != answers[0][1]:
                raise RanksError(
                    f"rank {rank} on {host} {theirs}, but rank 0 on {answers[0][0]} {answers[0][1]}: the run folder "
                    "must be on storage that all ranks see"
                )

    def _told(self, value: Any, *, by: int) -> Any:
        """The ``value`` of rank ``by``, as JSON: unlike a pickle, what comes over the network cannot be a program."""
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([len(content)])
        with _one_line_of_a_dead_peer():
            dist.broadcast(size, src=by, group=self.votes)
            if by != self.rank:
                content = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, src=by, group=self.votes)
        return json.loads(bytes(content.tolist()))


@contextmanager
def _one_line_of_a_dead_peer() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        first_clause = one_line(error).split("] ")[-1].split(". ")[0][:120]
        raise RanksError(f"another rank is gone, or silent for too long ({first_clause})") from None


@contextmanager
def joined_ranks(devices: Sequence[torch.device], service_timeout_s: float) -> Iterator[Ranks]:
    """Joins the group that torchrun's environment describes, and leaves it at the end; alone without one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    backend = "nccl" if any(device.type == "cuda" for device in devices) else "gloo"
    joined, ended = threading.Event(), threading.Event()
    watch = threading.Thread(target=_end_with_parent, args=(joined, ended), name="parent-watch", daemon=True)
    watch.start()
    # One rank may wait for its batch as long as the service may be away while the others wait for that rank.
    patience = timedelta(seconds=max(LEAST_PATIENCE_S, 2 * service_timeout_s))
    try:
        with _ended_by_signals(), _one_line_of_a_dead_peer():
            dist.init_process_group(backend, timeout=patience)
            votes = dist.new_group(backend="gloo", timeout=patience)
        joined.set()
        yield Ranks(rank=dist.get_rank(), world_size=world_size, votes=votes)
    finally:
        ended.set()
        watch.join(2 * PARENT_LOOK_S)
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Signals end the process at once: nothing is to be saved, and Python's handlers would wait for the others."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent(joined: threading.Event, ended: threading.Event) -> None:
    """Has this process stop as by SIGTERM when its parent (torchrun) has died, and ends it if it does not.

    Before the ranks have joined there is nothing to save, and no handler runs while one waits for the others.
    """
    while not ended.wait(PARENT_LOOK_S):
        if os.getppid() != PARENT_PID:
            if joined.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
                ended.wait(PARENT_GRACE_S)
            if not ended.is_set():
                os._exit(128 + signal.SIGTERM)
            return


def local_rank() -> int:
    """This process's number on its machine: torchrun's LOCAL_RANK, 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def digest_of(tensors: Iterable[Tensor]) -> str:
    """A short digest of tensors' bytes, the same wherever they are held."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
