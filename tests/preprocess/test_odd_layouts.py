"""Trees, labels, shards and rows as people have them: read as they are meant, or refused with the two places."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.errors import SourceError
from tests.preprocess.accounting import outcome_of, picture
from tests.preprocess.picture_sets import IMAGE, make_tar, put


class _Made:
    """A source in the making; its pictures are numbered in the order of their making."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 0

    def picture(self) -> bytes:
        self.number += 1
        return picture(self.number)

    def images(self, *paths: str) -> "_Made":
        for path in paths:
            put(self.root / path, self.picture())
        return self

    def classes(self, *folders: str) -> "_Made":
        return self.images(*(f"{folder}/{name}/1.png" for folder in folders for name in ("cat", "dog")))

    def file(self, path: str, content: bytes | str) -> "_Made":
        put(self.root / path, content.encode() if isinstance(content, str) else content)
        return self

    def tar(self, path: str, *members: str) -> "_Made":
        """Members are names, or ``name=content``."""
        pairs = [member.partition("=")[::2] for member in members]
        return self.file(path, make_tar([(n, text.encode() if text else self.picture()) for n, text in pairs]))

    def rows(self, path: str, images: Any = None, names: list[str] | None = None, **columns: Any) -> "_Made":
        some = pa.array([{"bytes": self.picture(), "path": "x"} for _ in range(2)], IMAGE)
        table = pa.table({"image": some if images is None else images, **columns})
        if names is not None:
            features = {"info": {"features": {"label": {"names": names}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.root / path)
        return self


def _flat(made: _Made, text: str | bytes, *names: str, classes: tuple[str, ...] = ("cat", "dog")) -> _Made:
    """A flat val of two images, ``a.png`` and ``b.png`` unless they are named, and its labels."""
    made.images(*(f"train/{class_id}/1.png" for class_id in classes))
    return made.images(*(f"val/{name}" for name in names or ("a.png", "b.png"))).file("val_labels.txt", text)


_Make = Callable[[_Made], object]
_TWO = ["cat", "dog"]
_READ: dict[str, tuple[_Make, list[str], list[str]]] = {
    # What is made, the classes of the training images, those of the validation images.
    "splits in capitals": (lambda m: m.classes("Train", "VALIDATION"), _TWO, _TWO),
    "splits as ImageNet calls them": (lambda m: m.classes("ILSVRC2012_img_train", "ILSVRC2012_img_val"), _TWO, _TWO),
    "splits as ImageNet-21k does": (lambda m: m.classes("imagenet21k_train", "imagenet21k_val"), _TWO, _TWO),
    "a class of trains": (
        lambda m: m.images("cat/1.png", "dog/1.png").images("bullet_train/1.png"),
        ["bullet_train", *_TWO],
        [],
    ),
    "a class called train": (lambda m: m.images("cat/1.png", "dog/1.png").images("train/1.png"), [*_TWO, "train"], []),
    "system folders": (lambda m: m.classes("train").images("train/@eaDir/x.png", "train/lost+found/x.png"), _TWO, []),
    "a hidden folder in a flat val": (
        lambda m: _flat(m, "a.png cat\nb.png dog\n").images("val/.ipynb_checkpoints/a.png"),
        _TWO,
        _TWO,
    ),
    "tars that were unpacked and kept": (
        lambda m: m.classes("train", "val").tar("ILSVRC2012_img_val.tar", "x.png").tar("x_train.tar", "x.png"),
        _TWO,
        _TWO,
    ),
    "class tars beside the validation tar": (
        lambda m: (
            m.tar("cat.tar", "1.png")
            .tar("dog.tar", "1.png")
            .tar("ILSVRC2012_img_val.tar", "b.png", "a.png")
            .tar("ILSVRC2012_bbox_train_v2.tar.gz")
            .file("val_labels.txt", "cat\ndog\n")
        ),
        _TWO,
        _TWO,
    ),
    "spaces in names and classes": (
        lambda m: _flat(m, "a b.png a dog\nb.png cat\n", "a b.png", "b.png", classes=("a dog", "cat")),
        ["a dog", "cat"],
        ["a dog", "cat"],
    ),
    "a class with a space, with a comma": (
        lambda m: _flat(m, "a.png,golden retriever\nb.png,golden\n", classes=("golden", "golden retriever")),
        ["golden", "golden retriever"],
        ["golden", "golden retriever"],
    ),
    "quoted CSV": (lambda m: _flat(m, '"a,b.png","cat"\nb.png,dog\n', "a,b.png", "b.png"), _TWO, _TWO),
    "CSV with a header": (lambda m: _flat(m, "filename,label\na.png,cat\nb.png,dog\n"), _TWO, _TWO),
    "semicolons": (lambda m: _flat(m, "a.png;cat\nb.png;dog\n"), _TWO, _TWO),
    "a byte order mark": (lambda m: _flat(m, b"\xef\xbb\xbfa.png cat\nb.png dog\n"), _TWO, _TWO),
    "UTF-16": (lambda m: _flat(m, "a.png cat\r\nb.png dog\r\n".encode("utf-16")), _TWO, _TWO),
    "backslashes": (lambda m: _flat(m, "val\\a.png cat\nval\\b.png dog\n"), _TWO, _TWO),
    "names that differ by their suffix": (lambda m: _flat(m, "1.jpg cat\n1.png dog\n", "1.jpg", "1.png"), _TWO, _TWO),
    "a label of an image that is gone": (lambda m: _flat(m, "1.jpg cat\n1.png dog\n", "1.png"), _TWO, ["dog"]),
    "words in shards' names": (
        lambda m: m.tar("retrieval-train-0.tar", "a.png", "a.cls=0").tar("interval-val-0.tar", "a.png", "a.cls=0"),
        ["0"],
        ["0"],
    ),
    "shards in folders": (
        lambda m: m.tar("train/a/0.tar", "a.png", "a.cls=0").tar("train/b/0.tar", "a.png", "a.cls=1"),
        ["0", "1"],
        [],
    ),
    "dots in keys": (lambda m: m.tar("x-train-0.tar", "a.v2.png", "a.v2.cls=0", "b.v1.png", "b.cls=1"), ["0", "1"], []),
    "rows in a configuration's folders": (
        lambda m: m.rows("default/train/0000.parquet", label=[0, 1]).rows("default/validation/0.parquet", label=[1, 0]),
        ["0", "1"],
        ["0", "1"],
    ),
}


@pytest.mark.parametrize("case", _READ)
def test_read(case: str, tmp_path: Path) -> None:
    make, train, val = _READ[case]
    make(_Made(tmp_path / "source"))
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    outcome.check()
    found = {
        split: sorted(class_id for _, class_id in pictures.elements()) for split, pictures in outcome.stored.items()
    }
    assert found == {split: classes for split, classes in (("train", train), ("val", val)) if classes}


_REFUSED: dict[str, tuple[_Make, str]] = {
    "one level too high": (
        lambda m: m.classes("imagenette2/train", "imagenette2/val"),
        "source/imagenette2 looks right",
    ),
    "classes one level too high": (lambda m: m.classes("images"), "source/images looks right"),
    "class tars one level too high": (lambda m: m.tar("whole/cat.tar", "1.png"), "source/whole looks right"),
    "splits within classes": (lambda m: m.images("cat/train/1.png", "cat/val/1.png", "dog/train/2.png"), "looks right"),
    "Kaggle's folder itself": (
        lambda m: m.classes("Data/CLS-LOC/train"),
        "one level off: expected the folder that holds ILSVRC",
    ),
    "two folders of a split": (
        lambda m: m.classes("train", "Training"),
        "one folder of train, found Training and",
    ),
    "a split or a class": (
        lambda m: m.images("x_train/a/1.png", "x_train/b/1.png", "cat/1.png"),
        "found x_train, which may be for training, beside cat, which may be a class",
    ),
    "an archive among classes": (
        lambda m: m.classes("train").file("train/bird.zip", b"x"),
        "train/bird.zip: expected a folder for each class, found an archive beside them",
    ),
    "a packed split": (
        lambda m: m.tar("cat.tar", "1.png").tar("val.tar", "1.png"),
        "val.tar: expected a tar for each",
    ),
    "a stem of two images": (
        lambda m: _flat(m, "1 cat\n2 dog\n", "1.jpg", "1.png"),
        "found '1', which may be '1.jpg' or '1.png'",
    ),
    "two labels": (
        lambda m: _flat(m, "a.png cat\nb.png dog\na.png dog\n"),
        "expected one label for 'a.png', found 'cat' and 'dog'",
    ),
    "numbers where ids are numbers": (
        lambda m: _flat(m, "a.png 0\nb.png 1\n", classes=("1", "2")),
        "expected one of the training split's 2 classes, found '0'",
    ),
    "a key that is there twice": (
        lambda m: m.tar("x-train-0.tar", "0.png", "0.cls=0", "0.png", "0.cls=1"),
        "expected each name once, found '0.png' at byte 0 and at byte 2,048",
    ),
    "two labels of a sample": (
        lambda m: m.tar("x-train-0.tar", "0.png", "0.cls=0", "0.CLS=1"),
        "expected one label, found b'0.cls' at byte 1,536 and b'0.CLS' at byte 2,560",
    ),
    "two splits in a name": (lambda m: m.tar("trainval-0.tar", "0.png", "0.cls=0"), "found train and val"),
    "another split than the folder's": (
        lambda m: m.tar("val/x-train-0.tar", "0.png", "0.cls=0"),
        "expected one split, found train in 'x-train-0.tar' and val in 'val'",
    ),
    "a tar and itself gzipped": (
        lambda m: m.tar("x-train-0.tar", "0.png", "0.cls=0").tar("x-train-0.tar.gz", "0.png", "0.cls=0"),
        "expected each tar once, found x-train-0.tar and x-train-0.tar.gz",
    ),
    "a label beyond 31 bits": (lambda m: m.tar("x-train-0.tar", "0.png", "0.cls=4294967296"), "found b'4294967296'"),
    "a label far off": (
        lambda m: m.tar("x-train-0.tar", "0.png", "0.cls=0", "1.png", "1.cls=20000000"),
        "x-train-0.tar/1.png: expected labels of the 2 classes that occur, found 20,000,000",
    ),
    "a row's label that wraps": (
        lambda m: m.rows("train-0.parquet", label=[0, 2**32]),
        "train-0.parquet: row 1: column 'label': expected a label from 0 to 2,147,483,647, found 4294967296",
    ),
    "a row's label far off": (
        lambda m: m.rows("train-0.parquet", label=[0, 20_000_000]),
        "train-0.parquet: row 1: column 'label': expected labels of the 2 classes that occur, found 20,000,000",
    ),
    "a row's negative label": (
        lambda m: m.rows("train-0.parquet", label=[-1, 0]),
        "row 0: column 'label': expected",
    ),
    "a row without label": (
        lambda m: m.rows("train-0.parquet", label=pa.array([0, None])),
        "row 1: column 'label': expected a whole number, found null",
    ),
    "labels that are names": (
        lambda m: m.rows("train-0.parquet", label=["cat", "dog"]),
        "column 'label': expected whole numbers, found string",
    ),
    "a label that no name has": (
        lambda m: m.rows("train-0.parquet", names=["cat", "dog"], label=[0, 2]),
        "row 1: column 'label': expected a label below 2",
    ),
    "two orders of classes": (
        lambda m: m.rows("train-0.parquet", names=["cat", "dog"], label=[0, 1]).rows(
            "val-0.parquet", names=["dog", "cat"], label=[0, 1]
        ),
        "expected one order of classes, found one in train-0.parquet and another in val-0.parquet",
    ),
    "images that are names": (
        lambda m: m.rows("train-0.parquet", images=["a.png", "b.png"], label=[0, 1]),
        "column 'image': expected bytes, or a struct with bytes and path, found string",
    ),
    "two copies of rows": (
        lambda m: m.rows("data/train-0.parquet", label=[0, 1]).rows("default/train/0.parquet", label=[0, 1]),
        "expected one data set, found data/train-0.parquet and default/train/0.parquet",
    ),
    "a zip": (lambda m: m.file("imagenet.zip", b"x"), "imagenet.zip: an archive, not read: unpack it"),
    "an LMDB": (lambda m: m.file("data.mdb", b"x"), "data.mdb: an LMDB, not read"),
    "TFRecord": (lambda m: m.file("train-00000-of-01024", b"x"), "train-00000-of-01024: TFRecord, not read"),
    "pickles": (lambda m: m.file("cifar-10-python.tar.gz", b"x"), "Python's pickles of CIFAR, not read"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    make, message = _REFUSED[case]
    make(_Made(tmp_path / "source"))
    with pytest.raises(SourceError) as caught:
        outcome_of(tmp_path / "source", tmp_path / "store")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_nowhere_may_have_been_a_class(tmp_path: Path) -> None:
    _Made(tmp_path / "source").classes("train")
    (tmp_path / "source/train/bird").symlink_to("nowhere")
    with pytest.raises(SourceError, match="train/bird: expected a folder or a file, found a link to nothing"):
        outcome_of(tmp_path / "source", tmp_path / "store")


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    _Made(tmp_path / "source").classes("train")
    (tmp_path / "source/train/cat/d").symlink_to("../dog")
    (tmp_path / "source/train/dog/c").symlink_to("../cat")
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    outcome.check()
    assert outcome.passed_over == {"a link to a folder that it lies in": 2}


def test_rows_of_one_path_are_told_apart_in_quarantine(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"none", "path": "x"}, None, {"bytes": None, "path": "x"}], IMAGE)
    _Made(tmp_path / "source").rows("train-0.parquet", images=images, label=[0, 1, 0])
    outcome = outcome_of(tmp_path / "source", tmp_path / "store")
    assert sorted(outcome.quarantined) == ["train-0.parquet/1", "train-0.parquet/x#0", "train-0.parquet/x#2"]


def test_a_folder_called_like_an_image_is_passed_over(tmp_path: Path) -> None:
    made = _flat(_Made(tmp_path / "source"), "a.png cat\nb.png dog\n")
    made.images("val/images/a.png", "val/images/b.png")
    for name in ("a.png", "b.png"):
        (made.root / "val" / name).unlink()
    (made.root / "val/images/c.png").mkdir()
    outcome = outcome_of(made.root, tmp_path / "store")
    outcome.check()
    assert outcome.passed_over == {"not an image by its name": 1}
