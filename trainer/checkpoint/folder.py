"""A run's folder of checkpoints: one line of descent, newest last, the best beside it, and branches set aside."""

import re
from pathlib import Path

from commandline import write_line
from commandline.files import move_into
from commandline.folder_lock import FolderLock
from trainer.checkpoint.snapshot import Snapshot, load
from trainer.errors import CheckpointError, TrainerError

BEST_NAME = "best.pt"
_NAME = re.compile(r"^step-(\d{9})\.pt$")


def folder_of(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def locked(run_dir: Path) -> FolderLock:
    """Makes a run's folder, and holds it until the lock is closed.

    Raises TrainerError that names the owner when another process holds it, and OSError that names a file.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise TrainerError(f"{run_dir}: expected a folder, or nothing, found a file")
    return FolderLock(
        run_dir,
        lambda owner: TrainerError(
            f"{run_dir}: expected a folder that no other run writes to, found it held by {owner}; wait for that one, "
            "stop it, or choose another --run-dir"
        ),
    )


def path_of(run_dir: Path, global_step: int) -> Path:
    """The checkpoint after ``global_step`` steps."""
    return folder_of(run_dir) / f"step-{global_step:09d}.pt"


def best_of(run_dir: Path) -> Path:
    """The checkpoint with the lowest validation error."""
    return folder_of(run_dir) / BEST_NAME


def numbered(run_dir: Path) -> list[Path]:
    """The run's numbered checkpoints, newest first."""
    folder = folder_of(run_dir)
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.match(path.name)), reverse=True)


def newest(run_dir: Path) -> tuple[Path, Snapshot] | None:
    """The newest numbered checkpoint that is whole; says loudly which damaged ones it passed over. None without any.

    Raises CheckpointError when there are checkpoints and none that is numbered and whole; offers the best, if that is.
    """
    paths = numbered(run_dir)
    for path in paths:
        try:
            return path, load(path)
        except CheckpointError as error:
            write_line(f"WARNING: {error}; falling back to the checkpoint before it")
    best = best_of(run_dir)
    if not paths and not best.exists():
        return None
    found = f"none of {len(paths)} numbered checkpoints can be read" if paths else f"there is none but {BEST_NAME}"
    try:
        epoch = load(best).epoch
    except CheckpointError:
        advice = "start again in another --run-dir"
    else:
        advice = f"continue from the best one, of epoch {epoch}, with --resume {best}"
    raise CheckpointError(f"{folder_of(run_dir)}: {found}; {advice}")


def find(path: Path) -> Path:
    """The file that ``path`` means: itself, or a run folder's best or newest checkpoint."""
    if path.is_file():
        return path
    if best_of(path).is_file():
        return best_of(path)
    paths = numbered(path)
    if not paths:
        raise CheckpointError(f"{path}: expected a checkpoint or a run folder that holds one")
    return paths[0]


def remove_old(run_dir: Path, keep: int, newest: Path) -> None:
    """Deletes the numbered checkpoints before ``newest``, but for the ``keep - 1`` last of them.

    ``newest`` and later ones, whoever wrote those, are never deleted; the best has a name of its own and stays.
    """
    for path in [path for path in numbered(run_dir) if path.name < newest.name][keep - 1 :]:
        path.unlink()


def strangers(run_dir: Path, start: Path, global_step: int) -> list[Path]:
    """The checkpoints in the folder that a run which continues from ``start`` does not descend from.

    Those after its step; all of them when ``start`` lies elsewhere. The best is one when it is as late, or damaged.
    """
    is_ours = start.resolve().parent == folder_of(run_dir).resolve()
    others = [path for path in numbered(run_dir) if not is_ours or int(path.stem[5:]) > global_step]
    best = best_of(run_dir)
    if best.is_file() and not (is_ours and _is_as_early(best, global_step)):
        others.append(best)
    return others


def set_aside(run_dir: Path, paths: list[Path]) -> Path:
    """Moves checkpoints of an abandoned branch into a folder of their own and returns it; nothing is deleted."""
    number = 1
    while (branch := folder_of(run_dir) / f"abandoned-{number}").exists():
        number += 1
    move_into(branch, paths)
    return branch


def _is_as_early(path: Path, global_step: int) -> bool:
    try:
        return load(path).global_step <= global_step
    except CheckpointError:
        return False
