"""What a shared or failing disk says late is heard: a shard is synced by the handle that wrote it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_WRITE = (
    "import sys; from pathlib import Path; from preprocess.store import ShardWriter\n"
    "with ShardWriter(Path(sys.argv[1]), 'shards/train-00000.lmdb') as writer: writer.add(0, b'a', b'x' * 9000)\n"
)


def _traced(store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Writes a shard in a process whose system calls strace sees, and fails where it is told to."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    command = ["strace", "-f", "-y", "-o", str(store.parent / "calls"), *options, sys.executable, "-c", _WRITE]
    done = subprocess.run([*command, str(store)], capture_output=True, text=True, timeout=300, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("no process may be traced here")
    return done


def test_a_lost_page_that_only_its_writer_is_told_of_is_an_error(tmp_path: Path) -> None:
    # LMDB writes through one descriptor and syncs it by fdatasync; the file's own fsync goes through another.
    done = _traced(tmp_path / "store", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO")
    assert done.returncode == 1
    assert "OSError" in done.stderr.splitlines()[-1]
    assert "train-00000.lmdb" in done.stderr.splitlines()[-1]
    assert os.listdir(tmp_path / "store/shards") == []


def test_a_shard_is_synced_before_it_has_its_name(tmp_path: Path) -> None:
    assert _traced(tmp_path / "store", "-e", "trace=fdatasync,fsync,rename,renameat,renameat2").returncode == 0
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if "shards" in line]
    names = [line.split(maxsplit=1)[1].partition("(")[0] for line in calls]
    assert names[0] == "fdatasync"
    assert names.index("rename") > names.index("fsync")
    assert names[-1] == "fsync"  # of the folder
