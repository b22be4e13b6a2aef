"""A tree: ``train/<class>/*`` and ``val/<class>/*``, a flat ``val/*`` with labels, or ``<class>/*`` alone.

A class may be a tar instead of a folder.
"""

from collections.abc import Sequence

from preprocess.errors import SourceError
from preprocess.sources.class_names import class_infos, read_class_names
from preprocess.sources.class_tree import list_train, list_val
from preprocess.sources.file_info import FileInfo
from preprocess.sources.listing import Source
from preprocess.sources.member_names import Split, exact_split, is_image, is_system, splits_in
from preprocess.sources.options import Reading
from preprocess.sources.shards import account
from preprocess.sources.storage import Storage
from preprocess.sources.tar_reader import is_tar
from preprocess.sources.val_tar import VAL_TAR, list_val_tar

LAYOUT = "folder"
EXPECTED = "train/<class>/* with val/<class>/* or val/* and its labels, or <class>/* alone"


def detect(storage: Storage) -> bool:
    """Whether there are folders, of the splits or of classes, or tars."""
    infos = [info for info in storage.list("") if not is_system(info.name)]
    return any(info.is_folder or is_tar(info.name) for info in infos)


def read(reading: Reading, *, base: str = "", layout: str = LAYOUT) -> Source:
    """Lists the tree under ``base``. Labels are the sorted classes of the training split; raises SourceError."""
    storage = reading.storage
    folders = find_splits(storage, base)
    names = read_class_names(storage, reading.ledger)
    class_ids, train = list_train(reading, folders["train"])
    splits = {"train": train}
    if "val" in folders:
        splits["val"] = list_val(reading, folders["val"], class_ids)
    used = list(folders.values())
    if "val" not in folders and train.access != "file" and storage.size_of(VAL_TAR) is not None:
        # The class tars were taken out of the training tar, and this one needs no taking apart.
        splits["val"] = list_val_tar(reading, class_ids)
        used.append(VAL_TAR)
    if base or folders["train"]:
        account(storage, reading.ledger, used)
    return Source(
        layout=layout,
        root=storage.root,
        classes=class_infos(class_ids, names),
        splits={name: images for name, images in splits.items() if len(images)},
    )


def find_splits(storage: Storage, base: str) -> dict[Split, str]:
    """The folder of each split; the whole tree is the training split where no name says otherwise.

    A folder called just as a split, in any case, is it; else one with a split among its words, where the rest of the
    tree does not look like classes. Raises SourceError where two folders may be the same split, or none is train.
    """
    folders = [info for info in storage.list(base) if info.is_folder and not is_system(info.name)]
    exact = {info.path: split for info in folders if (split := exact_split(info.name)) is not None}
    loose = {info.path: next(iter(words)) for info in folders if len(words := splits_in(info.name)) == 1}
    if "train" in exact.values() and _is_class(storage, exact, folders):
        return {"train": base}
    chosen = {path: split for path, split in exact.items() if split != "test"}
    if "train" not in chosen.values():
        chosen |= {path: split for path, split in loose.items() if split == "train" and _holds_classes(storage, path)}
        other = next(
            (info.path for info in folders if info.path not in loose and _holds_images(storage, info.path)), None
        )
        if "train" in chosen.values() and other is not None:
            raise SourceError(
                f"{storage.root}: expected splits or classes, found {next(iter(chosen))}, which may be for training, "
                f"beside {other}, which may be a class"
            )
    if "train" in chosen.values() and "val" not in chosen.values():
        chosen |= {path: split for path, split in loose.items() if split == "val"}
    if "train" not in chosen.values():
        if not exact:
            return {"train": base}
        raise SourceError(
            f"{storage.root}: expected a folder 'train' beside {', '.join(info.name for info in folders)}, found none"
        )
    found: dict[Split, str] = {}
    for path, split in chosen.items():
        if split in found:
            raise SourceError(f"{storage.root}: expected one folder of {split}, found {found[split]} and {path}")
        found[split] = path
    return dict(sorted(found.items()))


def find_val(storage: Storage) -> str | None:
    """The folder of a source whose training split is elsewhere that is called as the validation split's, if one is."""
    folders = [info for info in storage.list("") if info.is_folder and splits_in(info.name) == {"val"}]
    if len(folders) > 1:
        raise SourceError(f"{storage.root}: expected one folder of val, found {folders[0].path} and {folders[1].path}")
    return folders[0].path if folders else None


def _is_class(storage: Storage, exact: dict[str, Split], folders: Sequence[FileInfo]) -> bool:
    """Whether a folder ``train`` is a class of trains: holds images itself, as the folders beside it do."""
    if set(exact.values()) != {"train"} or len(folders) < 3:
        return False
    return all(
        any(is_image(inner.name) for inner in storage.list(info.path))
        and not any(inner.is_folder for inner in storage.list(info.path))
        for info in (*folders[:16], *(info for info in folders if info.path in exact))
    )


def _holds_classes(storage: Storage, path: str) -> bool:
    infos = [info for info in storage.list(path) if not is_system(info.name)]
    return any(info.is_folder or is_tar(info.name) for info in infos) and not any(is_image(info.name) for info in infos)


def _holds_images(storage: Storage, path: str) -> bool:
    return any(is_image(info.name) and not is_system(info.name) for info in storage.list(path))
