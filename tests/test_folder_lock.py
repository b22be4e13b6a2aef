"""One process a folder: the second is told of the first, a killed one holds nothing, and there need be no locks."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commandline.folder_lock import LOCK_NAME, OWNER_NAME, FolderLock

_HOLD = (
    "import sys; from pathlib import Path; from commandline.folder_lock import FolderLock\n"
    "with FolderLock(Path(sys.argv[1]), SystemExit): print('held', flush=True); sys.stdin.read()\n"
)
# A file system that knows no locks, as strace plays it.
_WITHOUT_LOCKS = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")


class _TakenError(Exception):
    """Who holds a folder."""


def _lock(folder: Path) -> FolderLock:
    return FolderLock(folder, _TakenError)


def holder(folder: Path, *before: str) -> "subprocess.Popen[str]":
    """A process that holds ``folder`` until its stdin is closed, started by the command ``before``."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", _HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "held\n":
        _, errors = process.communicate(timeout=300)
        if "ptrace" in errors:
            pytest.skip("no process may be traced here")
        raise _TakenError(errors)
    return process


@pytest.fixture(params=["locks", "no locks"])
def before(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What a holder is started by: on a file system with the kernel's locks, or on one without."""
    if request.param == "locks":
        return ()
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    return _WITHOUT_LOCKS


def _owner(folder: Path) -> dict[str, Any]:
    name = OWNER_NAME if (folder / OWNER_NAME).exists() else LOCK_NAME
    owner: dict[str, Any] = json.loads((folder / name).read_bytes())
    return owner


def test_the_second_is_told_who_holds_it(before: tuple[str, ...], tmp_path: Path) -> None:
    with holder(tmp_path, *before) as process:
        pid = _owner(tmp_path)["pid"]
        assert before or pid == process.pid
        with pytest.raises(_TakenError, match=rf"process {pid} on {socket.gethostname()} since \d{{4}}-") as caught:
            holder(tmp_path, *before)
        assert (f"if that has ended, remove {tmp_path / OWNER_NAME}" in str(caught.value)) == bool(before)
        process.communicate(timeout=300)
    assert os.listdir(tmp_path) == []


def test_a_killed_owner_holds_nothing(before: tuple[str, ...], tmp_path: Path) -> None:
    with holder(tmp_path, *before) as process:
        os.kill(_owner(tmp_path)["pid"], signal.SIGKILL)
        process.communicate(timeout=300)
    assert (tmp_path / LOCK_NAME).exists()
    with holder(tmp_path, *before) as process:
        process.communicate(timeout=300)
    assert os.listdir(tmp_path) == []


def test_many_in_turn(tmp_path: Path) -> None:
    # Each ends, and removes the file, while the next may already have opened it.
    for _ in range(20):
        with holder(tmp_path) as process:
            with pytest.raises(_TakenError, match=f"process {process.pid} on"), _lock(tmp_path):
                pass
            process.communicate(timeout=300)
        with _lock(tmp_path):
            pass


def test_a_process_is_refused_by_itself_too(tmp_path: Path) -> None:
    with _lock(tmp_path), pytest.raises(_TakenError, match=f"process {os.getpid()} on"):
        _lock(tmp_path)
    _lock(tmp_path).close()


@pytest.mark.parametrize(
    ("change", "is_held"),
    [
        ({"host": "elsewhere"}, True),
        ({"boot": "before the power cut"}, False),
        ({"pid": 2**22 + 1}, False),
        ({"pid": 2**22 + 1, "processes": "another container's"}, True),
        ({"pid": os.getpid()}, True),
    ],
)
def test_without_locks_an_owner_is_gone_only_where_that_is_known(
    change: dict[str, Any], is_held: bool, tmp_path: Path
) -> None:
    with _lock(tmp_path):
        record = _owner(tmp_path) | change
    (tmp_path / OWNER_NAME).write_text(json.dumps(record))
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    if is_held:
        with pytest.raises(_TakenError, match=f"process {record['pid']} on {record['host']} since"):
            holder(tmp_path, *_WITHOUT_LOCKS)
        assert json.loads((tmp_path / OWNER_NAME).read_text()) == record
    else:
        with holder(tmp_path, *_WITHOUT_LOCKS) as process:
            process.communicate(timeout=300)
        assert os.listdir(tmp_path) == []


def test_a_lock_that_is_another_processs_by_now_stays(tmp_path: Path) -> None:
    lock = _lock(tmp_path)
    (tmp_path / LOCK_NAME).unlink()  # by hand
    with _lock(tmp_path):
        lock.close()
        assert _owner(tmp_path)["pid"] == os.getpid()
