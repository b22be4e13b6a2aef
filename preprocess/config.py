"""The options of each command, as frozen dataclasses validated once."""

from dataclasses import dataclass
from pathlib import Path

from commandline import check_options, option, required
from preprocess.images.limits import DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS
from preprocess.sources import Layout, SourceOptions
from preprocess.store.format import LARGEST_SIDE, SMALLEST_SIDE, Encoding, ImageSpec, Subsampling


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """``run``: a source to a store."""

    source: str = required("where the images are: a path, or an fsspec URL such as s3://bucket/folder")
    out: Path = required("the store to write; an unfinished one is carried on with")
    layout: Layout | None = option(None, "the form of the source (default: what is found there)")
    val_labels: str | None = option(
        None, "labels of a flat val: Kaggle's CSV, a name and a class a line, or a class a line by sorted name"
    )
    devkit: str | None = option(None, "ILSVRC2012_devkit_t12.tar.gz or its folder (default: look beside the images)")
    follow_links: bool = option(
        False, "read what links that leave the source lead to; without it such a link is refused"
    )
    encoding: Encoding = option(
        "jpeg",
        "jpeg: about 31 KB an image; yuv420: 98 KB and a fifth of the decoding in the loader; raw: 197 KB and none",
    )
    shorter_side: int = option(
        256,
        "pixels of the shorter side, and of the centre square that is kept: the loader serves squares of one size",
        least=SMALLEST_SIDE,
        most=LARGEST_SIDE,
    )
    quality: int = option(95, "JPEG quality", least=1, most=100)
    subsampling: Subsampling = option("4:2:0", "JPEG chroma subsampling")
    apply_exif: bool = option(False, "turn images as their EXIF orientation says; the original pipeline does not")
    images_per_shard: int = option(1024, "images in a shard, which is one Ray task", least=1)
    shuffle_seed: int = option(0, "seed of the shuffle that makes each shard a fair sample", least=0, most=2**63 - 1)
    max_bad_images: int = option(0, "images that may go to quarantine before the run fails", least=0)
    max_pixels: int = option(
        DEFAULT_MAX_PIXELS,
        "an image with more pixels goes to quarantine without being decoded",
        least=1,
        most=LARGEST_MAX_PIXELS,
    )
    workers: int | None = option(None, "processes of the local Ray (default: one for each processor)", least=1)
    ray_address: str | None = option(None, "a running Ray cluster (HOST:PORT or auto) instead of a local Ray")
    task_memory_bytes: int = option(
        512 << 20, "memory that Ray reserves for each task; one takes about 150 MB", least=1
    )
    json: bool = option(False, "print the report as JSON on stdout")

    def __post_init__(self) -> None:
        check_options(self)
        if self.encoding == "yuv420" and self.shorter_side % 2:
            raise ValueError(
                f"--shorter-side: expected an even number of pixels for --encoding yuv420, found {self.shorter_side}"
            )
        if self.workers is not None and self.ray_address is not None:
            raise ValueError("--workers: expected none with --ray-address, since the cluster's nodes decide")

    @property
    def image(self) -> ImageSpec:
        """How the images are to be made."""
        return ImageSpec(
            encoding=self.encoding,
            side=self.shorter_side,
            quality=self.quality,
            subsampling=self.subsampling,
            apply_exif=self.apply_exif,
        )

    @property
    def source_options(self) -> SourceOptions:
        return SourceOptions(val_labels=self.val_labels, devkit=self.devkit, follow_links=self.follow_links)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """``verify``: whether a store is what was written."""

    store: Path = required("the store", positional=True)
    all: bool = option(False, "decode every image rather than a sample of 64 a shard")
    workers: int | None = option(None, "processes (default: one for each processor)", least=1)
    json: bool = option(False, "print the result as JSON on stdout")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """``info``: what a store holds."""

    store: Path = required("the store", positional=True)
    contact_sheet: Path | None = option(None, "write a picture of images from it (PNG)", suffix=".png")
    mean_image: Path | None = option(None, "write the mean image (PNG)", suffix=".png")
    colour_plot: Path | None = option(
        None, "write a scatter plot of its colours with the three principal axes (PNG)", suffix=".png"
    )
    json: bool = option(False, "print everything as JSON on stdout")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """``sample``: a small data set drawn by code."""

    out: Path = required("folder to write; must not exist or be empty")
    classes: int = option(8, "number of classes", least=2, most=10)
    train_per_class: int = option(150, "training images of each class", least=1)
    val_per_class: int = option(25, "validation images of each class", least=1)
    seed: int = option(0, "the same seed draws the same files, byte for byte", least=0, most=2**64 - 1)

    def __post_init__(self) -> None:
        check_options(self)
