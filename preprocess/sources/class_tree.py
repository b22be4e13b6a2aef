"""One split of a tree: a folder or a tar for each class, or images in one folder with labels from elsewhere."""

import itertools
import os
from collections.abc import Sequence

from preprocess.errors import SourceError
from preprocess.sources.file_info import FileInfo
from preprocess.sources.labels import read_val_labels
from preprocess.sources.ledger import NO_CLASS, NOT_AN_IMAGE
from preprocess.sources.listing import ImageList, ImageListBuilder
from preprocess.sources.member_names import exact_split, is_download, is_image, splits_in
from preprocess.sources.options import Reading
from preprocess.sources.tar_index import TarIndex, index_images, list_indexed
from preprocess.sources.tar_reader import TAR_SUFFIXES, is_tar, whole_tar
from preprocess.sources.unreadable import of_name
from preprocess.sources.val_tar import VAL_TAR

# Deeper than any data set.
_MAX_DEPTH = 32
_ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip", ".7z", ".rar", ".tar.bz2", ".tar.xz", ".tar.zst")
# tiny-imagenet's validation images lie in a folder of this name within val.
_FLAT_FOLDER = "images"


def list_train(reading: Reading, folder: str) -> tuple[list[str], ImageList]:
    """The training split and its classes: the folders in ``folder``, or else the tars. Raises SourceError."""
    infos = reading.ledger.list(reading.storage, folder, structural=True)
    class_ids = [info.name for info in infos if info.is_folder]
    where = f"{reading.storage.root}/{folder}"
    if class_ids:
        _check_level(reading, folder, [info for info in infos if info.is_folder])
        return class_ids, _list_folders(reading, infos, class_ids, folder)
    class_ids = sorted((_class_of_tar(info.name) for info in infos if _is_class_tar(reading, info)), key=os.fsencode)
    if not class_ids:
        found = next((f"{info.name}: {of_name(info.name)}" for info in infos if of_name(info.name)), "none")
        raise SourceError(f"{where}: expected a folder or a tar for each class, found {found}")
    if len(set(class_ids)) < len(class_ids):
        raise SourceError(f"{where}: expected one tar for each class, found one gzipped and one not")
    return class_ids, _list_tars(reading, infos, class_ids)


def list_val(reading: Reading, folder: str, class_ids: Sequence[str]) -> ImageList:
    """The validation split, in folders or tars of the training classes, or flat with labels. Raises SourceError."""
    infos = reading.ledger.list(reading.storage, folder, structural=True)
    folders = [info.name for info in infos if info.is_folder]
    if folders == [_FLAT_FOLDER] and _FLAT_FOLDER not in class_ids:
        inner = reading.ledger.list(reading.storage, f"{folder}/{_FLAT_FOLDER}")
        return _list_flat(reading, inner, [info for info in infos if not info.is_folder], class_ids)
    if folders:
        return _list_folders(reading, infos, class_ids, folder)
    if any(is_tar(info.name) for info in infos):
        return _list_tars(reading, infos, class_ids)
    return _list_flat(reading, infos, [], class_ids)


def _list_folders(reading: Reading, infos: list[FileInfo], class_ids: Sequence[str], folder: str) -> ImageList:
    """A split with a folder for each class."""
    labels = {class_id: label for label, class_id in enumerate(class_ids)}
    builder = ImageListBuilder("file")
    nested: dict[str, list[str]] = {}
    for info in infos:
        if info.is_folder:
            label = _label(reading, info, info.name, labels)
            before = len(builder)
            inner = _add_images(reading, info.path, label, builder, _MAX_DEPTH)
            if len(builder) > before:
                nested[info.path] = inner
        elif info.name.lower().endswith(_ARCHIVE_SUFFIXES) and _class_of_tar(info.name) not in labels:
            raise SourceError(
                f"{reading.storage.root}/{info.path}: expected a folder for each class, found an archive beside them: "
                "unpack it there, or take it away"
            )
        else:
            reading.ledger.pass_over(NO_CLASS if is_image(info.name) else NOT_AN_IMAGE, info.path)
    if len(nested) == 1:
        ((only, inner),) = nested.items()
        if len(inner) > 1:
            raise _one_level_off(reading, only, f"all images in {len(inner):,} folders within {only}")
    elif nested and all(len(inner) > 1 for inner in nested.values()):
        reading.ledger.notes.append(
            f"{folder or 'the source'}: every class has its images in several folders, such as "
            f"{next(iter(nested.values()))[0]}: is the source one level too high?"
        )
    return builder.build()


