"""The official tars, read where they are: a tar of a tar for each class, the flat validation tar, and the devkit.

So is ImageNet-21k's ``winter21_whole.tar.gz``, which is a gzipped tar of a tar for each class and has no validation.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from preprocess.errors import SourceError
from preprocess.sources.class_names import class_infos, read_class_names
from preprocess.sources.class_tree import list_val
from preprocess.sources.devkit import read_devkit
from preprocess.sources.folder import find_val
from preprocess.sources.ledger import SYSTEM, Ledger
from preprocess.sources.listing import Source
from preprocess.sources.member_names import is_system_path
from preprocess.sources.options import Reading
from preprocess.sources.shards import account
from preprocess.sources.storage import Storage, client_errors, open_storage
from preprocess.sources.tar_index import TarIndex, images_of, index_images, index_section, list_indexed
from preprocess.sources.tar_reader import TarSection, iterate_members, open_container, whole_tar
from preprocess.sources.val_tar import VAL_TAR, list_val_tar

LAYOUT = "official"
EXPECTED = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz"
_TRAIN = ("ILSVRC2012_img_train.tar", "winter21_whole.tar", "winter21_whole.tar.gz", "fall11_whole.tar")
# To read an image from a gzipped tar is to expand all that lies before it: more would take days.
_LARGEST_GZIPPED_BYTES = 16 << 30


def detect(storage: Storage) -> bool:
    """Whether a training tar is there."""
    return _train_tar(storage) is not None


def read(reading: Reading) -> Source:
    """Indexes the tars, a task for each class, without unpacking anything. Raises SourceError."""
    storage, ledger = reading.storage, reading.ledger
    train = _train_tar(storage)
    if train is None:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found no {_TRAIN[0]}")
    used = [train]
    indices = _index_classes(reading, train)
    class_ids = sorted(indices)
    splits = {"train": list_indexed([(indices[c], itertools.repeat(label)) for label, c in enumerate(class_ids)])}
    devkit = read_devkit(storage, reading.options.devkit, ledger)
    names = read_class_names(storage, ledger) if devkit is None else devkit.names
    folder = find_val(storage)
    if storage.size_of(VAL_TAR) is not None:
        splits["val"] = list_val_tar(reading, class_ids)
        used.append(VAL_TAR)
    elif folder is not None:
        splits["val"] = list_val(reading, folder, class_ids)
        used.append(folder)
    account(storage, ledger, used)
    return Source(layout=LAYOUT, root=storage.root, classes=class_infos(class_ids, names), splits=splits)


def _train_tar(storage: Storage) -> str | None:
    return next((path for path in _TRAIN if storage.size_of(path) is not None), None)


def _index_classes(reading: Reading, path: str) -> dict[str, TarIndex]:
    """By class, what the class's own tar within the training tar holds."""
    storage, ledger = reading.storage, reading.ledger
    whole = whole_tar(storage, path)
    found: dict[str, TarIndex] = {}
    if whole.size_bytes is None:
        size_bytes = storage.size_of(path) or 0
        if size_bytes > _LARGEST_GZIPPED_BYTES:
            raise SourceError(
                f"{storage.root}/{path}: expected at most {_LARGEST_GZIPPED_BYTES:,} bytes of gzipped tar, found "
                f"{size_bytes:,}: gunzip it once, and the tar is read where it is"
            )
        indices: Iterable[TarIndex]
        indices, outer = next(iter(reading.map_tasks(_index_gzipped, [whole])))
    else:
        outer = Ledger()
        with client_errors(storage, path), open_container(storage, path) as file:
            sections = list(_class_sections(file, whole, outer))
        indices = reading.map_tasks(index_images, sections)
    ledger.add(outer)
    for index in indices:
        found[_class_of(index.section)] = index
        ledger.add(index.ledger)
    return found


def _index_gzipped(whole: TarSection) -> tuple[list[TarIndex], Ledger]:
    """All classes' tars in one reading, since there is no way to begin in the middle. Runs in a task."""
    outer = Ledger()
    storage = open_storage(whole.root)
    with client_errors(storage, whole.path), open_container(storage, whole.path) as file:
        indices = [images_of(index_section(file, section)) for section in _class_sections(file, whole, outer)]
    return indices, outer


def _class_sections(file: BinaryIO, whole: TarSection, ledger: Ledger) -> Iterator[TarSection]:
    """The part of the training tar that is each class's own tar: only a header a class is read for it."""
    where = f"{whole.root}/{whole.path}"
    seen: dict[str, str] = {}
    for member in iterate_members(file, whole):
        if member.isdir():
            continue
        ledger.num_found += 1
        if is_system_path(member.name):
            ledger.pass_over(SYSTEM, f"{whole.path}/{member.name}")
            continue
        class_id, dot, suffix = member.name.rsplit("/", 1)[-1].partition(".")
        if dot + suffix != ".tar" or not member.isreg():
            raise SourceError(f"{where}: expected a tar of one tar for each class, found {member.name!r} in it")
        if class_id in seen:
            raise SourceError(f"{where}: expected one tar for each class, found {seen[class_id]} and {member.name}")
        seen[class_id] = member.name
        ledger.num_read += 1
        yield TarSection(
            root=whole.root,
            path=whole.path,
            offset=member.offset_data,
            size_bytes=member.size,
            name=f"{whole.path}/{class_id}.tar",
        )


def _class_of(section: TarSection) -> str:
    return section.name.rsplit("/", 1)[-1].removesuffix(".tar")
