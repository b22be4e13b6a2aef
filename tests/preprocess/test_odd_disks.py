"""A store on a disk that has become read-only, damaged files, another user's files: one line that says what to do."""

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preprocess.__main__ import main
from preprocess.errors import StoreError
from preprocess.store import Manifest, Store, write_manifest
from preprocess.store.format import REMEDY
from tests.disks import small_disk
from tests.preprocess.conftest import store_files
from tests.stores import make_store

_OPTIONS = ["--shorter-side", "16", "--images-per-shard", "12"]


@pytest.fixture(scope="module")
def made(small_folder: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete store; not to be changed."""
    store = tmp_path_factory.mktemp("made") / "store"
    assert main(["run", "--source", str(small_folder), "--out", str(store), *_OPTIONS]) == 0
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; skips where none may be mounted."""
    with small_disk(tmp_path / "disk", 20 << 20) as folder:
        yield folder


@pytest.mark.usefixtures("local_ray")
def test_a_read_only_disk(made: Path, disk: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Path(shutil.copytree(made, disk / "store"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    # What is whole can be read,
    assert main(["verify", str(store), "--workers", "1"]) == 0
    assert main(["info", str(store)]) == 0
    # and nothing can be made.
    capsys.readouterr()
    for out in (store, disk / "new"):
        assert main(["run", "--source", str(small_folder), "--out", str(out), *_OPTIONS]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{out}: its file system is read-only" in error
        assert "mount it to be written, and the same command carries on" in error


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


_DAMAGE: list[Callable[[Path], object]] = [
    _cut,
    _flip,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff" * 100),
    lambda path: path.write_text("[" * 100_000),
    lambda path: path.write_text('{"format": "alexnet-store", "format_version": 1}'),
]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("name", ["manifest.json", "statistics.npz"])
def test_damage_that_can_be_mended_says_how(
    name: str,
    damage: Callable[[Path], object],
    store: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = store_files(store)
    damage(store / name)
    command = ["run", "--source", str(small_folder), "--out", str(store), *_OPTIONS]
    for each in (["info", str(store)], ["verify", str(store)], command):
        assert main(each) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert str(store / name) in error
        assert error.endswith(REMEDY)
    (store / "manifest.json").unlink()
    assert main(command) == 0
    assert "resumed      4 shards were finished before" in capsys.readouterr().out
    assert store_files(store) == before


def test_statistics_that_are_vouched_for_and_none(store: Path) -> None:
    """As one who means harm would write them, with a manifest to match."""
    for content in (b"no arrays", b"PK\5\6" + bytes(18)):
        (store / "statistics.npz").write_bytes(content)
        manifest = Manifest.from_json((store / "manifest.json").read_text(), "")
        write_manifest(store, replace(manifest, statistics_sha256=hashlib.sha256(content).hexdigest()))
        with pytest.raises(StoreError, match="expected arrays of statistics, found"):
            Store(store)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_store_is_readable_as_the_umask_says(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        make_store(tmp_path / "store")
    finally:
        os.umask(before)
    for path in (tmp_path / "store").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")
@pytest.mark.parametrize("name", ["manifest.json", "statistics.npz", "shards"])
def test_another_users_store_says_what_to_do(name: str, store: Path) -> None:
    for folder in (store, *store.parents):
        if folder.stat().st_uid == 0 and not stat.S_IMODE(folder.stat().st_mode) & 1:
            folder.chmod(folder.stat().st_mode | 0o755)
    subprocess.run(["chmod", "-R", "a+rX", str(store)], check=True)
    (store / name).chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreError) as caught:
            Store(store)
    finally:
        os.seteuid(0)
    assert "Permission denied for user 65534" in str(caught.value)
    assert str(caught.value).endswith("chmod -R a+rX STORE")
    subprocess.run(["chmod", "-R", "a+rX", str(store)], check=True)
    os.seteuid(65534)
    try:
        Store(store).close()
    finally:
        os.seteuid(0)
