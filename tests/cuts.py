"""What a power cut may leave of files, at every moment of a traced process, on a disk as harsh as POSIX allows.

Such a disk keeps any part of what was written to a file since that was last synced, and any of the changes to a
folder's names since that was. So a name may stand, after a cut, for what it stood for when its folder was last synced,
or for whatever it was given since; and that is whole only if it was synced after the last write that it ever gets.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_WRITES = ("write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate", "copy_file_range", "sendfile")
_SYNCS = ("fsync", "fdatasync")
_NAMES = ("openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_DESCRIPTOR = re.compile(r"\d+<([^>]+)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, kw_only=True)
class Call:
    """One system call that succeeded, on files below the folder that is watched."""

    name: str
    paths: tuple[Path, ...]
    """What it names; or what its descriptor stands for."""
    arguments: str
    result: int


def traced(command: Sequence[str], folder: Path, log: Path) -> list[Call]:
    """Runs ``command``, which must succeed; returns its calls on files below ``folder`` in their order."""
    calls = ",".join((*_WRITES, *_SYNCS, *_NAMES))
    strace = ["strace", "-f", "-qq", "-y", "-s", "0", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(log)]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = _calls(log.read_text("utf-8", errors="replace").splitlines())
    return [call for call in found if any(path.is_relative_to(folder) for path in call.paths)]


def _calls(lines: Sequence[str]) -> Iterator[Call]:
    begun: dict[str, str] = {}  # by thread: strace cuts a call in two where another thread's comes between
    for line in lines:
        if first := _BEGUN.fullmatch(line):
            begun[first[1]] = first[2]
            continue
        if rest := _RESUMED.fullmatch(line):
            line = f"{rest[1]} {begun.pop(rest[1])}{rest[2]}"
        if call := _LINE.match(line):
            named = _QUOTED.findall(call[3]) if call[2] in _NAMES else _DESCRIPTOR.findall(call[3])[:1]
            yield Call(name=call[2], paths=tuple(map(Path, named)), arguments=call[3], result=int(call[4]))


@dataclass(eq=False)
class _File:
    """A file or a folder, whatever its names. To be made is its first write, unless it was there before the process."""

    num_writes: int = 1
    num_synced: int = 0
    only_grows: bool = False


@dataclass
class _Name:
    """What a name stands for, and may stand for after a cut."""

    now: _File | None = None
    after_cut: list[_File | None] = field(default_factory=lambda: [None])
    was_removed: bool = False


class Disk:
    """The names below a folder, before a process runs and while its calls are played."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Path, _Name] = {}
        self._seen: list[tuple[Path, _File, int]] = []
        """Each file that a name may have stood for after a cut, and how many of its writes were synced then."""
        for path in (folder, *folder.rglob("*")):
            there = _File(num_writes=0)
            self._names[path] = _Name(now=there, after_cut=[there])
            self._seen.append((path, there, 0))

    def play(self, calls: Sequence[Call]) -> "Disk":
        """Takes the calls; returns itself."""
        for call in calls:
            if call.name in _WRITES:
                self._write(self._file(call.paths[0]), is_append=call.name == "write")
            elif call.name in _SYNCS:
                self._sync(call.paths[0])
            elif call.name == "openat":
                self._open(call)
            elif call.name.startswith("mkdir"):
                self._give(call.paths[0], _File(num_writes=0))
            elif call.name.startswith("unlink"):
                self._give(call.paths[0], None)
            else:
                self._give(call.paths[1], self._file(call.paths[0]))
                if call.name.startswith("rename"):
                    self._give(call.paths[0], None)
        return self

    def torn(self) -> set[str]:
        """Names, but for temporary ones, that a cut at some moment leaves with neither the old content nor the new, or
        with none although there was some before and is after.
        """
        broken = {path for path, file, num_synced in self._seen if num_synced < file.num_writes}
        gone = {path for path, name in self._names.items() if name.was_removed and name.now is not None}
        return {self._short(path) for path in broken | gone if path.suffix != ".tmp"}

    def unsettled(self) -> set[str]:
        """Names that stand for something, which a cut after all the calls may take back."""
        names = self._names.items()
        return {self._short(path) for path, name in names if name.now is not None and name.after_cut != [name.now]}

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _file(self, path: Path) -> _File:
        file = self._names[path].now
        assert file is not None, path
        return file

    def _write(self, file: _File, *, is_append: bool) -> None:
        if not (file.only_grows and is_append):
            file.num_writes += 1

    def _open(self, call: Call) -> None:
        path = call.paths[0]
        is_there = path in self._names and self._names[path].now is not None
        if not is_there and "O_CREAT" in call.arguments and "O_TMPFILE" not in call.arguments:
            self._give(path, _File())
        elif is_there and "O_TRUNC" in call.arguments:
            self._write(self._file(path), is_append=False)
        if "O_APPEND" in call.arguments:
            self._file(path).only_grows = True

    def _give(self, path: Path, file: _File | None) -> None:
        name = self._names.setdefault(path, _Name())
        name.was_removed |= file is None and name.now is not None
        name.now = file
        name.after_cut.append(file)
        if file is not None:
            self._seen.append((path, file, file.num_synced))

    def _sync(self, path: Path) -> None:
        file = self._file(path)
        file.num_synced = file.num_writes
        for other, name in self._names.items():
            if other.parent == path:
                name.after_cut = [name.now]
