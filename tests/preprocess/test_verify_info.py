"""``verify`` finds every kind of damage and says where; ``info`` says what a store holds."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from preprocess.__main__ import main
from preprocess.store.format import Encoding, shard_key
from preprocess.store.sidecar import read_partial, read_sidecar, write_partial, write_sidecar
from tests.preprocess.conftest import CLASS_IDS, store_files
from tests.stores import relabel

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def store(small_folder: Path, tmp_path: Path) -> Path:
    """A store of its own, to be damaged: 6 + 2 shards of up to 6 images."""
    path = tmp_path / "store"
    options = ["--shorter-side", "64", "--images-per-shard", "6"]
    assert main(["run", "--source", str(small_folder), "--out", str(path), *options]) == 0
    return path


def _verify(store: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = main(["verify", str(store), "--json", "--workers", "2", *options])
    return code, json.loads(capsys.readouterr().out)


def _problems(store: Path, capsys: pytest.CaptureFixture[str]) -> str:
    code, report = _verify(store, capsys)
    assert code == 1
    return str(report["problems"])


def _flip_bit(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_sound_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = _verify(store, capsys, "--all")
    assert code == 0
    assert (report["num_images"], report["num_decoded"], report["problems"]) == (48, 48, [])


def test_a_flipped_bit_in_an_image_names_shard_and_key(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = store / "shards/train-00003.lmdb"
    with lmdb.open(str(shard), subdir=False, readonly=True, lock=False, lib_version=0) as environment:
        record = environment.begin().get(shard_key(4)) or b""
    _flip_bit(shard, shard.read_bytes().index(record[16:]) + 100)
    problems = _problems(store, capsys)
    assert "train-00003.lmdb: key 4: expected checksum" in problems
    assert problems.count("lmdb") == 1


def test_a_damaged_shard_is_made_again(store: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = store_files(store)
    _flip_bit(store / "shards/train-00003.lmdb", 20_000)
    assert _verify(store, capsys)[0] == 1
    (store / "shards/train-00003.json").unlink()
    options = ["--shorter-side", "64", "--images-per-shard", "6"]
    assert main(["run", "--source", str(small_folder), "--out", str(store), *options]) == 0
    assert store_files(store) == before


def test_any_flipped_bit_is_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Anywhere in the file: records, LMDB's own pages, unused space.
    shard = store / "shards/val-00001.lmdb"
    whole = shard.read_bytes()
    draw = random.Random(0)
    for _ in range(4):
        _flip_bit(shard, draw.randrange(len(whole)), draw.randrange(8))
        assert "val-00001" in _problems(store, capsys) or "val shard 1" in _problems(store, capsys)
        shard.write_bytes(whole)
    assert _verify(store, capsys)[0] == 0


def test_damage_around_the_shards(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial = store / "shards/train-00001.npz"
    content = partial.read_bytes()
    _flip_bit(partial, len(content) // 2)
    assert "train-00001" in _problems(store, capsys)
    partial.write_bytes(content)
    (store / "shards/train-00002.json").unlink()
    assert "expected a sound sidecar train-00002.json" in _problems(store, capsys)


@pytest.mark.parametrize("encoding", ["raw", "yuv420", "jpeg"])
def test_statistics_that_are_not_those_of_the_pixels(
    encoding: str, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    options = ["--shorter-side", "32", "--encoding", encoding]
    assert main(["run", "--source", str(small_folder), "--out", str(path), *options]) == 0
    assert _verify(path, capsys, "--all")[0] == 0
    # A consistent store whose sums are another's: as a fault in the program that wrote it would leave it.
    partial = read_partial(path, "train-00000")
    sidecar = read_sidecar(path, "train-00000")
    assert sidecar is not None
    wrong = replace(partial, sum_image=partial.sum_image + np.uint64(36 * 3))
    write_sidecar(path, "train-00000", replace(sidecar, statistics_sha256=write_partial(path, "train-00000", wrong)))
    code, report = _verify(path, capsys, "--all")
    assert code == 1
    assert "train-00000.npz: the " in str(report["problems"])


@pytest.mark.parametrize(("encoding", "expected"), [("yuv420", "6,144"), ("raw", "12,288")])
def test_a_record_of_another_length(
    encoding: Encoding, expected: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel(store, encoding)
    assert f"train-00000.lmdb: key 0: expected {expected} bytes, found" in _problems(store, capsys)


@pytest.mark.parametrize(("hard", "opens"), [(4096, True), (400, False)])
def test_the_limit_of_open_files(hard: int, opens: bool, store: Path) -> None:
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard}))\n"
        "from pathlib import Path; from preprocess.store import Store; from preprocess.errors import StoreError\n"
        f"try:\n    Store(Path({str(store)!r}))\nexcept StoreError as error:\n    print(error)\n"
        "else:\n    print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    if opens:
        assert printed == f"({2 * 8 + 512}, {hard})\n"
    else:
        assert "expected a limit of at least 528 open files, for 8 shards, found 400" in printed


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("shards/train-00000.lmdb", "train-00000.lmdb: expected"),
        ("statistics.npz", "statistics.npz: expected SHA-256"),
        ("manifest.json", "the manifest was edited or damaged"),
    ],
)
def test_a_store_that_cannot_be_opened(
    file: str, message: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if file == "manifest.json":
        text = (store / file).read_text()
        (store / file).write_text(text.replace('"num_images": 6', '"num_images": 7', 1))
    else:
        os.truncate(store / file, (store / file).stat().st_size - 1)
    for command in ("verify", "info"):
        assert main([command, str(store)]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error


def test_no_store_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nothing")]) == 1
    assert "found no such folder" in capsys.readouterr().err
    assert main(["info", str(tmp_path)]) == 1
    assert "an unfinished run?" in capsys.readouterr().err


def test_info_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", str(store), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["splits"]["train"]["num_images"] == 36
    expected = [{"label": i, "id": c, "name": c, "train": 12, "val": 4} for i, c in enumerate(CLASS_IDS)]
    assert content["classes"] == expected
    assert len(content["statistics"]["eigenvectors"]) == 3


def test_info_in_words_and_pictures(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    pictures = [tmp_path / name for name in ("sheet.png", "mean.png", "colours.png")]
    options = [
        f"--{name}={path}" for name, path in zip(("contact-sheet", "mean-image", "colour-plot"), pictures, strict=True)
    ]
    assert main(["info", str(store), *options]) == 0
    text = capsys.readouterr().out
    assert "36 images in 6 shards" in text
    assert "n01440764  train 12, val 4" in text
    assert "121.78" in text
    for path in pictures:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50


def test_pictures_show_the_same_whatever_the_encoding(small_folder: Path, tmp_path: Path) -> None:
    sheets = []
    for encoding in ("raw", "yuv420", "jpeg"):
        path, sheet = tmp_path / encoding, tmp_path / f"{encoding}.png"
        options = ["--shorter-side", "64", "--encoding", encoding]
        assert main(["run", "--source", str(small_folder), "--out", str(path), *options]) == 0
        assert main(["info", str(path), "--contact-sheet", str(sheet)]) == 0
        with Image.open(sheet) as picture:
            sheets.append(np.asarray(picture.convert("RGB")).astype(float))
    for sheet_pixels in sheets[1:]:
        assert 0 < np.abs(sheet_pixels - sheets[0]).mean() < 2
