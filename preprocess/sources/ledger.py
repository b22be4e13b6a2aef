"""What becomes of each member of a source: an image, something read, or passed over for a reason. There is no fourth.

A member is a file, a member of a tar, a row of a parquet file, a record of a CIFAR batch, or a folder that is passed
over as a whole. Every layout counts what it finds and says of each what becomes of it; ``close`` adds up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from preprocess.errors import SourceError
from preprocess.sources.file_info import FileInfo
from preprocess.sources.member_names import is_image, is_system
from preprocess.sources.storage import Storage

# Why a member is passed over, in the words of the report and of docs/preprocess.md.
SYSTEM = "hidden or left by the operating system"
NOT_AN_IMAGE = "not an image by its name"
OUTSIDE = "outside the splits"
NO_CLASS = "an image outside every class folder"
TEST = "of the test split"
SECOND_IMAGE = "a further image of a sample"
NO_IMAGE = "a label without an image"
SPECIAL = "a pipe, socket or device"
LOOP = "a link to a folder that it lies in"

_MAX_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """Members that are not used, for one reason."""

    reason: str
    count: int
    examples: tuple[str, ...]
    """The first of their names."""


@dataclass
class Ledger:
    """Counts members and what becomes of them. A task keeps one of its own, and the driver adds it to its."""

    num_found: int = 0
    num_read: int = 0
    """Files that hold images, labels or names, and labels within them."""
    passed_over: dict[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    """Count and examples by reason."""
    used_paths: set[str] = field(default_factory=set)
    """Files that were read for labels or names, to be known when they are listed."""
    notes: list[str] = field(default_factory=list)
    """What is no error, and what a person would want to know."""

    def list(self, storage: Storage, folder: str, *, structural: bool = False) -> list[FileInfo]:
        """What ``folder`` holds and is the layout's to judge; what is nobody's is passed over. Raises OSError.

        Where sub-folders mean splits or classes (``structural``) a link that leads nowhere raises SourceError: it may
        have been one of them.
        """
        kept = []
        infos = storage.list(folder)
        own_name = len(folder) + 1 if folder else 0  # where it begins in a path
        for info in infos:
            if is_system(info.path[own_name:]):
                self.pass_over(SYSTEM, info.path, found=info.kind == "folder")
            elif info.kind == "file" or info.kind == "folder":
                kept.append(info)
            elif info.kind == "loop":
                self.pass_over(LOOP, info.path)
            elif info.kind == "special":
                self.pass_over(SPECIAL, info.path)
            elif structural and not is_image(info.path):
                raise SourceError(f"{storage.root}/{info.path}: expected a folder or a file, found a link to nothing")
            else:
                kept.append(info)
        self.num_found += len(infos) - [info.kind for info in infos].count("folder")
        return kept

    def pass_over(self, reason: str, name: str, *, found: bool = False) -> None:
        """A member is not used; ``found``: nor was it counted before, as a folder is not."""
        self.num_found += found
        if name in self.used_paths:
            self.num_read += 1
            return
        count, examples = self.passed_over.get(reason, (0, ()))
        if count < _MAX_EXAMPLES:
            examples = (*examples, name)
        self.passed_over[reason] = count + 1, examples

    def pass_over_all(self, reason: str, infos: Iterable[FileInfo]) -> None:
        """None of the files and folders of ``list`` are used."""
        for info in infos:
            self.pass_over(reason, info.path, found=info.is_folder)

    def add(self, other: "Ledger") -> None:
        """What a task found and did is part of this."""
        self.num_found += other.num_found
        self.num_read += other.num_read
        for reason, (more, names) in other.passed_over.items():
            count, examples = self.passed_over.get(reason, (0, ()))
            self.passed_over[reason] = count + more, (*examples, *names)[:_MAX_EXAMPLES]

    def close(self, num_images: int, where: str) -> tuple[PassedOver, ...]:
        """What was passed over, by reason. Raises SourceError when the images and the rest are not all there is."""
        passed_over = tuple(
            PassedOver(reason=reason, count=count, examples=examples)
            for reason, (count, examples) in sorted(self.passed_over.items())
        )
        accounted = num_images + self.num_read + sum(entry.count for entry in passed_over)
        if accounted != self.num_found:
            raise SourceError(
                f"{where}: {self.num_found:,} members were found and {accounted:,} accounted for: a fault of this "
                "program; please report it with the layout of the source"
            )
        return passed_over
