"""Where the members of a tar are: read in tasks, from its headers alone; and the images of many such tars as a list."""

import os
import posixpath
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from commandline import plain
from preprocess.errors import SourceError
from preprocess.sources.ledger import NOT_AN_IMAGE, SPECIAL, SYSTEM, Ledger
from preprocess.sources.listing import NOWHERE, ImageList, ImageListBuilder
from preprocess.sources.member_names import is_image, is_system_path
from preprocess.sources.storage import client_errors, open_storage
from preprocess.sources.tar_reader import GZIP_SUFFIXES, TarSection, iterate_members, open_container

# As many links as Linux follows, one to the next.
_MOST_LINKS = 40


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The files of a tar, in its order, as columns of length N; links are what they lead to."""

    section: TarSection
    name_bytes: bytes
    name_ends: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    """int64 [N]: of the first byte, in the file that ``section`` is part of; NOWHERE for a link to nothing."""
    sizes: npt.NDArray[np.int64]
    ledger: Ledger
    """Of all members but folders; the files above are found and not yet judged."""

    def members(self) -> Iterator[tuple[bytes, int, int]]:
        """Name, first byte and size of each file, in the tar's order."""
        start = 0
        for end, offset, size in zip(self.name_ends, self.offsets, self.sizes, strict=True):
            yield self.name_bytes[start:end], int(offset), int(size)
            start = end

    def take(self, numbers: Sequence[int]) -> "TarIndex":
        """The files of these numbers, in their order."""
        starts = np.append(0, self.name_ends)
        names = [self.name_bytes[starts[number] : starts[number + 1]] for number in numbers]
        return replace(
            self,
            name_bytes=b"".join(names),
            name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
            offsets=self.offsets[numbers],
            sizes=self.sizes[numbers],
        )


@dataclass
class _Places:
    """What is collected while a tar's headers go by."""

    names: bytearray = field(default_factory=bytearray)
    name_ends: "array[int]" = field(default_factory=lambda: array("q"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    headers: "array[int]" = field(default_factory=lambda: array("q"))
    number_of: dict[str, int] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, offset: int) -> None:
        self.number_of[_plain(member.name)] = len(self.sizes)
        self.names += os.fsencode(member.name)
        self.name_ends.append(len(self.names))
        self.offsets.append(offset)
        self.sizes.append(member.size)
        self.headers.append(member.offset)

    def follow_links(self) -> None:
        """Gives each link the bytes of the file at its end."""
        for number, target in self.links.items():
            end = self.number_of.get(target)
            for _ in range(_MOST_LINKS):
                if end not in self.links:
                    break
                end = self.number_of.get(self.links[end])
            found = end is not None and end not in self.links
            self.offsets[number] = self.offsets[end] if found and end is not None else NOWHERE
            self.sizes[number] = self.sizes[end] if found and end is not None else 0


def index_tar(section: TarSection) -> TarIndex:
    """Lists a tar. Reads 512 bytes a member from local storage.

    Raises SourceError when the tar is not whole, or when two of its members share a name: one would be lost, or get the
    other's label.
    """
    storage = open_storage(section.root)
    with client_errors(storage, section.name), open_container(storage, section.path) as file:
        return index_section(file, section)


def index_images(section: TarSection) -> TarIndex:
    """Lists the images of a tar by their names, and passes its other files over."""
    return images_of(index_tar(section))


def index_section(file: BinaryIO, section: TarSection) -> TarIndex:
    """``index_tar`` of a tar, perhaps within another, whose file is open."""
    places, ledger = _Places(), Ledger()
    for member in iterate_members(file, section):
        if member.isdir():
            continue
        ledger.num_found += 1
        name, where = _plain(member.name), f"{section.name}/{member.name}"
        if is_system_path(name):
            ledger.pass_over(SYSTEM, where)
            continue
        if not (member.isreg() or member.islnk() or member.issym()):
            ledger.pass_over(SPECIAL, where)
            continue
        if name in places.number_of:
            raise SourceError(
                f"{section.root}/{section.name}: expected each name once, found {plain(name)!r} at byte "
                f"{places.headers[places.number_of[name]]:,} and at byte {member.offset:,}"
            )
        if member.islnk():
            places.links[len(places.sizes)] = _plain(member.linkname)
        elif member.issym():
            places.links[len(places.sizes)] = _plain(posixpath.join(posixpath.dirname(name), member.linkname))
        places.add(member, section.offset + member.offset_data)
    places.follow_links()
    return TarIndex(
        section=section,
        name_bytes=bytes(places.names),
        name_ends=np.array(places.name_ends, np.int64),
        offsets=np.array(places.offsets, np.int64),
        sizes=np.array(places.sizes, np.int64),
        ledger=ledger,
    )


def _plain(name: str) -> str:
    """One spelling of a member's name: ``./a/b`` is ``a/b``."""
    return posixpath.normpath(name).lstrip("/")


def images_of(index: TarIndex) -> TarIndex:
    """Of an index those files that are images by their names; the others are passed over."""
    kept = []
    for number, (name, _, _) in enumerate(index.members()):
        if is_image(os.fsdecode(name)):
            kept.append(number)
        else:
            index.ledger.pass_over(NOT_AN_IMAGE, f"{index.section.name}/{os.fsdecode(name)}")
    return index.take(kept)


def list_indexed(tars: Sequence[tuple[TarIndex, Iterable[int]]]) -> ImageList:
    """The images of tars, or of tars within one: what each holds, and a label for each of that."""
    paths = [index.section.path for index, _ in tars]
    zipped = any(path.lower().endswith(GZIP_SUFFIXES) for path in paths)
    several = len(set(paths)) > 1
    builder = ImageListBuilder("stream" if zipped else "range")
    last = None
    for index, labels in tars:
        path = index.section.path
        if path != last:
            builder.begin_container(path)
            if zipped and several:
                builder.begin_group()
            last = path
        prefix = f"{index.section.name}/".encode("utf-8", "surrogateescape")
        for (name, offset, size), label in zip(index.members(), labels, strict=False):
            builder.add(prefix + name, label, size, offset)
    return builder.build()
