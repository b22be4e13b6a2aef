"""One run at a time on a store: the second is told of the first, and a killed one leaves nothing in the way."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.__main__ import main
from preprocess.errors import StoreError
from preprocess.job.lock import LOCK_NAME, locked

_HOLD = (
    "import sys; from pathlib import Path; from preprocess.job.lock import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def _holder(store: Path) -> "subprocess.Popen[str]":
    """A process that holds the lock of ``store`` until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_is_writing(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with _holder(store) as process:
        assert main(["run", "--source", str(small_folder), "--out", str(store)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{store}: is being written by process {process.pid} on {socket.gethostname()} since " in error
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}: wait for it, or give another --out$", error)
        # The first was not disturbed.
        assert sorted(os.listdir(store)) == [LOCK_NAME]
        process.communicate(timeout=100)
    assert os.listdir(store) == []


def test_a_killed_owner_holds_nothing(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK_NAME).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK_NAME).exists()


def test_many_in_turn(tmp_path: Path) -> None:
    # Each ends, and removes the file, while the next may already have opened it.
    for _ in range(20):
        with _holder(tmp_path) as process:
            with pytest.raises(StoreError, match=f"process {process.pid} on"), locked(tmp_path):
                pass
            process.communicate(timeout=100)
        with locked(tmp_path):
            pass


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("place", [".", "store", "train/store"])
def test_a_store_within_its_source_is_refused(
    place: str, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(small_folder.rglob("*"))
    assert main(["run", "--source", str(small_folder), "--out", str(small_folder / place)]) == 1
    assert "expected a folder outside --source" in capsys.readouterr().err
    assert sorted(small_folder.rglob("*")) == before
