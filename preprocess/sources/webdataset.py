"""WebDataset tars (timm/imagenet-1k-wds): ``*train*.tar`` and ``*val*.tar`` with ``<key>.jpg`` and ``<key>.cls``."""

import itertools
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from preprocess.errors import SourceError
from preprocess.sources.class_names import class_infos, read_class_names
from preprocess.sources.ledger import NO_IMAGE, NOT_AN_IMAGE, SECOND_IMAGE
from preprocess.sources.listing import MAX_LABEL, NOWHERE, Source
from preprocess.sources.member_names import is_download, is_image, is_system, splits_in
from preprocess.sources.numbered import numbered_classes
from preprocess.sources.options import Reading
from preprocess.sources.shards import account, by_split, find_shards
from preprocess.sources.storage import Storage, client_errors, open_storage
from preprocess.sources.tar_index import TarIndex, index_tar, list_indexed
from preprocess.sources.tar_reader import (
    TAR_SUFFIXES,
    TarSection,
    is_tar,
    iterate_members,
    open_container,
    whole_tar,
)

LAYOUT = "webdataset"
EXPECTED = "*train*.tar (and *val*.tar) with members <key>.jpg and <key>.cls"
_LABEL_SUFFIX = ".cls"
_MAX_LABEL_BYTES = 32
# Members looked at to tell samples from a class's images.
_LOOKED_AT = 64
# Of two images of a sample the first of these is the one; bitmaps and GIFs are previews.
_PREFERRED = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One member of a tar."""

    number: int
    """Of the files in the tar's index."""
    name: bytes
    offset: int
    size: int

    @property
    def suffix(self) -> str:
        return os.path.splitext(os.fsdecode(self.name))[1].lower()

    @property
    def stem(self) -> bytes:
        return os.path.splitext(self.name)[0]


def detect(storage: Storage) -> bool:
    """Whether there are tars called after the training split, or tars of samples with labels.

    Beside folders, or tars that are not, the name is not enough: what people unpack they often keep, and a class may be
    ``bullet_train.tar``.
    """
    tars = find_shards(storage, _is_shard)
    named = [path for path in tars if "train" in splits_in(path.rsplit("/", 1)[-1])]
    folders = any(info.is_folder and not is_system(info.name) for info in storage.list(""))
    if named and not folders and all(splits_in(path) for path in tars):
        return True
    return any(_holds_labels(storage, path) for path in (*named[:1], *tars[:1]))


def _is_shard(name: str) -> bool:
    return is_tar(name) and not is_download(name)


def _holds_labels(storage: Storage, path: str) -> bool:
    """Whether one of a tar's first members is a label; not in one that is damaged before that."""
    try:
        with client_errors(storage, path), open_container(storage, path) as file:
            some = itertools.islice(iterate_members(file, whole_tar(storage, path)), _LOOKED_AT)
            return any(member.name.lower().endswith(_LABEL_SUFFIX) for member in some)
    except SourceError:
        return False


def read(reading: Reading) -> Source:
    """Indexes the tars, one in each task. Raises SourceError, for a sample without label among others."""
    storage, ledger = reading.storage, reading.ledger
    tars = by_split(storage.root, find_shards(storage, _is_shard))
    if "train" not in tars:
        raise SourceError(f"{storage.root}: expected {EXPECTED}, found no training tars")
    used = {split: paths for split, paths in tars.items() if split in ("train", "val")}
    _check_twice(storage.root, [path for paths in used.values() for path in paths])
    names = read_class_names(storage, ledger)
    account(storage, ledger, itertools.chain(*used.values()))
    found: dict[str, tuple[TarIndex, array[int]]] = {}
    sections = [whole_tar(storage, path) for paths in used.values() for path in paths]
    for index, labels in reading.map_tasks(_index_samples, sections):
        found[index.section.path] = index, labels
        ledger.add(index.ledger)
    splits = {str(split): list_indexed([found[path] for path in paths]) for split, paths in used.items()}
    class_ids = numbered_classes(splits, storage.root)
    return Source(
        layout=LAYOUT,
        root=storage.root,
        classes=class_infos(class_ids, names),
        splits=splits,
    )


