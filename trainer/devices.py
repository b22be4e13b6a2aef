"""Which devices a process drives: one a column, chosen by name or by what the machine has."""

from collections.abc import Sequence
from typing import Literal

import torch

from trainer.errors import DeviceError


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
            names = tuple(f"cuda:{index}" for index in range(num_gpus - num_gpus % 2))
    if len(names) == 1:
        names = (names[0], names[0])
    if len(names) % 2:
        raise DeviceError(f"--devices: expected pairs, one device a column, found {len(names)}: {','.join(names)}")
    devices = [_checked(name) for name in names]
    place = 0 if len(devices) == 2 and devices[0].type == devices[1].type == "cpu" else rank_on_machine
    pair = devices[2 * place : 2 * place + 2]
    if not pair:
        raise DeviceError(
            f"--devices: rank {rank_on_machine} on this machine needs devices {2 * place} and {2 * place + 1} of the "
            f"list, found {len(names)}: {','.join(names)}"
        )
    return tuple(pair[:num_columns])


def precision_on(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision of products when nobody chooses one: the faster where it costs no accuracy, as on a GPU."""
    has_bfloat16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" if has_bfloat16 else "float32"


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--devices: expected names such as cpu or cuda:0, found {name!r}") from None
    if device.type == "cuda":
        index = device.index or 0
        if index >= torch.cuda.device_count():
            raise DeviceError(f"--devices: {name} does not exist; this machine has {torch.cuda.device_count()} GPUs")
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise DeviceError(f"--devices: expected cpu or cuda devices, found {name!r}")
    return torch.device("cpu")
