"""A store that cannot fit is not begun; a disk that fills up leaves whole shards and one clear line."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocess.__main__ import main
from preprocess.errors import StoreError
from preprocess.job import disk
from preprocess.store import Encoding, ImageSpec
from tests import disks
from tests.preprocess.conftest import make_folder, store_files

pytestmark = pytest.mark.usefixtures("local_ray")

_OPTIONS = ["--shorter-side", "128", "--encoding", "raw", "--images-per-shard", "8"]


@pytest.mark.parametrize(
    ("encoding", "needed"),
    [("raw", "3.5 MB free for 48 images of 49.2 KB"), ("yuv420", "2.4 MB free for 48 images of 24.6 KB")],
)
def test_a_store_that_cannot_fit_is_refused_with_both_figures(
    encoding: str,
    needed: str,
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda store: 2_000_000)
    options = [*_OPTIONS, "--encoding", encoding]
    assert main(["run", "--source", str(small_folder), "--out", str(tmp_path / "store"), *options]) == 1
    error = capsys.readouterr().err
    assert f"expected about {needed}, found 2.0 MB" in error
    assert not list((tmp_path / "store/shards").glob("*.lmdb"))


def test_the_estimate_is_close(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encodings: tuple[Encoding, ...] = ("raw", "yuv420", "jpeg")
    for encoding in encodings:
        store = tmp_path / encoding
        options = ["--shorter-side", "128", "--encoding", encoding]
        assert main(["run", "--source", str(small_folder), "--out", str(store), *options]) == 0
        files = [path for path in (store / "shards").iterdir() if path.suffix in (".lmdb", ".npz")]
        actual = sum(path.stat().st_size for path in files)
        records = [path.stat().st_size for path in files if path.suffix == ".lmdb"]
        spec = ImageSpec(encoding=encoding, side=128)
        image_bytes = spec.stored_size_bytes or sum(records) // 48 - 2048
        for free, fits in ((int(actual * 1.2), True), (int(actual * 0.8), False)):
            monkeypatch.setattr(disk, "free_bytes", lambda store, free=free: free)
            if fits:
                disk.check_free(store, spec, num_images=48, image_bytes=image_bytes, num_partials=1)
            else:
                with pytest.raises(StoreError, match="expected about"):
                    disk.check_free(store, spec, num_images=48, image_bytes=image_bytes, num_partials=1)
        monkeypatch.undo()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; skips where none may be mounted."""
    with disks.small_disk(tmp_path / "disk", 2 << 20) as folder:
        yield folder


def test_a_disk_that_fills_up(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_folder(tmp_path / "source", train=16, val=4)
    store = small_disk / "store"
    command = ["run", "--source", str(source), "--out", str(store), *_OPTIONS]
    assert main(command) == 1
    assert "expected about 4.4 MB free" in capsys.readouterr().err
    # As when something else fills the disk while the run goes on.
    monkeypatch.setattr("preprocess.job.run.check_free", lambda *arguments, **named: None)
    assert main(command) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no space is left" in error
    assert "the same command carries on once there is room" in error
    assert not list(store.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert main([*command, "--json"]) == 0
    assert main([*command[:4], str(tmp_path / "roomy"), *_OPTIONS]) == 0
    assert store_files(store) == store_files(tmp_path / "roomy")
