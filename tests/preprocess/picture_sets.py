"""The same ten pictures in every layout, each with a class that follows from its number."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.preprocess.accounting import picture

CLASSES = ("cat", "dog")
# Numbers of the pictures of each split; the class of one is its parity.
SPLITS = {"train": range(10, 16), "val": range(30, 34)}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def class_of(number: int) -> str:
    return CLASSES[number % 2]


def make_tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_folder(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for number in numbers:
            put(root / split / class_of(number) / f"{number}.png", picture(number))


def _write_flat(root: Path) -> None:
    _write_folder(root)
    for path in sorted((root / "val").glob("*/*")):
        path.rename(root / "val" / path.name)
    for class_id in CLASSES:
        (root / "val" / class_id).rmdir()
    put(root / "val_labels.txt", "".join(f"{n}.png {class_of(n)}\n" for n in SPLITS["val"]).encode())


def _write_tiny(root: Path) -> None:
    for number in SPLITS["train"]:
        put(root / "train" / class_of(number) / "images" / f"{number}.png", picture(number))
    for number in SPLITS["val"]:
        put(root / "val/images" / f"{number}.png", picture(number))
    lines = "".join(f"{n}.png\t{class_of(n)}\t0\t0\t9\t9\n" for n in SPLITS["val"])
    put(root / "val/val_annotations.txt", lines.encode())


def _write_kaggle(root: Path) -> None:
    _write_flat(root / "ILSVRC/Data/CLS-LOC")
    (root / "ILSVRC/Data/CLS-LOC/val_labels.txt").unlink()
    rows = "".join(f"{n},{class_of(n)} 1 2 3 4\n" for n in SPLITS["val"])
    put(root / "LOC_val_solution.csv", b"ImageId,PredictionString\n" + rows.encode())


def class_tars(split: str) -> dict[str, bytes]:
    return {c: make_tar([(f"{n}.png", picture(n)) for n in SPLITS[split] if class_of(n) == c]) for c in CLASSES}


def _write_class_tars(root: Path) -> None:
    for split in SPLITS:
        for class_id, content in class_tars(split).items():
            put(root / split / f"{class_id}.tar", content)


def _write_official(root: Path) -> None:
    put(
        root / "ILSVRC2012_img_train.tar",
        make_tar([(f"{c}.tar", content) for c, content in class_tars("train").items()]),
    )
    put(root / "ILSVRC2012_img_val.tar", make_tar([(f"{n}.png", picture(n)) for n in reversed(SPLITS["val"])]))
    put(root / "val_labels.txt", "".join(f"{class_of(n)}\n" for n in SPLITS["val"]).encode())


def _write_21k(root: Path) -> None:
    members = [(f"winter21_whole/{c}.tar", content) for c, content in class_tars("train").items()]
    put(root / "winter21_whole.tar.gz", gzip.compress(make_tar(members)))
    for number in SPLITS["val"]:
        put(root / "val" / class_of(number) / f"{number}.png", picture(number))


def _samples(numbers: range) -> list[tuple[str, bytes]]:
    return [m for n in numbers for m in ((f"{n}.png", picture(n)), (f"{n}.cls", b"%d" % (n % 2)))]


def _write_webdataset(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for part in range(2):
            put(root / f"x-{split}-{part}.tar", make_tar(_samples(numbers[part::2])))


def _write_webdataset_gz(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for part in range(2):
            put(root / split / f"{part}.tar.gz", gzip.compress(make_tar(_samples(numbers[part::2]))))


def _write_parquet(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for part in range(2):
            rows = [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers[part::2]]
            table = pa.table({"image": pa.array(rows, IMAGE), "label": [n % 2 for n in numbers[part::2]]})
            path = root / "data" / f"{split}-{part:05d}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, row_group_size=2)


def _write_cifar(root: Path) -> None:
    def records(numbers: range) -> bytes:
        return b"".join(bytes([n % 2]) + b"".join(bytes([byte]) * 1024 for byte in (0, 0, n)) for n in numbers)

    train = SPLITS["train"]
    parts = [train[:2], train[2:3], train[3:4], train[4:5], train[5:]]
    members = [(f"cifar-10-batches-bin/data_batch_{k + 1}.bin", records(part)) for k, part in enumerate(parts)]
    members += [("cifar-10-batches-bin/test_batch.bin", records(SPLITS["val"]))]
    members += [("cifar-10-batches-bin/batches.meta.txt", b"cat\ndog\n\n")]
    put(root / "cifar-10-binary.tar.gz", gzip.compress(make_tar(members)))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "folder": _write_folder,
    "flat val": _write_flat,
    "tiny-imagenet": _write_tiny,
    "kaggle": _write_kaggle,
    "class tars": _write_class_tars,
    "official": _write_official,
    "ImageNet-21k": _write_21k,
    "webdataset": _write_webdataset,
    "webdataset.gz": _write_webdataset_gz,
    "parquet": _write_parquet,
    "cifar": _write_cifar,
}
