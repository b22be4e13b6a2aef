"""Every layout, clean, damaged, with parts missing or too many: each member is counted once, or all are refused.

A picture's pixels are its number, and its class follows from the number: a store in which an image had another's
label, or was missing, or there twice, would show it.
"""

import gzip
import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.errors import SourceError
from preprocess.store.format import SHARDS_DIRECTORY
from tests.preprocess.accounting import Outcome, outcome_of, picture
from tests.preprocess.picture_sets import IMAGE, LAYOUTS, SPLITS, class_of, put

# Folders that no layout here looks into.
_WHOLE_FOLDERS = {".ipynb_checkpoints", "__MACOSX", "test", "scripts"}


def _num_members(path: Path) -> int:
    """All that a source holds, counted without the program: files, members of tars, rows, records."""
    total = 0
    for folder, folders, files in os.walk(path):
        total += len([name for name in folders if name in _WHOLE_FOLDERS])
        folders[:] = [name for name in folders if name not in _WHOLE_FOLDERS]
        total += len(files)
        for name in files:
            file = Path(folder) / name
            if name.endswith((".tar", ".tar.gz")) and "test" not in name and not name.startswith("._"):
                total += _num_tar_members(file.read_bytes())
            elif name.endswith(".parquet") and "test" not in name:
                total += pq.read_metadata(file).num_rows
    return total


def _num_tar_members(content: bytes) -> int:
    total = 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            total += not member.isdir()
            if member.name.endswith((".tar", ".bin")):
                file = archive.extractfile(member)
                assert file is not None
                inner = file.read()
                total += _num_tar_members(inner) if member.name.endswith(".tar") else len(inner) // 3073
    return total


def _classes(outcome: Outcome) -> dict[str, Counter[tuple[int, str]]]:
    """What is stored, with class ids of layouts that know numbers alone turned into names."""
    names = {"0": "cat", "1": "dog"}
    return {
        split: Counter({(number, names.get(class_id, class_id)): n for (number, class_id), n in pictures.items()})
        for split, pictures in outcome.stored.items()
    }


