"""``run`` from folder to store: right pixels, right statistics, the same bytes however the work is divided."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.__main__ import main
from preprocess.images.decode import decode
from preprocess.images.resize import centre_square, encode
from preprocess.store import Store
from tests.preprocess.conftest import CLASS_IDS, jpeg, make_folder, store_files

pytestmark = pytest.mark.usefixtures("local_ray")


def _run(source: Path, out: Path, *options: str) -> int:
    return main(["run", "--source", str(source), "--out", str(out), "--shorter-side", "32", *options])


def test_every_image_is_in_the_store_once_with_its_label_and_pixels(small_folder: Path, tmp_path: Path) -> None:
    assert _run(small_folder, tmp_path / "store", "--encoding", "raw", "--images-per-shard", "10") == 0
    with Store(tmp_path / "store") as store:
        assert [info.id for info in store.manifest.classes] == list(CLASS_IDS)
        assert [len(split.shards) for split in store.manifest.splits.values()] == [4, 2]
        for split, count in (("train", 36), ("val", 12)):
            reader = store.split(split)
            names = [name for shard in range(len(reader.info.shards)) for name in reader.names(shard)]
            expected = sorted(path.relative_to(small_folder) for path in (small_folder / split).rglob("*.JPEG"))
            assert sorted(names) == [os.fsencode(path) for path in expected]
            assert reader.num_images == count
            for index, name in enumerate(names):
                label, image = reader.read(index)
                assert CLASS_IDS[label] == name.split(b"/")[1].decode()
                square = centre_square(decode((small_folder / os.fsdecode(name)).read_bytes()), 32)
                assert bytes(image) == square.convert("RGB").tobytes()


def test_shards_are_fair_samples(small_folder: Path, tmp_path: Path) -> None:
    assert _run(small_folder, tmp_path / "store", "--images-per-shard", "12") == 0
    with Store(tmp_path / "store") as store:
        reader = store.split("train")
        for shard in range(3):
            labels = {reader.read(12 * shard + position)[0] for position in range(12)}
            assert labels == {0, 1, 2}


def test_statistics_equal_plain_numpy_over_the_same_images(small_folder: Path, tmp_path: Path) -> None:
    assert _run(small_folder, tmp_path / "store", "--encoding", "raw") == 0
    with Store(tmp_path / "store") as store:
        reader = store.split("train")
        images = np.stack([np.frombuffer(reader.read(i)[1], np.uint8).reshape(32, 32, 3) for i in range(36)])
        np.testing.assert_array_equal(store.statistics.mean_image, images.mean(axis=0).astype(np.float32))
        covariance = np.cov(images.reshape(-1, 3).T.astype(np.float64), bias=True)
        np.testing.assert_allclose(store.statistics.covariance, covariance, rtol=1e-12)


def test_the_division_of_the_work_changes_no_statistics(small_folder: Path, tmp_path: Path) -> None:
    # The encoding neither: statistics are over the images as they were before it.
    for name, options in {
        "a": ["--images-per-shard", "36"],
        "b": ["--images-per-shard", "3", "--encoding", "raw"],
        "c": ["--images-per-shard", "7", "--encoding", "yuv420"],
    }.items():
        assert _run(small_folder, tmp_path / name, *options) == 0
    a, b, c = ((tmp_path / name / "statistics.npz").read_bytes() for name in "abc")
    assert a == b == c


def test_one_worker_and_four_write_the_same_store(small_folder: Path, tmp_path: Path) -> None:
    # As a user types it, with a Ray of its own: another that the environment names is not joined.
    environment = os.environ | {"RAY_ADDRESS": "192.0.2.1:1"}
    stores = []
    for workers in ("1", "4"):
        command = [sys.executable, "-m", "preprocess", "run", "--source", str(small_folder), "--out", workers]
        options = ["--shorter-side", "32", "--images-per-shard", "3", "--workers", workers, "--json"]
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
        )
        report = json.loads(done.stdout)
        assert (report["num_images"], report["num_shards"]) == ({"train": 36, "val": 12}, 16)
        assert "folder layout: train 36 images, val 12 images in 3 classes" in done.stderr
        stores.append(store_files(tmp_path / workers))
    assert stores[0] == stores[1]


def test_jpeg_records_are_the_specified_encoding(small_folder: Path, tmp_path: Path) -> None:
    assert _run(small_folder, tmp_path / "store", "--quality", "40", "--subsampling", "4:4:4") == 0
    with Store(tmp_path / "store") as store:
        assert (store.manifest.image.quality, store.manifest.image.subsampling) == (40, "4:4:4")
        image = Image.open(io.BytesIO(bytes(store.split("val").read(0)[1])))
        assert image.size == (32, 32)


def test_yuv420_records_are_the_planes_of_the_image(small_folder: Path, tmp_path: Path) -> None:
    assert _run(small_folder, tmp_path / "store", "--encoding", "yuv420") == 0
    with Store(tmp_path / "store") as store:
        reader = store.split("val")
        for index, name in enumerate(reader.names(0)):
            square = centre_square(decode((small_folder / os.fsdecode(name)).read_bytes()), 32)
            assert bytes(reader.read(index)[1]) == encode(square, store.manifest.image)
            assert len(reader.read(index)[1]) == 32 * 32 * 3 // 2


def test_an_odd_side_is_refused_for_yuv420(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(small_folder, tmp_path / "store", "--encoding", "yuv420", "--shorter-side", "33") == 2
    error = capsys.readouterr().err.strip()
    assert "--shorter-side: expected an even number of pixels for --encoding yuv420, found 33" in error
    assert "\n" not in error
    assert not (tmp_path / "store").exists()


def test_a_folder_without_splits_is_all_training(tmp_path: Path) -> None:
    for class_id in ("cat", "dog"):
        (tmp_path / "pets" / class_id).mkdir(parents=True)
        (tmp_path / "pets" / class_id / "1.jpg").write_bytes(jpeg(1))
    assert _run(tmp_path / "pets", tmp_path / "store") == 0
    with Store(tmp_path / "store") as store:
        assert {name: split.num_images for name, split in store.manifest.splits.items()} == {"train": 2}


def test_finished_work_is_not_done_again(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert _run(small_folder, store, "--images-per-shard", "6") == 0
    before = store_files(store)
    assert _run(small_folder, store, "--images-per-shard", "6") == 0
    assert "complete already" in capsys.readouterr().err
    # As after a kill: no manifest, one shard without its sidecar, one with a damaged one, one cut short, litter.
    (store / "manifest.json").unlink()
    (store / "shards/train-00000.json").unlink()
    (store / "shards/train-00001.json").write_text("{}")
    os.truncate(store / "shards/train-00002.lmdb", 4096)
    (store / f"shards/.train-00003.lmdb.{'0' * 32}.tmp").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in store.rglob("train-0000[345].lmdb")}
    assert _run(small_folder, store, "--images-per-shard", "6", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_shards"], report["num_shards_resumed"]) == (8, 5)
    assert store_files(store) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_changed_parameters_are_refused_by_name(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(small_folder, tmp_path / "store") == 0
    assert _run(small_folder, tmp_path / "store", "--quality", "50", "--shuffle-seed", "3") == 1
    error = capsys.readouterr().err
    assert "quality was 95 and is 50" in error
    assert "shuffle-seed was 0 and is 3" in error


def test_a_changed_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_folder(tmp_path / "source", train=2, val=1)
    assert _run(source, tmp_path / "store") == 0
    shutil.copy(
        source / "train" / CLASS_IDS[0] / f"{CLASS_IDS[0]}_0.JPEG", source / "train" / CLASS_IDS[0] / "new.JPEG"
    )
    assert _run(source, tmp_path / "store") == 1
    assert "train images was 6 and is 7" in capsys.readouterr().err


def _spoil(source: Path, count: int) -> list[Path]:
    """Empties ``count`` training images."""
    spoilt = sorted((source / "train").rglob("*.JPEG"))[:count]
    for path in spoilt:
        path.write_bytes(b"")
    return spoilt


def test_bad_images_end_the_run_and_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_folder(tmp_path / "source")
    spoilt = _spoil(source, 12)
    assert _run(source, tmp_path / "store", "--max-bad-images", "11") == 1
    error = capsys.readouterr().err
    assert "expected at most 11 unusable images (--max-bad-images), found 12" in error
    assert "and 2 more" in error
    assert str(tmp_path / "store/quarantine.jsonl") in error
    assert not (tmp_path / "store/manifest.json").exists()
    # The same command with a larger limit carries on.
    assert _run(source, tmp_path / "store", "--max-bad-images", "12", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_bad_images"] == 12
    assert report["num_images"] == {"train": 24, "val": 12}
    assert report["num_shards_resumed"] > 0
    lines = [json.loads(line) for line in (tmp_path / "store/quarantine.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == [str(path.relative_to(source)) for path in spoilt]
    assert lines[0] | {"name": ""} == {"split": "train", "name": "", "size_bytes": 0, "reason": "the file is empty"}


def test_a_source_of_nothing_but_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_folder(tmp_path / "source", train=2, val=1)
    _spoil(source, 6)
    assert _run(source, tmp_path / "store", "--max-bad-images", "100") == 1
    assert "expected usable images in the training split, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "expected a folder, found nothing"),
        (lambda path: path.mkdir(), "expected images in some layout, found an empty folder"),
        (lambda path: path.write_text("x"), "expected a folder, found a file"),
        (lambda path: (path / "val" / "a").mkdir(parents=True), "expected a folder 'train' beside val"),
        (lambda path: (path / "train" / "a").mkdir(parents=True), "expected images of the training split, found none"),
    ],
)
def test_a_source_that_is_none(make: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(make)
    make(tmp_path / "source")
    assert _run(tmp_path / "source", tmp_path / "store") == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "store").exists()


def test_a_store_is_not_written_over_something_else(
    small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert _run(small_folder, tmp_path) == 1
    assert "found 'thesis.tex' in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shorter-side", "7"], "--shorter-side: expected 8 to 4,096, found 7"),
        (["--quality", "101"], "--quality: expected 1 to 100, found 101"),
        (["--images-per-shard", "0"], "--images-per-shard: expected at least 1, found 0"),
        (["--max-pixels", "0"], "--max-pixels: expected 1 to 178,956,970, found 0"),
    ],
)
def test_an_option_out_of_range_is_named_as_typed(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, tmp_path / "store", *options) == 2
    assert capsys.readouterr().err == f"alexnet-preprocess run: error: {message}\n"