def _add_images(reading: Reading, folder: str, label: int, builder: ImageListBuilder, depth: int) -> list[str]:
    """Adds the images below ``folder``; returns the folders in it that hold some, if none lie in it directly."""
    infos = reading.ledger.list(reading.storage, folder)
    folders = [info for info in infos if info.kind == "folder"]
    if folders and depth == 0:
        raise SourceError(f"{reading.storage.root}/{folder}: expected at most {_MAX_DEPTH} folders within each other")
    if folders:
        _check_level(reading, folder, folders)
    elif infos and all(is_tar(info.name) for info in infos):
        raise _one_level_off(reading, folder, f"nothing but tars in {folder}")
    num_direct = 0
    for info in infos:
        if info.kind == "folder":
            continue
        if is_image(info.path):
            builder.add(os.fsencode(info.path), label, info.size_bytes)
            num_direct += 1
        else:
            reading.ledger.pass_over(NOT_AN_IMAGE, info.path)
    inner = []
    for info in folders:
        before = len(builder)
        _add_images(reading, info.path, label, builder, depth - 1)
        if len(builder) > before:
            inner.append(info.path)
    return [] if num_direct else inner


def _check_level(reading: Reading, folder: str, folders: Sequence[FileInfo]) -> None:
    """Raises SourceError where folders that should be classes, or parts of one, are splits."""
    exact = {exact_split(info.name) for info in folders} - {None}
    loose = {split for info in folders for split in splits_in(info.name)}
    train = next((info.path for info in folders if exact_split(info.name) == "train"), None)
    if (
        len(exact) > 1
        or {"train", "val"} <= loose
        or (train is not None and any(info.is_folder for info in reading.storage.list(train)))
    ):
        names = ", ".join(info.name for info in folders if splits_in(info.name))
        raise _one_level_off(reading, folder, f"splits ({names}) within {folder}")


_KAGGLE = "ILSVRC/Data/CLS-LOC"


def _one_level_off(reading: Reading, folder: str, found: str) -> SourceError:
    root = reading.storage.root.rstrip("/")
    right = f"{root}/{folder}".removesuffix(f"/{_KAGGLE}")
    return SourceError(f"{root}: expected splits or classes, found {found}: one level off? {right} looks right")


def _list_tars(reading: Reading, infos: Sequence[FileInfo], class_ids: Sequence[str]) -> ImageList:
    """A split with a tar for each class."""
    labels = {class_id: label for label, class_id in enumerate(class_ids)}
    label_of = {}
    for info in infos:
        if _is_class_tar(reading, info):
            label_of[info.path] = _label(reading, info, _class_of_tar(info.name), labels)
        elif info.path == VAL_TAR:
            reading.ledger.num_read += 1
        else:
            reading.ledger.pass_over(NO_CLASS if is_image(info.name) else NOT_AN_IMAGE, info.path)
    reading.ledger.num_read += len(label_of)
    sections = [whole_tar(reading.storage, path) for path in label_of]
    found: dict[str, TarIndex] = {}
    for index in reading.map_tasks(index_images, sections):
        found[index.section.path] = index
        reading.ledger.add(index.ledger)
    return list_indexed([(found[path], itertools.repeat(label)) for path, label in label_of.items()])


def _is_class_tar(reading: Reading, info: FileInfo) -> bool:
    """Whether a file among tars is a class's. ImageNet's other downloads are not, and a packed split is refused."""
    if not is_tar(info.name) or is_download(info.name):
        return False
    other = "one of a split" if exact_split(_class_of_tar(info.name)) is not None else of_name(info.name)
    if other is not None:
        raise SourceError(f"{reading.storage.root}/{info.path}: expected a tar for each class, found {other}")
    return True


def _list_flat(
    reading: Reading, infos: Sequence[FileInfo], beside: Sequence[FileInfo], class_ids: Sequence[str]
) -> ImageList:
    """A split whose images lie in one folder, with labels from elsewhere; ``beside`` are files of the folder above."""
    images = [info for info in infos if is_image(info.name) and not info.is_folder]
    builder = ImageListBuilder("file")
    if images:
        names = [info.name for info in images]
        labels = read_val_labels(reading.storage, reading.options, names, class_ids, reading.ledger)
        for info, label in zip(images, labels, strict=True):
            builder.add(os.fsencode(info.path), label, info.size_bytes)
    others = [info for info in infos if info.is_folder or not is_image(info.name)]
    reading.ledger.pass_over_all(NOT_AN_IMAGE, (*others, *(info for info in beside if not is_image(info.name))))
    reading.ledger.pass_over_all(NO_CLASS, (info for info in beside if is_image(info.name)))
    return builder.build()


def _label(reading: Reading, info: FileInfo, class_id: str, labels: dict[str, int]) -> int:
    if class_id not in labels:
        raise SourceError(
            f"{reading.storage.root}/{info.path}: expected one of the training split's {len(labels):,} classes, "
            f"found {class_id!r}"
        )
    return labels[class_id]


def _class_of_tar(name: str) -> str:
    suffix = next((suffix for suffix in _ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
