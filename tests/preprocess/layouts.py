"""The same small ImageNet in each of the five layouts, as its publishers pack it."""

import io
import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

from tests.preprocess.conftest import jpeg

# Real wnids; the devkit's numbers are in another order than the sorted wnids.
CLASSES = {
    "n02119789": ("kit fox, Vulpes macrotis", 1),
    "n02100735": ("English setter", 2),
    "n01440764": ("tench, Tinca tinca", 3),
    "n04152593": ("screen, CRT screen", 4),
}
WNIDS = sorted(CLASSES)
VAL_COUNT = 8


@dataclass(frozen=True)
class Photo:
    stem: str
    wnid: str
    content: bytes

    @property
    def file(self) -> str:
        return f"{self.stem}.JPEG"

    @property
    def label(self) -> int:
        return WNIDS.index(self.wnid)


def _photo(stem: str, wnid: str, seed: int) -> Photo:
    mode = {3: "L", 5: "CMYK"}.get(seed, "RGB")
    return Photo(stem, wnid, jpeg(seed, width=40 + 3 * seed, height=50 + (7 * seed) % 31, mode=mode))


TRAIN = [_photo(f"{wnid}_{10 * i}", wnid, 5 * k + i) for k, wnid in enumerate(WNIDS) for i in range(5)]
VAL = [_photo(f"ILSVRC2012_val_{i + 1:08d}", random.Random(i).choice(WNIDS), 100 + i) for i in range(VAL_COUNT)]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            _add(archive, name, content)
    return buffer.getvalue()


def devkit_files() -> dict[str, bytes]:
    """meta.mat and the ground truth of ILSVRC2012_devkit_t12."""
    rows = [(number, wnid, words, 0) for wnid, (words, number) in CLASSES.items()]
    rows += [(len(rows) + 1, "n00001740", "entity", 4)]  # an inner node
    synsets = np.zeros((len(rows), 1), [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")])
    for place, row in enumerate(rows):
        synsets[place, 0] = (float(row[0]), row[1], row[2], float(row[3]))
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{CLASSES[photo.wnid][1]}\n" for photo in VAL)
    return {"data/meta.mat": meta.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}


def write_official(root: Path) -> Path:
    root.mkdir(parents=True)
    inner = {wnid: _tar([(photo.file, photo.content) for photo in TRAIN if photo.wnid == wnid]) for wnid in WNIDS}
    # Neither tar is in the order of names.
    (root / "ILSVRC2012_img_train.tar").write_bytes(_tar([(f"{wnid}.tar", inner[wnid]) for wnid in reversed(WNIDS)]))
    shuffled = random.Random(1).sample(VAL, len(VAL))
    (root / "ILSVRC2012_img_val.tar").write_bytes(_tar([(photo.file, photo.content) for photo in shuffled]))
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in devkit_files().items():
            _add(archive, f"ILSVRC2012_devkit_t12/{name}", content)
    return root


def write_folder(root: Path) -> Path:
    for split, photos in (("train", TRAIN), ("val", VAL)):
        for photo in photos:
            path = root / split / photo.wnid / photo.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo.content)
    return root


def write_flat_folder(root: Path) -> Path:
    """A flat val folder, and no labels yet."""
    write_folder(root)
    for path in (root / "val").glob("*/*"):
        path.rename(root / "val" / path.name)
    for path in (root / "val").iterdir():
        if path.is_dir():
            path.rmdir()
    return root


def write_kaggle(root: Path) -> Path:
    write_flat_folder(root / "ILSVRC/Data/CLS-LOC")
    (root / "ILSVRC/Data/CLS-LOC/test").mkdir()
    (root / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG").write_bytes(TRAIN[0].content)
    (root / "ILSVRC/ImageSets").mkdir()
    rows = [
        f"{photo.stem},{photo.wnid} 1 2 3 4 {photo.wnid} 5 6 7 8 " for photo in random.Random(2).sample(VAL, len(VAL))
    ]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {CLASSES[wnid][0]}\n" for wnid in WNIDS))
    return root


def write_parquet(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    names = [CLASSES[wnid][0] for wnid in WNIDS]
    hub = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata={"huggingface": json.dumps(hub)})
    for split, photos, count in (("train", random.Random(3).sample(TRAIN, len(TRAIN)), 2), ("validation", VAL, 1)):
        for number in range(count):
            part = photos[number::count]
            table = pa.table(
                {
                    "image": [{"bytes": p.content, "path": f"{p.stem}_{p.wnid}.JPEG"} for p in part],
                    "label": [photo.label for photo in part],
                },
                schema=schema,
            )
            path = root / "data" / f"{split}-{number:05d}-of-{count:05d}-0123456789abcdef.parquet"
            pq.write_table(table, path, row_group_size=3)
    (root / "README.md").write_text("# ImageNet\n")
    return root


def write_webdataset(root: Path) -> Path:
    root.mkdir(parents=True)
    for split, photos, count in (("train", random.Random(4).sample(TRAIN, len(TRAIN)), 3), ("validation", VAL, 2)):
        for number in range(count):
            files: list[tuple[str, bytes]] = []
            for photo in photos[number::count]:
                files += [
                    (f"{photo.stem}.cls", str(photo.label).encode()),
                    (f"{photo.stem}.jpg", photo.content),
                    (f"{photo.stem}.json", json.dumps({"filename": photo.file}).encode()),
                ]
            (root / f"imagenet1k-{split}-{number:04d}.tar").write_bytes(_tar(files))
    return root


LAYOUTS = {
    "official": write_official,
    "folder": write_folder,
    "kaggle": write_kaggle,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
}
