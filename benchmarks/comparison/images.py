"""The images that all entries work on: stores made by ``preprocess run``, and the same JPEGs as plain files."""

import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from preprocess.store import Store

SIDE = 256
PHOTOS = "imagenette224.tar"
_NUM_VAL = 64
_MAX_CLASSES = 10
ENCODINGS = ("jpeg", "yuv420", "raw")


def make_images(data: Path, num_images: int, photos: Path | None) -> str:
    """Fills ``data`` with ``num_images`` training images, unless it holds them already, and says what they are.

    ``photos``: a folder with imagenette224.tar; None draws pictures. Each is brought to 256 x 256 by ``preprocess
    run`` (quality 95, 4:2:0), and the JPEG store's bytes are exported in order of index: ``images.bin``,
    ``offsets.npy``, ``files/``.
    """
    kind = f"{num_images} {'photographs (enlarged to 256 pixels)' if photos else 'drawn pictures'}"
    made = data / "made"
    content = f"{kind}; {', '.join(ENCODINGS)}"
    if made.exists() and made.read_text() == content:
        return kind
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    source = data / "source"
    if photos:
        _unpack(photos / PHOTOS, source, num_images)
    else:
        _draw(source, num_images)
    for encoding in ENCODINGS:
        out = str(data / "stores" / encoding)
        _preprocess("run", "--source", str(source), "--out", out, "--encoding", encoding, "--shorter-side", str(SIDE))
    shutil.rmtree(source)
    _export(data)
    made.write_text(content)
    return kind


def mean_image_bytes(data: Path) -> float:
    """Mean size of a stored JPEG."""
    offsets = np.load(data / "offsets.npy")
    return float(offsets[-1] / (len(offsets) - 1))


def _unpack(photos: Path, source: Path, num_images: int) -> None:
    with tarfile.open(photos) as archive:
        files = sorted(member.name for member in archive.getmembers() if member.isfile())
        names = [name for name in files if name.startswith("train/")]
        random.Random(0).shuffle(names)
        if len(names) < num_images:
            raise ValueError(f"{photos}: expected at least {num_images} images in train/, found {len(names)}")
        wanted = set(names[:num_images]) | set([name for name in files if name.startswith("val/")][:: len(files) // 64])
        # Read in the archive's order: a compressed one cannot be read in another.
        for member in archive:
            if member.name in wanted:
                content = archive.extractfile(member)
                assert content is not None
                out = source / Path(*Path(member.name).parts[-3:])
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_bytes(content.read())


def _draw(source: Path, num_images: int) -> None:
    per_class = -(-num_images // _MAX_CLASSES)
    options = ["--classes", str(_MAX_CLASSES), "--train-per-class", str(per_class)]
    _preprocess("sample", "--out", str(source), *options, "--val-per-class", str(_NUM_VAL // _MAX_CLASSES))
    for surplus in sorted((source / "train").glob("*/*"))[num_images:]:
        surplus.unlink()


def _preprocess(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "preprocess", *arguments], check=True, stdout=subprocess.DEVNULL)


def _export(data: Path) -> None:
    (data / "files").mkdir()
    offsets = [0]
    with Store(data / "stores" / "jpeg") as store, (data / "images.bin").open("wb") as images:
        reader = store.split("train")
        for index in range(reader.num_images):
            _, image = reader.read(index)
            images.write(image)
            (data / "files" / f"{index:06d}.jpg").write_bytes(image)
            offsets.append(images.tell())
    np.save(data / "offsets.npy", np.array(offsets, np.int64))
