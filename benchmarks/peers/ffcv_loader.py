"""FFCV: a beton file of the stored JPEGs' own bytes (or of raw pixels: --variant raw), random crop, mirror; in-process.

FFCV has random crops with resizing only (--variant jpeg-resized). A crop of the output's own size is its
RandomResizedCrop decoder with another function to draw the window: the resize is then a copy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.rgb_image import (
    IMAGE_MODES,
    RandomResizedCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
)
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers.measure import BATCH_SIZE, CROP, SIDE, Run, Stream, main, stored


class StoredBytes(RGBImageField):
    """Takes a JPEG's bytes as they are, where FFCV would encode anew."""

    def encode(self, destination, image, malloc):
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"], destination["width"] = SIDE, SIDE
        destination["data_ptr"], storage = malloc(len(image))
        storage[:] = np.frombuffer(image, np.uint8)


class Images:
    """(image, index) by index, as the writer's processes ask for them."""

    def __init__(self, images: list[bytes], raw: bool) -> None:
        self.images, self.raw = images, raw

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = self.images[index]
        if not self.raw:
            return image, index
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), index


def beton(data: Path, variant: str) -> Path:
    return data / "formats" / f"ffcv-{variant.partition('-')[0]}.beton"


def prepare(data: Path, variant: str) -> None:
    raw = variant == "raw"
    beton(data, variant).parent.mkdir(parents=True, exist_ok=True)
    field = RGBImageField(write_mode="raw") if raw else StoredBytes()
    writer = DatasetWriter(str(beton(data, variant)), {"image": field, "index": IntField()}, num_workers=2)
    writer.from_indexed_dataset(Images(list(stored(data)), raw))


def random_window(height, width, scale, ratio):
    return np.random.randint(0, height - CROP + 1), np.random.randint(0, width - CROP + 1), CROP, CROP


class RandomCropDecoder(ResizedCropRGBImageDecoder):
    scale = (1.0, 1.0)
    ratio = (1.0, 1.0)

    @property
    def get_crop_generator(self):
        return random_window


@contextmanager
def batches(run: Run) -> Iterator[Stream]:
    decoder = RandomResizedCropRGBImageDecoder if run.variant.endswith("-resized") else RandomCropDecoder
    loader = Loader(
        str(beton(run.data, run.variant)),
        batch_size=BATCH_SIZE,
        num_workers=run.workers,
        os_cache=True,
        custom_fields={} if run.variant == "raw" else {"image": StoredBytes},
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines={
            "image": [decoder((CROP, CROP)), RandomHorizontalFlip(), ToTensor()],
            "index": [IntDecoder(), ToTensor()],
        },
    )
    yield in_numpy(loader)


def in_numpy(loader: Loader) -> Stream:
    while True:
        for images, indices in loader:
            yield images.numpy(), indices.numpy()[:, 0]


if __name__ == "__main__":
    main(batches, prepare)
