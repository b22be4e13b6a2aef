"""The demonstration data: the same bytes for the same seed, ImageNet's layout and its odd kinds of file."""

import io
from pathlib import Path

import pytest
from PIL import Image

from preprocess.__main__ import main
from preprocess.sources import SourceOptions, read_source


def _sample(out: Path, *options: str) -> dict[str, bytes]:
    assert main(["sample", "--out", str(out), "--train-per-class", "60", "--val-per-class", "2", *options]) == 0
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    first = _sample(tmp_path / "a", "--classes", "3")
    assert _sample(tmp_path / "b", "--classes", "3") == first
    other = _sample(tmp_path / "c", "--classes", "3", "--seed", "1")
    assert list(other) == list(first)
    assert sum(other[name] == first[name] for name in first if name.endswith(".JPEG")) == 0


def test_layout_names_and_odd_files(tmp_path: Path) -> None:
    files = _sample(tmp_path / "s", "--classes", "10")
    source = read_source(str(tmp_path / "s"), SourceOptions(), map)
    assert {name: len(images) for name, images in source.splits.items()} == {"train": 600, "val": 20}
    assert [info.name for info in source.classes][:3] == ["horizontal stripes", "vertical stripes", "dots"]
    opened = [Image.open(io.BytesIO(content)) for name, content in files.items() if name.endswith(".JPEG")]
    assert {image.mode for image in opened} == {"RGB", "L", "CMYK"}
    assert {image.format for image in opened} == {"JPEG", "PNG"}
    assert len({image.size for image in opened}) > 100


def test_an_occupied_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["sample", "--out", str(tmp_path)]) == 1
    assert "expected no such folder or an empty one" in capsys.readouterr().err
    assert main(["sample", "--out", str(tmp_path / "s"), "--classes", "11"]) == 2
