"""What a storage tells of its files, and why it gives none of some."""

from typing import Literal, NamedTuple

from preprocess.errors import SourceError


class FileInfo(NamedTuple):
    """One name in a folder."""

    path: str
    """Relative to the storage's root; bytes that are not UTF-8 are surrogate-escaped, as in os.fsdecode."""
    size_bytes: int
    """0 for all but files."""
    kind: Literal["file", "folder", "dangling", "loop", "special"]
    """``dangling``: a link that leads nowhere. ``loop``: a link to a folder that it lies in. ``special``: a pipe, a
    socket or a device. Other links are what they lead to."""

    @property
    def is_folder(self) -> bool:
        return self.kind == "folder"

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


class TooLargeError(SourceError):
    """A file has more bytes than what is sought there may have; it was not read."""


def check_size(where: str, size_bytes: int, most_bytes: int) -> None:
    """Raises TooLargeError for more than ``most_bytes``."""
    if size_bytes > most_bytes:
        raise TooLargeError(f"{where}: expected at most {most_bytes:,} bytes, found {size_bytes:,}")


def leaving_link(link: str) -> SourceError:
    """The error for a link that leads out of the source, where those are not followed."""
    return SourceError(
        f"{link}: expected what the source itself holds, found a link that leaves it; if that is meant, --follow-links"
    )
