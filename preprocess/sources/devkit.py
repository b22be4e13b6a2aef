"""ILSVRC2012's development kit: its own numbering of classes, their names, and the validation labels in it."""

import io
import tarfile
import zlib
from dataclasses import dataclass

from preprocess.errors import SourceError
from preprocess.sources.ledger import Ledger
from preprocess.sources.storage import Storage, open_storage, split_path

ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
FOLDER = "ILSVRC2012_devkit_t12"
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


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
        if kit.is_folder(name):
            meta, truth = (kit.read(f"{name}/{file}") for file in (_META, _GROUND_TRUTH))
        else:
            meta, truth = _read_archive(kit.read(name), where)
    except OSError as error:
        raise SourceError(f"{where}: expected {_META} and {_GROUND_TRUTH}, found: {error}") from None
    return _parse(meta, truth.decode("ascii", "replace"), where)


def _exists(storage: Storage, path: str) -> bool:
    return storage.size_of(path) is not None or storage.is_folder(path)


def _read_archive(content: bytes, where: str) -> tuple[bytes, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                for file in (_META, _GROUND_TRUTH):
                    if member.name.endswith(file) and (extracted := archive.extractfile(member)) is not None:
                        found[file] = extracted.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{where}: expected a tar archive, found: {error}") from None
    for file in (_META, _GROUND_TRUTH):
        if file not in found:
            raise SourceError(f"{where}: expected {file} in it, found none")
    return found[_META], found[_GROUND_TRUTH]


def _parse(meta: bytes, truth: str, where: str) -> Devkit:
    from scipy.io import loadmat

    wnid_of: dict[int, str] = {}
    names: dict[str, str] = {}
    try:
        for synset in loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]:
            # Rows with children are inner nodes of the hierarchy, which label no image.
            if int(synset["num_children"]) == 0:
                wnid = str(synset["WNID"])
                wnid_of[int(synset["ILSVRC2012_ID"])] = wnid
                names[wnid] = str(synset["words"])
        val_wnids = tuple(wnid_of[int(line)] for line in truth.split())
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise SourceError(f"{where}: {_META} or {_GROUND_TRUTH} is malformed: {error!r}") from None
    return Devkit(names=names, val_wnids=val_wnids)
