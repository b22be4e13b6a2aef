"""What the network saw: a batch as a picture, with labels and the names that its images had."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from loader_service.__main__ import main
from loader_service.client import InvalidRequestError, LoaderClient, StreamSpec
from loader_service.commands.preview import with_shifts
from tests.loader_service.test_pipeline import read_all


def test_a_batch_is_shown_as_it_was(loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "batch.png"
    options = ["--target", loader_target, "--seed", "3", "--batch-size", "12", "--epoch", "2", "--step", "5"]
    assert main(["show", *options, "--out", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["images"]
    batch = read_all(loader_target, StreamSpec(seed=3, batch_size=12), epoch=2)[5]
    assert [image["index"] for image in shown] == batch.indices.tolist()
    assert [image["label"] for image in shown] == batch.labels.tolist()
    assert [image["name"] for image in shown] == [f"train/{index}.JPEG" for index in batch.indices]
    assert shown[0]["class_name"] == f"class {shown[0]['label']}"
    sheet = np.asarray(cv2.imread(str(out)))[:, :, ::-1]
    expected = with_shifts(batch.images, batch.colour_shifts)
    places = [
        (top, left)
        for top in range(sheet.shape[0] - 55)
        for left in range(0, sheet.shape[1] - 55, 8)
        if np.array_equal(sheet[top : top + 56, left : left + 56], expected[0])
    ]
    assert places == [(8, 8)]
    assert main(["show", *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "\t".join(str(shown[0][name]) for name in ("index", "label", "class_name", "name"))
    assert len(printed) == 13


@pytest.mark.parametrize("view", ["ten_crop", "resized_crop", "full"])
def test_every_view_can_be_shown(loader_target: str, tmp_path: Path, view: str) -> None:
    out = tmp_path / "batch.png"
    options = ["--split", "val", "--view", view, "--batch-size", "7", "--step", "4", "--out", str(out)]
    assert main(["show", "--target", loader_target, *options]) == 0
    assert cv2.imread(str(out)) is not None


def test_names(loader_target: str) -> None:
    with LoaderClient(["127.0.0.1:1", loader_target]) as client:  # one that is not there is passed over
        assert client.names("val", [29, 0, 29]) == ("val/29.JPEG", "val/0.JPEG", "val/29.JPEG")
        assert client.names("train", []) == ()
        with pytest.raises(InvalidRequestError, match="indices: expected 0 to 29, found 30"):
            client.names("val", [30])
        with pytest.raises(InvalidRequestError, match="indices: expected places in split 'val'"):
            client.names("val", [-1])
        with pytest.raises(InvalidRequestError, match="split: expected one of train, val, found 'test'"):
            client.names("test", [0])
        with pytest.raises(InvalidRequestError, match="indices: expected 0 to 1024, found 1025"):
            client.names("val", [0] * 1025)


def test_mistakes_are_one_line(loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--target", loader_target, "--step", "100", "--out", str(tmp_path / "x.png")]) == 1
    assert "step: expected 0 to 0, found 100" in capsys.readouterr().err
    assert main(["show", "--target", loader_target, "--out", "x.jpg"]) == 2
    assert "--out: expected a file name that ends in .png" in capsys.readouterr().err
