"""torch DataLoader over LMDB: decoded in worker processes with pillow-simd, or simplejpeg (--variant).

--variant resized: pillow-simd, with the windows of torchvision's RandomResizedCrop, cut and resized as that does it.
torchvision itself is left out: its wheels load beside one build of torch each.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.measure import BATCH_SIZE, CROP, SIDE, Run, Stream, main, num_stored, stored


def database(data: Path) -> Path:
    return data / "formats" / "torch.lmdb"


def prepare(data: Path, variant: str) -> None:
    path = database(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 40, lock=False, lib_version=0)
    with environment.begin(write=True) as transaction:
        for index, image in enumerate(stored(data)):
            transaction.put(b"%08d" % index, image, append=True)
    environment.close()


class Crops(Dataset):
    """A random crop, mirrored or not, of a stored image: uint8 [224, 224, 3]."""

    def __init__(self, data: Path, variant: str) -> None:
        self.path, self.variant, self.size = database(data), variant, num_stored(data)
        self.transaction = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.transaction is None:  # opened in the worker: LMDB must not be carried across a fork
            environment = lmdb.open(
                str(self.path), subdir=False, readonly=True, lock=False, readahead=False, lib_version=0
            )
            self.transaction = environment.begin(buffers=True)
        record = self.transaction.get(b"%08d" % index)
        top, left, mirror = torch.randint(0, SIDE - CROP + 1, (3,)).tolist()
        if self.variant == "simplejpeg":
            pixels = simplejpeg.decode_jpeg(record)[top : top + CROP, left : left + CROP]
            if mirror % 2:
                pixels = pixels[:, ::-1]
            pixels = np.ascontiguousarray(pixels)
        else:
            image = Image.open(io.BytesIO(record))
            if self.variant == "resized":
                image = image.crop(resized_window()).resize((CROP, CROP), Image.Resampling.BILINEAR)
            else:
                image = image.crop((left, top, left + CROP, top + CROP))
            if mirror % 2:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = np.array(image)
        return torch.from_numpy(pixels), index


def resized_window() -> tuple[int, int, int, int]:
    """Left, top, right and bottom: 0.08 to 1 of the area, 3/4 to 4/3 as wide as high; of ten tries the first that
    fits, or else the whole image."""
    for _ in range(10):
        area = SIDE**2 * torch.empty(1).uniform_(0.08, 1.0).item()
        ratio = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3)).item())
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if max(width, height) <= SIDE:
            top = torch.randint(0, SIDE - height + 1, (1,)).item()
            left = torch.randint(0, SIDE - width + 1, (1,)).item()
            return left, top, left + width, top + height
    return 0, 0, SIDE, SIDE


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    loader = DataLoader(
        Crops(run.data, run.variant),
        BATCH_SIZE,
        shuffle=True,
        num_workers=run.workers,
        drop_last=True,
        persistent_workers=True,
        prefetch_factor=3,
    )
    yield in_numpy(loader)


def in_numpy(loader: DataLoader) -> Stream:
    while True:
        for images, indices in loader:
            yield images.numpy(), indices.numpy()


if __name__ == "__main__":
    main(batches, prepare)
