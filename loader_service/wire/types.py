"""What a client asks for and what it gets: streams, ranges of their steps, batches, and what a replica serves."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

View = Literal["train", "centre", "ten_crop", "full", "resized_crop"]
ColourScale = Literal["sqrt_eigenvalue", "unit_eigenvalue"]
PixelFormat = Literal["uint8", "float32"]

DEFAULT_SCALE, DEFAULT_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Those of Szegedy et al. 2015 (section 6), and of torchvision."""
NUM_TEN_CROPS = 10
"""Four corners, the centre, and the mirror images of these five (paper, section 4.1)."""

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Which stream of images is wanted. Two clients with the same spec and position get the same bytes."""

    split: str = "train"
    view: View = "train"
    crop_size: int | None = None
    """Side of a crop in pixels; None asks for 7/8 of the stored side (224 of 256)."""
    shuffle: bool = True
    """True: the epoch's permutation, from the seed; False: stored order."""
    seed: int = 0
    batch_size: int = 128
    """Images of one step over all trainers."""
    rank: int = 0
    world_size: int = 1
    """This client gets positions [rank * B // W, (rank + 1) * B // W) of each step of B images."""
    drop_last: bool = True
    """True: an epoch has num_images // batch_size steps; False: one more, short, when that leaves a remainder."""
    colour_std: float = 0.1
    """Standard deviation of the colour draw; 0 turns it off."""
    colour_scale: ColourScale = "sqrt_eigenvalue"
    pixel_format: PixelFormat = "uint8"
    scale: tuple[float, float] = DEFAULT_SCALE
    """For ``resized_crop``: least and most area of the window that is resized, as part of the image's."""
    ratio: tuple[float, float] = DEFAULT_RATIO
    """For ``resized_crop``: least and most of the window's width by its height."""
    mirror: bool = True
    """Whether the views that draw (``train``, ``resized_crop``) mirror half of the crops."""

    def __post_init__(self) -> None:
        for name, least, most in (("scale", 0.0, 1.0), ("ratio", 0.01, 100.0)):
            found = getattr(self, name)
            if len(found) != 2 or not least <= found[0] <= found[1] <= most or not found[0]:
                within = f"{least:g} to {most:g}" if least else f"more than 0 to {most:g}"
                raise ValueError(f"{name}: expected two numbers, the least and the most, of {within}, found {found}")
        for name, kind in (("view", View), ("colour_scale", ColourScale), ("pixel_format", PixelFormat)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(kind))}, found {getattr(self, name)!r}")
        _check_whole("seed", self.seed, 0, 2**64 - 1)
        _check_whole("batch_size", self.batch_size, 1, 2**32 - 1)
        if self.crop_size is not None:
            _check_whole("crop_size", self.crop_size, 1, 2**32 - 1)
        _check_whole("rank", self.rank, 0, 2**32 - 1)
        _check_whole("world_size", self.world_size, 1, 2**32 - 1)
        if not 0 <= self.colour_std < math.inf:
            raise ValueError(f"colour_std: expected 0 or more, found {self.colour_std}")
        if self.rank >= self.world_size:
            raise ValueError(f"rank: expected 0 to world_size - 1 = {self.world_size - 1}, found {self.rank}")
        if self.world_size > self.batch_size:
            raise ValueError(f"world_size: expected at most batch_size = {self.batch_size}, found {self.world_size}")

    def whole(self) -> "StreamSpec":
        """The stream without this client's share of it, without what its view does not look at, and with its last,
        short step: what the wire names."""
        scale, ratio = (self.scale, self.ratio) if self.is_resized else (DEFAULT_SCALE, DEFAULT_RATIO)
        return replace(self, rank=0, world_size=1, drop_last=False, scale=scale, ratio=ratio)

    @property
    def is_resized(self) -> bool:
        return self.view == "resized_crop"

    def steps(self, first_step: int, last_step: int, *, epoch: int) -> "StepRange":
        """This client's share of steps [first_step, last_step) of ``epoch``."""
        begin, end = self.slice
        return StepRange(
            spec=self.whole(),
            epoch=epoch,
            first_step=first_step,
            last_step=last_step,
            slice_begin=begin,
            slice_end=end,
        )

    def cropped(self, image_side: int) -> "StreamSpec":
        """The stream with the size that its crops have, from a store of images of that side."""
        crop_size = image_side if self.view == "full" else self.crop_size or image_side * 7 // 8
        return replace(self, crop_size=crop_size)

    def step_bytes(self, image_side: int) -> int:
        """Bytes of the images of one step of this client's share, from a store of images of that side."""
        return self.cropped(image_side).steps(0, 1, epoch=0).slice_bytes

    @property
    def slice(self) -> tuple[int, int]:
        """Positions [begin, end) of each step that this client gets."""
        return (
            self.rank * self.batch_size // self.world_size,
            (self.rank + 1) * self.batch_size // self.world_size,
        )

    @property
    def num_crops(self) -> int:
        """Crops of each image."""
        return NUM_TEN_CROPS if self.view == "ten_crop" else 1

    def num_steps(self, num_images: int) -> int:
        """Steps of one epoch over ``num_images`` images."""
        full, rest = divmod(num_images, self.batch_size)
        return full if self.drop_last or not rest else full + 1