def _expected(without: Collection[int] = ()) -> dict[str, Counter[tuple[int, str]]]:
    return {
        split: Counter((number, class_of(number)) for number in numbers if number not in without)
        for split, numbers in SPLITS.items()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clean(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "source")
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    outcome.check()
    assert _classes(outcome) == _expected()
    assert (outcome.quarantined, outcome.passed_over, outcome.notes) == ({}, {}, ())
    assert outcome.num_members == _num_members(tmp_path / "source")


NO_TEXT = os.fsdecode(b"\xff")
"""A name that is no UTF-8."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_whose_name_is_no_text(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "source")
    root = (tmp_path / "source").rename(tmp_path / NO_TEXT)
    outcome = outcome_of(root, tmp_path / "store")
    outcome.check()
    assert _classes(outcome) == _expected()


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("webdataset", ("x-train-0.tar",)),
        ("webdataset.gz", ("train/0.tar.gz",)),
        ("parquet", ("data/train-00000-of-00002.parquet",)),
        ("class tars", ("train/cat.tar", "val/cat.tar")),
    ],
)
def test_files_whose_names_are_no_text(layout: str, files: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS[layout](root)
    for file in files:
        name, ending = file.split(".", 1)
        if ending == "tar":
            with tarfile.open(root / file, "a") as archive:
                archive.addfile(tarfile.TarInfo("notes.txt"))  # whose name is told with the tar's
        (root / file).rename(root / f"{name}{NO_TEXT}.{ending}")
    outcome = outcome_of(root, tmp_path / "store")
    outcome.check()
    expected = {split: Counter(number for number, _ in pictures) for split, pictures in _expected().items()}
    assert {split: Counter(n for n, _ in pictures.elements()) for split, pictures in outcome.stored.items()} == expected


def test_a_folder_in_cifar_whose_name_is_no_text(tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS["cifar"](root)
    with tarfile.open(root / "cifar-10-binary.tar.gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            put(root / member.name, file.read())
    (root / "cifar-10-binary.tar.gz").unlink()
    put(root / "cifar-10-batches-bin" / NO_TEXT / "notes.txt", b"")
    outcome = outcome_of(root, tmp_path / "store")
    outcome.check()
    assert _classes(outcome) == _expected()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_too_many(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS[layout](root)
    extra = [".DS_Store", "README.md", "._x.tar", "Thumbs.db", ".ipynb_checkpoints/a.png", "__MACOSX/b.png"]
    extra += ["test/c.png", "scripts/d.py", "scripts/e.png"]
    for number, name in enumerate(extra):
        put(root / name, picture(1000 + number))
    outcome = outcome_of(root, tmp_path / "store")
    outcome.check()
    assert _classes(outcome) == _expected()
    assert sum(outcome.passed_over.values()) == 8  # two of the nine lie in one folder
    assert outcome.num_members == _num_members(root)


def _replace(path: Path, number: int, content: bytes) -> None:
    """Puts ``content`` where a file, or a file or row in a container, is the picture of a number."""
    old = picture(number)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        rows = [row | {"bytes": content} if row["bytes"] == old else row for row in table["image"].to_pylist()]
        pq.write_table(table.set_column(0, "image", pa.array(rows, IMAGE)), path, row_group_size=2)
        return
    whole = path.read_bytes()
    plain = gzip.decompress(whole) if path.suffix == ".gz" else whole
    assert plain.count(old) == 1
    plain = plain.replace(old, content.ljust(len(old), b"\0"))
    path.write_bytes(gzip.compress(plain) if path.suffix == ".gz" else plain)


def _file_with(root: Path, number: int) -> Path:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            if picture(number) in content or (path.suffix == ".parquet" and _is_in(path, number)):
                return path
    raise AssertionError(number)


def _is_in(path: Path, number: int) -> bool:
    return any(row["bytes"] == picture(number) for row in pq.read_table(path)["image"].to_pylist())


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "cifar"])
def test_images_that_are_none(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS[layout](root)
    for number, content in ((12, b"no image"), (31, picture(31)[:40])):
        _replace(_file_with(root, number), number, content)
    outcome = outcome_of(root, tmp_path / "store")
    outcome.check()
    assert _classes(outcome) == _expected({12, 31})
    assert len(outcome.quarantined) == 2
    assert outcome.num_members == _num_members(root)


# What holds images, of each layout that has containers.
_CONTAINERS = {
    "class tars": "train/cat.tar",
    "official": "ILSVRC2012_img_train.tar",
    "official val": "ILSVRC2012_img_val.tar",
    "ImageNet-21k": "winter21_whole.tar.gz",
    "webdataset": "x-train-1.tar",
    "webdataset.gz": "val/0.tar.gz",
    "parquet": "data/train-00001-of-00002.parquet",
    "cifar": "cifar-10-binary.tar.gz",
}
_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda content: content[: len(content.rstrip(b"\0")) // 2],
    "cut to whole blocks": lambda content: content[: len(content.rstrip(b"\0")) // 1024 * 512],
    "zero tail": lambda content: content[: len(content.rstrip(b"\0")) // 1024 * 512] + bytes(20_480),
    "first byte": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "empty": lambda content: b"",
    "one more": lambda content: content + content,
    "another file": lambda content: b"<html>404 not found</html>" * 100,
}


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("layout", _CONTAINERS)
def test_damaged_containers_are_refused_by_name(layout: str, damage: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS[layout.removesuffix(" val")](root)
    path = root / _CONTAINERS[layout]
    path.write_bytes(_DAMAGE[damage](path.read_bytes()))
    if layout == "parquet" and damage in ("one more", "first byte"):
        # Its footer says where everything is, and the rest is not looked at.
        outcome = outcome_of(root, tmp_path / "store")
        outcome.check()
        assert _classes(outcome) == _expected()
        return
    with pytest.raises(SourceError) as caught:
        outcome_of(root, tmp_path / "store")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "missing", "message"),
    [
        ("folder", "train", "expected a folder 'train' beside val, found none"),
        ("folder", "train/dog", "val/dog: expected one of the training split's 1 classes, found 'dog'"),
        ("flat val", "val_labels.txt", "expected the labels of 4 validation images"),
        ("tiny-imagenet", "val/val_annotations.txt", "expected the labels of 4 validation images"),
        ("kaggle", "LOC_val_solution.csv", "expected the labels of 4 validation images"),
        ("kaggle", "ILSVRC/Data/CLS-LOC/train", "expected a folder 'train' beside val, found none"),
        ("class tars", "train/dog.tar", "val/dog.tar: expected one of the training split's 1 classes, found 'dog'"),
        ("official", "val_labels.txt", "expected the labels of 4 validation images"),
        ("parquet", "data/train-00000-of-00002.parquet", "found 1 and no data/train-00000-of-00002"),
        ("webdataset", "x-train-*.tar", "found no training tars"),
        ("cifar", "cifar-10-binary.tar.gz", "found an empty folder"),
    ],
)
def test_missing_parts_that_are_refused(layout: str, missing: str, message: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS[layout](root)
    for path in root.glob(missing):
        path.rename(tmp_path / path.name)
    with pytest.raises(SourceError) as caught:
        outcome_of(root, tmp_path / "store")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "missing", "without", "note"),
    [
        ("folder", "val", range(30, 34), "no validation split"),
        ("folder", "val/dog", (31, 33), "1 of 2 classes have no val images: dog"),
        ("folder", "train/dog/*", (11, 13, 15), "1 of 2 classes have no train images: dog"),
        ("flat val", "val/31.png", (31,), "val_labels.txt: 1 labels of images that are not there: 31.png"),
        ("kaggle", "ILSVRC/Data/CLS-LOC/val/31.png", (31,), "1 labels of images that are not there: 31"),
        ("official", "ILSVRC2012_img_val.tar", range(30, 34), "no validation split"),
        ("class tars", "val/dog.tar", (31, 33), "1 of 2 classes have no val images: dog"),
        ("parquet", "data/val*", range(30, 34), "no validation split"),
        ("webdataset", "x-val*", range(30, 34), "no validation split"),
    ],
)
def test_missing_parts_that_are_said(layout: str, missing: str, without: range, note: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    LAYOUTS[layout](root)
    for path in root.glob(missing):
        path.rename(tmp_path / path.name)
    outcome = outcome_of(root, tmp_path / "store")
    outcome.check()
    expected = {split: pictures for split, pictures in _expected(without).items() if pictures}
    assert _classes(outcome) == expected
    assert any(said.endswith(note) for said in outcome.notes)
    assert outcome.num_members == _num_members(root)


def test_no_shard_is_made_of_what_is_refused(tmp_path: Path) -> None:
    LAYOUTS["webdataset"](tmp_path / "source")
    (tmp_path / "source/x-val-1.tar").write_bytes(b"")
    with pytest.raises(SourceError):
        outcome_of(tmp_path / "source", tmp_path / "store")
    assert not (tmp_path / "store" / SHARDS_DIRECTORY).exists()
