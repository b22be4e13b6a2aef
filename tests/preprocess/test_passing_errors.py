"""What cannot be read now may be later: one image is missing, the others are not, and a resumed run asks again."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from preprocess.__main__ import main
from preprocess.images.decode import decoder_versions
from preprocess.job.shard import ShardWork, make_shard
from preprocess.sources import SourceOptions, read_source
from preprocess.store import ImageSpec, Store
from preprocess.store.sidecar import read_sidecar
from tests.preprocess.conftest import CLASS_IDS, make_folder, store_files

# To read it from its beginning is an error of the device: EIO.
_BAD_BLOCK = "/proc/self/mem"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", train=3, val=1)


def _work(source: Path, store: Path) -> ShardWork:
    (store / "shards").mkdir(parents=True)
    images = read_source(str(source), SourceOptions(), map).splits["train"]
    return ShardWork(
        store=str(store),
        root=str(source),
        split="train",
        stem="train-00000",
        images=images.take(np.arange(len(images))),
        image=ImageSpec(side=16),
        max_pixels=10**6,
        decoders=decoder_versions(),
        probe=None,
    )


def _exchange(path: Path, target: str) -> bytes:
    """Puts a link where a file was, and returns what that held."""
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(target)
    return content


def test_a_bad_block_is_one_image_until_it_is_read_again(source: Path, tmp_path: Path) -> None:
    work = _work(source, tmp_path / "store")
    path = source / "train" / CLASS_IDS[0] / f"{CLASS_IDS[0]}_0.JPEG"
    content = _exchange(path, _BAD_BLOCK)
    outcome = make_shard(work)
    assert outcome.num_images == 8
    assert [bad.reason for bad in outcome.bad_images] == ["cannot be read: Input/output error"]
    path.unlink()
    path.write_bytes(content)
    assert (make_shard(work).num_images, make_shard(work).bad_images) == (9, ())


def test_what_is_damaged_is_not_tried_again(source: Path, tmp_path: Path) -> None:
    work = _work(source, tmp_path / "store")
    path = source / "train" / CLASS_IDS[0] / f"{CLASS_IDS[0]}_0.JPEG"
    content = path.read_bytes()
    path.write_bytes(content[:100])
    make_shard(work)
    made = read_sidecar(tmp_path / "store", "train-00000")
    path.write_bytes(content)
    make_shard(work)
    assert read_sidecar(tmp_path / "store", "train-00000") == made


def test_a_bad_block_of_a_tar_is_named_with_its_file(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "tars"
    root.mkdir()
    with tarfile.open(root / "x-train-0.tar", "w") as archive:
        for path in sorted((source / "train").rglob("*.JPEG")):
            for name, content in ((path.name, path.read_bytes()), (f"{path.stem}.cls", b"0")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    work = _work(root, tmp_path / "store")
    _exchange(root / "x-train-0.tar", _BAD_BLOCK)
    outcome = make_shard(work)
    assert {bad.reason for bad in outcome.bad_images} == {"cannot be read: Input/output error"}
    assert (outcome.num_images, len(outcome.bad_images)) == (0, 9)


def _run(source: Path, store: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command as one who may not read everything: not even root may, without its capabilities."""
    command = [sys.executable, "-m", "preprocess", "run", "--source", str(source), "--out", str(store)]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command]
    options = ("--shorter-side", "16", "--images-per-shard", "5", "--workers", "1", *options)
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)


def test_a_file_that_is_readable_again_is_in_the_store(source: Path, tmp_path: Path) -> None:
    path = source / "train" / CLASS_IDS[0] / f"{CLASS_IDS[0]}_0.JPEG"
    path.chmod(0)
    done = _run(source, tmp_path / "store")
    assert done.returncode == 1
    assert "cannot be read: Permission denied" in done.stderr
    assert "the same command tries again what could not be read" in done.stderr
    path.chmod(0o644)
    done = _run(source, tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store/quarantine.jsonl").read_text() == ""
    assert _run(source, tmp_path / "undisturbed").returncode == 0
    assert store_files(tmp_path / "store") == store_files(tmp_path / "undisturbed")


@pytest.mark.usefixtures("local_ray")
def test_a_complete_store_keeps_its_images(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "train" / CLASS_IDS[0] / "gone.JPEG").symlink_to("nothing")
    command = ["run", "--source", str(source), "--out", str(tmp_path / "store"), "--shorter-side", "16"]
    assert main([*command, "--max-bad-images", "1"]) == 0
    line = json.loads((tmp_path / "store/quarantine.jsonl").read_text())
    assert line["reason"] == "cannot be read: No such file or directory"
    before = store_files(tmp_path / "store")
    assert main([*command, "--max-bad-images", "1"]) == 0
    assert "complete already" in capsys.readouterr().err
    assert store_files(tmp_path / "store") == before
    with Store(tmp_path / "store") as store:
        assert store.split("train").num_images == 9