def check_epoch(epoch: int) -> None:
    """Raises ValueError for what is no epoch's number."""
    _check_whole("epoch", epoch, 0, 2**32 - 1)


def _check_whole(name: str, found: int, least: int, most: int) -> None:
    if not isinstance(found, int | np.integer) or not least <= found <= most:
        raise ValueError(f"{name}: expected a whole number from {least} to {most}, found {found!r}")


@dataclass(frozen=True, kw_only=True)
class StepRange:
    """Steps [first_step, last_step) of one epoch of a stream, and positions [slice_begin, slice_end) of each."""

    spec: StreamSpec
    """The stream as all of its clients see it: ``spec.whole()``."""
    epoch: int
    first_step: int
    last_step: int
    slice_begin: int
    slice_end: int

    @property
    def crop_size(self) -> int:
        """Side of a crop in pixels, once the store that it is cut from is known."""
        assert self.spec.crop_size is not None
        return self.spec.crop_size

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's crops as they are sent."""
        return self.spec.num_crops * self.crop_size * self.crop_size * 3 * np.dtype(self.spec.pixel_format).itemsize

    @property
    def slice_bytes(self) -> int:
        """Bytes of the images of one step."""
        return (self.slice_end - self.slice_begin) * self.image_bytes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's images (this client's slice of them). The arrays belong to whoever holds the batch."""

    epoch: int
    step: int
    images: Images
    """uint8 or float32 [N, H, W, 3], or [N, 10, H, W, 3] for ten crops; RGB, range 0..255 (uint8)."""
    labels: npt.NDArray[np.int64]
    """int64 [N]"""
    indices: npt.NDArray[np.int64]
    """int64 [N]: index in the split."""
    colour_shifts: npt.NDArray[np.float32]
    """float32 [N, 3], RGB, on 0..255: to be added to every pixel of the image after the mean is subtracted."""

    @property
    def num_images(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask of a replica, as it describes itself; its fields are those of loader.proto."""

    max_batch_size: int
    max_steps: int
    message_bytes: int
    max_streams_per_identity: int
    max_streams: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a replica serves, and everything a trainer needs besides batches."""

    fingerprint: str
    pipeline_version: str
    splits: dict[str, int]
    """Number of images by split."""
    classes: tuple[tuple[str, str], ...]
    """(id, human-readable name) by label."""
    image_side: int
    mean_image: npt.NDArray[np.float32]
    """float32 [side, side, 3], RGB, 0..255."""
    eigenvalues: npt.NDArray[np.float64]
    """float64 [3] of the RGB covariance on 0..255, largest first."""
    eigenvectors: npt.NDArray[np.float64]
    """float64 [3, 3]: column j belongs to eigenvalue j."""
    limits: Limits
    cpu_s: float
    """User and system time of the replica's process when it answered."""
    shared_memory_socket: str
    """Where a client on the same machine gets shared memory; empty: nowhere."""
    resize_version: str
    """What its view ``resized_crop`` has beyond the pipeline's version; empty: it has no such view."""

    def __post_init__(self) -> None:
        """Raises ValueError for what describes no service that images could be asked of."""
        for name, array, shape in (
            ("mean_image", self.mean_image, (self.image_side, self.image_side, 3)),
            ("eigenvalues", self.eigenvalues, (3,)),
            ("eigenvectors", self.eigenvectors, (3, 3)),
        ):
            if array.shape != shape:
                raise ValueError(f"{name}: expected numbers {list(shape)}, found {list(array.shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite numbers, found others")
        for name, found in (
            ("fingerprint", self.fingerprint),
            ("pipeline_version", self.pipeline_version),
            ("image_side", self.image_side),
            ("classes", self.classes),
            ("max_batch_size", self.limits.max_batch_size),
            ("max_steps", self.limits.max_steps),
        ):
            if not found:
                raise ValueError(f"{name}: expected some, found none")

    def version_for(self, view: View) -> str:
        """Version of all that makes the bytes of a view."""
        return f"{self.pipeline_version}.{self.resize_version}" if view == "resized_crop" else self.pipeline_version
