"""A checkpoint file: everything a run needs to continue, written whole, and checked when it is read."""

import dataclasses
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from commandline import one_line
from commandline.files import atomic_file, naming
from trainer.data.consumed import ConsumedDigest
from trainer.errors import CheckpointError
from trainer.recipes.schedule import ScheduleState

FORMAT = 1
"""Version of a checkpoint's contents; another version is refused."""

Value = str | int | float | bool | None
Identity = Mapping[str, Value]
"""What two runs are compared by, under dotted names: see trainer.checkpoint.identity."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a run needs to continue as if it had never stopped. Tensors are on the CPU, and nobody else's."""

    identity: Identity
    epoch: int
    step: int
    """The next step to take: the stream's position."""
    global_step: int
    """Steps taken so far, over all epochs."""
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]
    generators: list[Tensor]
    schedule: ScheduleState
    epoch_sums: Tensor
    """float64 [4]: loss, top-1 errors, top-5 errors, images of the epoch so far."""
    network: dict[str, Any]
    """Plain data from which the network can be built without a service: see trainer.checkpoint.saved_network."""
    validation: dict[str, float] | None
    """The last validation's result."""
    is_best: bool = False
    """Whether its run had none better so far."""
    consumed: dict[str, Any] | None = None
    """The state of the digest over the stream so far; None in checkpoints of before there was one."""


def save(snapshot: Snapshot, path: Path) -> None:
    """Writes ``path``, whole or not at all. Raises OSError that names it."""
    document = {f.name: getattr(snapshot, f.name) for f in dataclasses.fields(snapshot)}
    document |= {"format": FORMAT, "identity": dict(snapshot.identity)}
    document["schedule"] = dataclasses.asdict(snapshot.schedule)
    with naming(path), atomic_file(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        torch.save(document, sink)  # type: ignore[arg-type]
        sink.raise_failure()


class _Sink:
    """A file to write to that keeps its first failure to itself until asked.

    Torch's writer of zip files answers a failed write with an error of its own that no longer says what failed; here
    it runs to its end, and the disk's own error comes after.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._failure: OSError | None = None

    def write(self, data: bytes) -> int:
        if self._failure is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self._failure = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Does nothing: closing the file flushes it."""

    def raise_failure(self) -> None:
        """Raises the OSError of the first write that failed, if one did."""
        if self._failure is not None:
            raise self._failure


def load(path: Path) -> Snapshot:
    """Reads ``path``. Raises CheckpointError when it is missing, damaged, foreign, of another format, or not finite."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged at {damaged}")
        document = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except PermissionError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except Exception as error:  # what zipfile, zlib and unpickling raise for bytes that nobody wrote on purpose
        raise CheckpointError(f"{path}: not a whole checkpoint ({type(error).__name__})") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: expected a checkpoint of a run, found a {type(document).__name__}")
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, found {document.get('format')!r}")
    try:
        snapshot = _snapshot_of(document)
        is_finite = _is_finite(snapshot)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of a run ({type(error).__name__}: {one_line(error)})"
        ) from None
    if not is_finite:
        raise CheckpointError(f"{path}: its weights are not finite numbers: the run had diverged")
    return snapshot


_KINDS: dict[str, type | tuple[type, ...]] = {
    "identity": dict,
    "epoch": int,
    "step": int,
    "global_step": int,
    "weights": dict,
    "velocities": dict,
    "generators": list,
    "schedule": dict,
    "epoch_sums": Tensor,
    "network": dict,
    "validation": (dict, type(None)),
}


def _is_finite(snapshot: Snapshot) -> bool:
    tensors = [snapshot.epoch_sums, *snapshot.weights.values(), *snapshot.velocities.values()]
    return all_finite(tensors) and all(map(math.isfinite, (snapshot.validation or {}).values()))


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number is finite; one pass without a copy, and one wait for the devices."""
    # A sum is finite only if every term is, and float64 does not overflow.
    totals = [tensor.sum(dtype=torch.float64).to(tensors[0].device) for tensor in tensors]
    return bool(torch.isfinite(torch.stack(totals)).all())


def _snapshot_of(document: dict[str, Any]) -> Snapshot:
    """The snapshot in a document. Raises KeyError, TypeError or ValueError for anything else than one."""
    values = {name: document[name] for name in _KINDS}
    for name, kind in _KINDS.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is a {type(values[name]).__name__}")
    tensors = [*values["weights"].values(), *values["velocities"].values(), *values["generators"]]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TypeError("weights, velocities and generators: expected tensors")
    if values["epoch_sums"].shape != (4,) or min(values["epoch"], values["step"], values["global_step"]) < 0:
        raise ValueError("expected four sums and a position")
    consumed = document.get("consumed")
    if consumed is not None:
        ConsumedDigest.from_plain(consumed)
    is_best = document.get("is_best") is True  # checkpoints of earlier versions do not say
    schedule = ScheduleState(**values["schedule"])
    return Snapshot(**values | {"schedule": schedule, "is_best": is_best, "consumed": consumed})