def _check_twice(root: str, paths: Sequence[str]) -> None:
    """A tar and the same one gzipped would give each image twice."""
    stems: dict[str, str] = {}
    for path in paths:
        stem = next(path[: -len(suffix)] for suffix in TAR_SUFFIXES if path.lower().endswith(suffix))
        if stem in stems:
            raise SourceError(f"{root}: expected each tar once, found {stems[stem]} and {path}")
        stems[stem] = path


def _index_samples(section: TarSection) -> "tuple[TarIndex, array[int]]":
    """The images of one tar and their labels, wherever in the tar the two are. Runs in a task."""
    index = index_tar(section)
    ledger = index.ledger
    images: list[_Place] = []
    labels: dict[bytes, _Place] = {}
    for number, (name, offset, size) in enumerate(index.members()):
        place = _Place(number=number, name=name, offset=offset, size=size)
        if is_image(os.fsdecode(name)):
            images.append(place)
        elif place.suffix == _LABEL_SUFFIX:
            other = labels.setdefault(place.stem, place)
            if other is not place:
                raise SourceError(
                    f"{_where(section, place)}: expected one label, found {_shown(other)} and {_shown(place)}"
                )
        else:
            ledger.pass_over(NOT_AN_IMAGE, _name_in(section, place))
    pairs = _pair(section, images, labels)
    for image in images:
        if image not in pairs:
            ledger.pass_over(SECOND_IMAGE, _name_in(section, image))
    used = set(pairs.values())
    for label in labels.values():
        if label not in used:
            ledger.pass_over(NO_IMAGE, _name_in(section, label))
    ledger.num_read += len(used)
    number_of = _read_labels(section, used)
    chosen = [image for image in images if image in pairs]
    numbers = array("i", [number_of[pairs[image]] for image in chosen])
    return index.take([image.number for image in chosen]), numbers


def _pair(section: TarSection, images: Sequence[_Place], labels: Mapping[bytes, _Place]) -> dict[_Place, _Place]:
    """The label of each image that is a sample's one. Raises SourceError for a sample that has none.

    ``a.b.jpg`` goes with ``a.b.cls``; where there is none it is an image of the sample ``a``, whose own is ``a.jpg``.
    """
    best: dict[bytes, _Place] = {}
    for image in images:
        other = best.setdefault(image.stem, image)
        if image.suffix in _PREFERRED and other.suffix not in _PREFERRED:
            best[image.stem] = image
    pairs: dict[_Place, _Place] = {}
    own = {stem for stem in best if stem in labels or stem == _short(stem)}
    for stem, image in best.items():
        sample = stem if stem in own else _short(stem)
        if sample not in labels:
            raise SourceError(f"{_where(section, image)}: expected a label in {sample + b'.cls'!r}, found none")
        if stem in own:
            pairs[image] = labels[sample]
        elif sample not in own:
            pairs[image] = labels[sample]
            own.add(sample)
    return pairs


def _short(stem: bytes) -> bytes:
    """The key by WebDataset's own rule: up to the first dot of the file's name."""
    folder, slash, name = stem.rpartition(b"/")
    return folder + slash + name.partition(b".")[0]


def _where(section: TarSection, place: _Place) -> str:
    return f"{section.root}/{section.path}: sample {place.stem!r}"


def _shown(place: _Place) -> str:
    return f"{place.name!r} at byte {place.offset:,}"


def _name_in(section: TarSection, place: _Place) -> str:
    return f"{section.path}/{os.fsdecode(place.name)}"


def _read_labels(section: TarSection, places: Iterable[_Place]) -> dict[_Place, int]:
    storage = open_storage(section.root)
    labels = {}
    with client_errors(storage, section.path), open_container(storage, section.path) as file:
        for place in sorted(places, key=lambda place: place.offset):
            if place.offset == NOWHERE:
                raise SourceError(f"{_where(section, place)}: expected a label, found a link to nothing")
            file.seek(place.offset)
            text = file.read(min(place.size, _MAX_LABEL_BYTES + 1)).strip()
            if not text.isdigit() or len(text) > _MAX_LABEL_BYTES or int(text) > MAX_LABEL:
                raise SourceError(
                    f"{_where(section, place)}: expected a whole number as label, up to {MAX_LABEL:,}, found {text!r}"
                )
            labels[place] = int(text)
    return labels
