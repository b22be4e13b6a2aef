"""Predictions: pictures as preprocess makes them, one bad file beside good ones, and no imaging library."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from preprocess.images.decode import decode
from preprocess.images.resize import centre_square
from preprocess.store import Store
from tests.trainer.runs import train
from trainer.__main__ import main
from trainer.predict import read_square


@pytest.fixture(scope="module")
def trained(loader_target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    assert train(loader_target, run_dir, "--epochs", "1") == 0
    return run_dir


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([across * 3 % 256, down * 2 % 256, (across + down) % 256], 2).astype(np.uint8))


PICTURES = {
    "png": encoded(gradient(90, 70), "PNG"),
    "jpeg": encoded(gradient(90, 170), "JPEG"),
    "grey": encoded(gradient(70, 70).convert("L"), "PNG"),
    "cmyk": encoded(gradient(70, 90).convert("CMYK"), "JPEG"),
    "palette": encoded(gradient(70, 90).convert("P"), "GIF"),
    "16 bits": encoded(Image.fromarray((np.arange(80 * 80).reshape(80, 80) * 10).astype(np.uint16)), "PNG"),
    "smaller than the store's": encoded(gradient(20, 31), "PNG"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_what_preprocess_makes_of_them(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(PICTURES[kind])
    expected = np.asarray(centre_square(decode(PICTURES[kind]), 64).convert("RGB"))
    found = read_square(path, 64)
    assert found.shape == (64, 64, 3)
    np.testing.assert_array_equal(found, expected)


def test_predictions_are_classes_with_falling_probabilities(
    trained: Path, tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(PICTURES["png"])
    assert main(["predict", "--checkpoint", str(trained), "--devices", "cpu,cpu", "--json", str(picture)]) == 0
    [document] = json.loads(capsys.readouterr().out)
    probabilities = [guess["probability"] for guess in document["guesses"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    with Store(tiny_store) as store:
        ids = [info.id for info in store.manifest.classes]
    assert {guess["class"] for guess in document["guesses"]} <= set(ids)


BAD = {
    "text": (b"no picture", "not a picture that can be read: expected an image"),
    "empty": (b"", "not a picture that can be read: the file is empty"),
    "float tiff": (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "expected an image"),
    "cut off": (PICTURES["jpeg"][:600], "not a picture that can be read: damaged"),
    "too many pixels": (encoded(Image.new("L", (9000, 9000)), "PNG"), "expected at most 80,000,000 pixels"),
    "missing": (None, "no such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_does_not_hide_the_others(
    kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD[kind]
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(PICTURES["png"])
    if content is not None:
        bad.write_bytes(content)
    command = ["predict", "--checkpoint", str(trained), "--devices", "cpu,cpu", str(bad), str(good)]
    assert main(command) == 1
    told = capsys.readouterr()
    assert str(good) in told.out
    assert message in told.err
    assert str(bad) in told.err
    assert told.err.count("\n") == 1
    assert main([*command, "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert message in first["error"]
    assert len(second["guesses"]) == 5


def test_without_an_imaging_library_it_says_what_to_install(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("preprocess.images")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert main(["predict", "--checkpoint", str(trained), str(tmp_path / "x.jpg")]) == 1
    told = capsys.readouterr().err
    assert "pip install 'alexnet-pipeline[predict]'" in told
    assert told.count("\n") == 1
