"""Several trainer processes (torchrun): who this one is, its devices, its slice of each step, and sums over all."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from loader_service.wire.types import StreamSpec
from trainer.errors import DeviceError
from trainer.network.columns import BatchSlice

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others in one sum before it gives up."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among ``world_size`` equal ones; each drives its own devices on its slice of every step."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    votes: Any = None
    """A gloo group for small sums on the CPU; None when there is one process."""

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
        works = [dist.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
        for work in works:
            work.wait()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the ranks, on the CPU."""
        values = values.detach().cpu().clone()
        if self.world_size > 1:
            dist.all_reduce(values, group=self.votes)
        return values

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether any rank wants to stop, and whether the leading one wants to save; all must ask at the same step."""
        if self.world_size == 1:
            return stop, save
        wishes = self.sum(torch.tensor([int(stop), int(save and self.leads)])).tolist()
        return wishes[0] > 0, wishes[1] > 0


def join_ranks(devices: Sequence[torch.device]) -> Ranks:
    """Joins the group that torchrun's environment describes; alone without one. End with :func:`leave_ranks`."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    backend = "nccl" if any(device.type == "cuda" for device in devices) else "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return Ranks(
        rank=dist.get_rank(),
        local_rank=local_rank(),
        world_size=world_size,
        votes=dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT),
    )


def leave_ranks(ranks: Ranks) -> None:
    """Leaves the group, if there is one."""
    if ranks.world_size > 1:
        dist.destroy_process_group()


def local_rank() -> int:
    """This process's number on its machine: torchrun's LOCAL_RANK, 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def devices_of_rank(names: Sequence[str], rank_on_machine: int, num_columns: int = 2) -> tuple[torch.device, ...]:
    """The devices of one rank's columns.

    ``names`` lists the machine's devices: rank r takes the r-th pair. A single pair of CPUs serves every rank. Empty
    means automatic: the r-th pair of GPUs, or one GPU twice where there is one, or ``cpu,cpu``.
    Raises DeviceError for a device that does not exist or a list that does not reach.
    """
    num_gpus = torch.cuda.device_count()
    if not names:
        if num_gpus == 0:
            names = ("cpu", "cpu")
        elif num_gpus == 1:
            names = ("cuda:0", "cuda:0")
        else:
            names = tuple(f"cuda:{index}" for index in range(num_gpus))
    if len(names) == 1:
        names = (names[0], names[0])
    pairs = [names[begin : begin + 2] for begin in range(0, len(names) - 1, 2)]
    place = 0 if len(pairs) == 1 and set(names) == {"cpu"} else rank_on_machine
    if place >= len(pairs):
        raise DeviceError(
            f"devices: rank {rank_on_machine} on this machine needs devices {2 * place} and {2 * place + 1} of the "
            f"list, found {len(names)}: {','.join(names)}"
        )
    return tuple(_checked(name) for name in pairs[place][:num_columns])


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"devices: expected names such as cpu or cuda:0, found {name!r}") from None
    if device.type == "cuda":
        index = device.index or 0
        if index >= torch.cuda.device_count():
            raise DeviceError(f"devices: {name} does not exist; this machine has {torch.cuda.device_count()} GPUs")
        return torch.device("cuda", index)
    return device
