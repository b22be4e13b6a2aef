"""Checkpoints: written whole or not at all, checked when read, and refused when they belong to another run."""

import contextlib
import dataclasses
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from commandline import write_line
from trainer.errors import CheckpointError
from trainer.recipes.schedule import ScheduleState

FORMAT = 1
"""Version of a checkpoint's contents; another version is refused."""
BEST_NAME = "best.pt"
_NAME = re.compile(r"^step-(\d{9})\.pt$")

Value = str | int | float | bool | None
Identity = Mapping[str, Value]
"""What must be equal for a run to continue another's checkpoint, by dotted name: see trainer.checkpoint.identity."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a run needs to continue as if it had never stopped. Tensors are on the CPU."""

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


def save(snapshot: Snapshot, path: Path) -> None:
    """Writes ``path`` atomically: a temporary file beside it, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {f.name: getattr(snapshot, f.name) for f in dataclasses.fields(snapshot)}
    document |= {"format": FORMAT, "schedule": dataclasses.asdict(snapshot.schedule)}
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> Snapshot:
    """Reads ``path``. Raises CheckpointError when it is missing, damaged or of another format."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged at {damaged}")
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({type(error).__name__})") from None
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, found {document.get('format')!r}")
    values = {f.name: document[f.name] for f in dataclasses.fields(Snapshot)}
    return Snapshot(**values | {"schedule": ScheduleState(**document["schedule"])})


def folder_of(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def path_of(run_dir: Path, global_step: int) -> Path:
    """The checkpoint after ``global_step`` steps."""
    return folder_of(run_dir) / f"step-{global_step:09d}.pt"


def numbered(run_dir: Path) -> list[Path]:
    """The run's numbered checkpoints, newest first."""
    folder = folder_of(run_dir)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.match(path.name)), reverse=True)


def newest(run_dir: Path) -> tuple[Path, Snapshot] | None:
    """The newest checkpoint that is whole; says loudly which damaged ones it passed over. None without any.

    Raises CheckpointError when there are checkpoints and none is whole.
    """
    paths = numbered(run_dir)
    for path in paths:
        try:
            return path, load(path)
        except CheckpointError as error:
            write_line(f"WARNING: {error}; falling back to the checkpoint before it")
    if paths:
        raise CheckpointError(f"{folder_of(run_dir)}: none of {len(paths)} checkpoints can be read")
    return None


def find(path: Path) -> Path:
    """The file that ``path`` means: itself, or a run directory's best or newest checkpoint."""
    if path.is_file():
        return path
    best = folder_of(path) / BEST_NAME
    if best.is_file():
        return best
    paths = numbered(path)
    if not paths:
        raise CheckpointError(f"{path}: expected a checkpoint or a run directory that holds one")
    return paths[0]


def remove_old(run_dir: Path, keep: int) -> None:
    """Deletes all but the ``keep`` newest numbered checkpoints; the best one has its own name and stays."""
    for path in numbered(run_dir)[keep:]:
        path.unlink()


def refuse_mismatch(path: Path, found: Identity, expected: Identity) -> None:
    """Raises CheckpointError that names every difference between a checkpoint's identity and this run's."""
    names = sorted(found.keys() | expected.keys())
    differences = [
        f"{name}: the checkpoint has {found.get(name)!r}, this run {expected.get(name)!r}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
    if differences:
        raise CheckpointError(f"{path} belongs to another run: " + "; ".join(differences))
