"""ILSVRC2012's development kit: its own numbering of classes, their names, and the validation labels in it."""

import struct
import zlib
from dataclasses import dataclass

from preprocess.errors import SourceError
from preprocess.sources.file_info import check_size
from preprocess.sources.ledger import Ledger
from preprocess.sources.mat_file import read_structures
from preprocess.sources.storage import Storage, client_errors, open_storage, split_path
from preprocess.sources.tar_reader import iterate_members, open_container, whole_tar

ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
FOLDER = "ILSVRC2012_devkit_t12"
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
# The kit has 2.5 MB gzipped; its files have 1 MB or less each, and so has what meta.mat expands to.
_MOST_ARCHIVE_BYTES = 16 << 20
_MOST_FILE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Devkit:
    """What the kit says of the 1,000 classes and of the validation images."""

    names: dict[str, str]
    """Human-readable names by wnid, of the leaves of the hierarchy."""
    val_wnids: tuple[str, ...]
    """The wnid of each validation image, in the order of their file names."""


def read_devkit(storage: Storage, path: str | None, ledger: Ledger) -> Devkit | None:
    """The kit at ``path``, or beside the images; None when ``path`` is and there is none. Raises SourceError."""
    if path is None:
        path = next((found for found in (FOLDER, ARCHIVE) if _exists(storage, found)), None)
        if path is None:
            return None
        ledger.used_paths.add(path)
        kit, name, where = storage, path, f"{storage.root}/{path}"
    else:
        root, name = split_path(path)
        kit, where = open_storage(root), path
        if not _exists(kit, name):
            raise SourceError(f"{where}: expected {ARCHIVE} or the folder it unpacks to, found nothing")
    try:
        with client_errors(kit, name):
            if kit.is_folder(name):
                meta, truth = (kit.read(f"{name}/{file}", _MOST_FILE_BYTES) for file in (_META, _GROUND_TRUTH))
            else:
                meta, truth = _read_archive(kit, name, where)
    except OSError as error:
        raise SourceError(f"{where}: expected {_META} and {_GROUND_TRUTH}, found: {error}") from None
    return _parse(meta, truth.decode("ascii", "replace"), where)


def _exists(storage: Storage, path: str) -> bool:
    return storage.size_of(path) is not None or storage.is_folder(path)


def _read_archive(kit: Storage, name: str, where: str) -> tuple[bytes, bytes]:
    """Both files, of which no more is expanded than is sought."""
    check_size(where, kit.size_of(name) or 0, _MOST_ARCHIVE_BYTES)
    found: dict[str, bytes] = {}
    with open_container(kit, name) as file:
        for member in iterate_members(file, whole_tar(kit, name)):
            for sought in (_META, _GROUND_TRUTH):
                if member.name.endswith(sought) and member.isreg():
                    check_size(f"{where}: {sought}", member.size, _MOST_FILE_BYTES)
                    file.seek(member.offset_data)
                    found[sought] = file.read(member.size)
            if len(found) == 2:
                return found[_META], found[_GROUND_TRUTH]
    missing = _META if _META not in found else _GROUND_TRUTH
    raise SourceError(f"{where}: expected {missing} in it, found none")


def _parse(meta: bytes, truth: str, where: str) -> Devkit:
    wnid_of: dict[int, str] = {}
    names: dict[str, str] = {}
    try:
        for synset in read_structures(meta, "synsets", _MOST_FILE_BYTES):
            # Rows with children are inner nodes of the hierarchy, which label no image.
            if synset["num_children"] == 0:
                wnid = str(synset["WNID"])
                wnid_of[int(synset["ILSVRC2012_ID"] or 0)] = wnid
                names[wnid] = str(synset["words"])
        val_wnids = tuple(wnid_of[int(line)] for line in truth.split())
    except (KeyError, ValueError, OverflowError, struct.error, zlib.error) as error:
        raise SourceError(f"{where}: {_META} or {_GROUND_TRUTH} is malformed: {error!r}") from None
    return Devkit(names=names, val_wnids=val_wnids)
