"""One run at a time on a store, which lies outside its source."""

import os
import re
import socket
from pathlib import Path

import pytest

from commandline.folder_lock import LOCK_NAME
from preprocess.__main__ import main
from tests.test_folder_lock import holder


def test_the_second_is_told_who_is_writing(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with holder(store) as process:
        assert main(["run", "--source", str(small_folder), "--out", str(store)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{store}: is being written by process {process.pid} on {socket.gethostname()} since " in error
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}: wait for it, or give another --out$", error)
        # The first was not disturbed.
        assert sorted(os.listdir(store)) == [LOCK_NAME]
        process.communicate(timeout=300)
    assert os.listdir(store) == []


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("place", [".", "store", "train/store"])
def test_a_store_within_its_source_is_refused(
    place: str, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(small_folder.rglob("*"))
    assert main(["run", "--source", str(small_folder), "--out", str(small_folder / place)]) == 1
    assert "expected a folder outside --source" in capsys.readouterr().err
    assert sorted(small_folder.rglob("*")) == before
