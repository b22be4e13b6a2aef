"""Files that each hold many images, WebDataset tars and parquet: where they are, and which split each is of."""

import re
from collections.abc import Callable, Iterable

from preprocess.errors import SourceError
from preprocess.sources.ledger import OUTSIDE, TEST, Ledger
from preprocess.sources.member_names import Split, is_image, is_system, splits_in
from preprocess.sources.storage import Storage

# ``default/train/0000.parquet`` is two folders down; beyond lie the images of folder trees.
_MAX_DEPTH = 3
# A folder of more folders than these is one of classes.
_MAX_FOLDERS = 64
# A million files at most: a name may say any number.
_NUMBERED = re.compile(r"^(.*?)-?(0*[0-9]{1,9})-of-(0*[0-9]{1,6})(?![0-9])(.*)$")


def find_shards(storage: Storage, is_shard: Callable[[str], bool]) -> list[str]:
    """The paths of files whose names are shards', in the source or a few folders below. Raises OSError.

    A split whose folders hold images is a tree, which is long to list, and is not looked through.
    """
    found, _ = _find_below(storage, is_shard, "", 0)
    return found


def _find_below(storage: Storage, is_shard: Callable[[str], bool], folder: str, depth: int) -> tuple[list[str], bool]:
    """The shards in a folder and below, and whether it holds images instead."""
    infos = [info for info in storage.list(folder) if not is_system(info.name)]
    found = [info.path for info in infos if info.kind in ("file", "dangling") and is_shard(info.name)]
    folders = [info for info in infos if info.is_folder]
    holds_images = not found and any(is_image(info.name) for info in infos)
    if depth == _MAX_DEPTH or len(folders) > _MAX_FOLDERS or holds_images:
        return found, holds_images
    for info in folders:
        below, holds_images = _find_below(storage, is_shard, info.path, depth + 1)
        found += below
        if holds_images and depth > 0:
            break
    return found, holds_images


def split_of(root: str, path: str) -> Split | None:
    """The split that a file's name says, or else the nearest folder's; None where neither does.

    Raises SourceError where a name says two, or the name another than the folder.
    """
    said: list[tuple[str, Split]] = []
    for part in reversed(path.split("/")):
        splits = splits_in(part)
        if len(splits) > 1:
            raise SourceError(f"{root}/{path}: expected one split in a name, found {' and '.join(sorted(splits))}")
        said += [(part, split) for split in splits]
    if len({split for _, split in said}) > 1:
        (name, split), (folder, other) = said[0], next(pair for pair in said if pair[1] != said[0][1])
        raise SourceError(f"{root}/{path}: expected one split, found {split} in {name!r} and {other} in {folder!r}")
    return said[0][1] if said else None


def by_split(root: str, paths: Iterable[str]) -> dict[Split | None, list[str]]:
    """Paths by the split that they say, in their order, train before val. Raises SourceError for a file too few."""
    found: dict[Split | None, list[str]] = {"train": [], "val": []}
    for path in paths:
        found.setdefault(split_of(root, path), []).append(path)
    for shards in found.values():
        _check_numbers(root, shards)
    return {split: shards for split, shards in found.items() if shards}


def _check_numbers(root: str, paths: list[str]) -> None:
    """Where names say ``00003-of-00005``, all five must be there."""
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for path in paths:
        match = _NUMBERED.match(path)
        if match is not None:
            numbers = sets.setdefault((match[1], match[3]), {})
            if int(match[2]) in numbers:
                raise SourceError(f"{root}: expected one file of a number, found {numbers[int(match[2])]} and {path}")
            numbers[int(match[2])] = path
    for (prefix, total), numbers in sets.items():
        missing = [number for number in range(int(total)) if number not in numbers]
        if missing:
            raise SourceError(
                f"{root}: expected the {int(total):,} files that their names speak of, found {len(numbers):,} and no "
                f"{prefix}-{missing[0]:0{len(total)}d}-of-{total} (to do without on purpose, rename them)"
            )


def account(storage: Storage, ledger: Ledger, used: Iterable[str]) -> None:
    """Lists the folders in which the files and folders that are used lie, and passes over what lies beside them.

    What a folder that is used holds is its own layout's to list.
    """
    used = set(used)
    parts = [path.split("/")[:-1] for path in used]
    folders = {"/".join(part[:depth]) for part in parts for depth in range(len(part) + 1)}
    for folder in sorted(folders):
        for info in ledger.list(storage, folder):
            if info.is_folder and info.path in used | folders:
                continue
            if info.path in used:
                ledger.num_read += 1
            elif info.kind == "dangling" and splits_in(info.name):
                raise SourceError(f"{storage.root}/{info.path}: expected a split, found a link to nothing")
            else:
                test = "test" in {split for part in info.path.split("/") for split in splits_in(part)}
                ledger.pass_over(TEST if test else OUTSIDE, info.path, found=info.is_folder)
