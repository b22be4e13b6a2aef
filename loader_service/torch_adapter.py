"""For any PyTorch code: the service behind what looks like a DataLoader.

    loader = RemoteLoader("10.0.0.1:7000", split="train", batch_size=128, seed=1)
    for epoch in range(90):
        loader.set_epoch(epoch)
        for images, labels in loader:
            ...

Batches come decoded, cropped and mirrored from the service, so no worker processes are needed. Where a program has them
anyway, ``DataLoader(loader, batch_size=None, num_workers=4)`` gives the same batches in the same order: each worker
receives every fourth.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from loader_service.client import Batch, ClientOptions, LoaderClient, PixelFormat, StreamSpec, View
from loader_service.client.array_pool import ArrayPool
from loader_service.wire.types import DEFAULT_RATIO, DEFAULT_SCALE, check_epoch

_NUM_FINISHED = 3
"""Arrays of finished images that are kept: what a consumer has, what it had before, and the next."""

Transform = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Finish(torch.nn.Module):
    """uint8 images to what a network takes: ``pixel - mean + shift``, float32, bit for bit what the service would send.

    For those who ask for uint8 (``pixel_format="uint8"``, or a ``LoaderClient``), and may want to compile it. The mean
    is the centre ``crop_size x crop_size`` of ``mean_image`` [side, side, 3], RGB, for every crop.
    """

    mean: torch.Tensor

    def __init__(self, mean_image: npt.NDArray[np.float32], crop_size: int) -> None:
        super().__init__()
        begin = (len(mean_image) - crop_size) // 2
        crop = mean_image[begin : begin + crop_size, begin : begin + crop_size].copy()
        self.register_buffer("mean", torch.from_numpy(crop).movedim(-1, 0), persistent=False)

    def forward(
        self, images: torch.Tensor, colour_shifts: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``images`` uint8 [N, 3, H, W] or [N, 10, 3, H, W], ``colour_shifts`` float32 [N, 3]; of the images' shape, in
        ``out`` (float32) if it is given.
        """
        # One pass a term, all in the same memory: fresh memory costs more than the arithmetic. A shift for every column
        # makes rows of one piece, where three values at a time would take three times as long.
        finished = torch.empty_like(images, dtype=torch.float32) if out is None else out
        finished.copy_(images)
        finished -= self.mean
        shifts = colour_shifts.reshape(len(images), *[1] * (images.dim() - 2), 3)
        finished += shifts.expand(*shifts.shape[:-2], images.shape[-1], 3).contiguous().movedim(-1, -3)
        return finished


class _Position(NamedTuple):
    epoch: int
    step: int


class RemoteLoader(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Iterates over one epoch at a time: ``(images, labels)``, the labels int64 [N].

    Images are float32 [N, 3, H, W], centred on the mean image, with the colour shift of the train view added. They are
    sent as uint8, a quarter of the bytes, and finished here, on ``device`` (default: the CPU), where labels are copied
    too. ``pixel_format="float32"`` has the service finish them, to the same values; ``"uint8"`` leaves them as stored.
    All are channels_last in memory. ``ten_crop`` gives [N, 10, 3, H, W].

    ``rank`` and ``world_size`` go together and default to torch.distributed's, if it is initialised, and then to
    torchrun's environment; ``batch_size`` is this process's own, as in a DataLoader. Each iteration is of the next
    epoch from its start, also when the one before was broken off; ``set_epoch`` chooses, as with a DistributedSampler.
    An iteration begins at its first ``next``: ``iter`` alone, with which frameworks look, moves nothing.

    ``state_dict`` gives the position of the iteration that began last; after ``load_state_dict`` the next one starts
    there. After an epoch's last batch that is the epoch's end, from which an iteration goes on with the next epoch;
    unless ``set_epoch`` names the epoch that has ended, of which nothing is left: it is empty then.

    It can be pickled and carried across a fork; its iterations cannot. Raises ValueError for options out of range.
    """

    def __init__(
        self,
        target: str,
        *,
        split: str = "train",
        view: View | None = None,
        batch_size: int = 128,
        crop_size: int | None = None,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_last: bool | None = None,
        colour_std: float = 0.1,
        scale: tuple[float, float] = DEFAULT_SCALE,
        ratio: tuple[float, float] = DEFAULT_RATIO,
        mirror: bool = True,
        pixel_format: PixelFormat | None = None,
        device: torch.device | str | None = None,
        pin_memory: bool = False,
        transform: Transform | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        is_training = split == "train"
        rank, world_size = _place(rank, world_size)
        self.spec = StreamSpec(
            split=split,
            view=view or ("train" if is_training else "centre"),
            crop_size=crop_size,
            shuffle=is_training if shuffle is None else shuffle,
            seed=seed,
            batch_size=batch_size * world_size,
            rank=rank,
            world_size=world_size,
            drop_last=is_training if drop_last is None else drop_last,
            colour_std=colour_std,
            scale=scale,
            ratio=ratio,
            mirror=mirror,
            pixel_format=pixel_format or "uint8",
        )
        self._is_finished_here = pixel_format is None
        self._finish: Finish | None = None
        """Made when the mean image is known."""
        self._finished_arrays = ArrayPool(lambda: _NUM_FINISHED)
        self._process = os.getpid()
        self._device = None if device is None else torch.device(device)
        self.batch_size = batch_size
        self._connect = target.split(","), options
        self._client = LoaderClient(*self._connect)
        if pin_memory and not torch.cuda.is_available():
            warnings.warn("pin_memory: expected a GPU, found none: batches come in ordinary memory", stacklevel=2)
        self._allocate = pinned_array if pin_memory and torch.cuda.is_available() else None
        self._transform = transform
        self._next = _Position(0, 0)
        """Where the next iteration starts."""
        self._is_epoch_told = False
        """Whether ``set_epoch`` has named the epoch of the next iteration."""
        self._reached = self._next
        """The batch after the one that was handed out last, which is what a checkpoint must hold."""
        self._latest: object = None
        """Stands for the iteration that began last."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict.fromkeys(("_client", "_latest", "_finish", "_finished_arrays"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._finished_arrays = ArrayPool(lambda: _NUM_FINISHED)
        self._client = LoaderClient(*self._connect)

    @property
    def dataset(self) -> Any:
        """There is none, as ``hasattr`` says too; frameworks that insist show the advice."""
        raise AttributeError(
            "a RemoteLoader has no dataset, its service has. It needs no preparing; to skip batches: "
            "load_state_dict({**state_dict(), 'epoch': E, 'step': K})"
        )

    @property
    def sampler(self) -> "RemoteLoader":
        """Itself: frameworks look for ``loader.sampler.set_epoch``."""
        return self

    batch_sampler = None
    """As of a DataLoader without one; frameworks look for it beside ``sampler``."""

    @property
    def num_classes(self) -> int:
        return len(self._client.describe().classes)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._client.num_steps(self.spec)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        start, num_steps = self._next, len(self)  # a generator: at the first ``next``
        if start.step >= num_steps and not self._is_epoch_told:
            start = _Position(start.epoch + 1, 0)
        this = self._latest = object()
        self._reached, self._next, self._is_epoch_told = start, _Position(start.epoch + 1, 0), False
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = start.step + number
        if first < num_steps:
            # This worker's batches, one of ``count``, are a slice of steps ``count`` times as large.
            spec = self.spec
            if count > 1:
                rank = first % count * spec.world_size + spec.rank
                spec = replace(
                    spec,
                    batch_size=count * spec.batch_size,
                    rank=rank,
                    world_size=count * spec.world_size,
                    drop_last=False,
                )
            allocate = self._allocate if worker is None else None
            with self._client.stream(spec, epoch=start.epoch, step=first // count, allocate=allocate) as stream:
                for batch in stream:
                    step = batch.step * count + first % count
                    if step >= num_steps:
                        break
                    if self._latest is this:
                        self._reached = _Position(start.epoch, step + 1)
                    yield self._tensors(batch)
        if self._latest is this and self._reached == (start.epoch, num_steps):  # not when it was closed in between
            self._reached = _Position(start.epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the next iteration's epoch. Setting the one that comes anyway keeps a position that was loaded."""
        check_epoch(epoch)
        if epoch != self._next.epoch:
            self._next = _Position(epoch, 0)
        self._reached, self._is_epoch_told = self._next, True

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        description, spec = self._client.describe(), self.spec
        return {
            "epoch": self._reached.epoch,
            "step": self._reached.step,
            "split": spec.split,
            "view": spec.view,
            "crop_size": spec.crop_size,
            "shuffle": spec.shuffle,
            "seed": spec.seed,
            "global_batch_size": spec.batch_size,
            "drop_last": spec.drop_last,
            "colour_std": spec.colour_std,
            "scale": list(spec.scale),
            "ratio": list(spec.ratio),
            "mirror": spec.mirror,
            "pixel_format": "float32" if self._is_finished_here else spec.pixel_format,
            "fingerprint": description.fingerprint,
            "pipeline_version": description.version_for(spec.view),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position. Raises ValueError when it is one in another stream, naming what differs."""
        here = self.state_dict()
        defaults: dict[str, Any] = {"scale": list(DEFAULT_SCALE), "ratio": list(DEFAULT_RATIO), "mirror": True}
        state = defaults | state  # older states lack them
        if missing := here.keys() - state.keys():
            raise ValueError(f"expected the state of a RemoteLoader, found one without {', '.join(sorted(missing))}")
        for name in here.keys() - {"epoch", "step"}:
            if state[name] != here[name]:
                raise ValueError(f"{name}: the state has {state[name]!r}, this loader {here[name]!r}")
        check_epoch(state["epoch"])
        if state["step"] not in range(len(self) + 1):
            raise ValueError(f"step: expected 0 to {len(self)}, found {state['step']}")
        self._next = self._reached = _Position(int(state["epoch"]), int(state["step"]))
        self._latest, self._is_epoch_told = None, False

    def close(self) -> None:
        """Ends the stream that is open, if any."""
        self._client.close()

    def _tensors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(batch.images).movedim(-1, -3)
        labels = torch.from_numpy(batch.labels)
        shifts = torch.from_numpy(batch.colour_shifts)
        if self._device is not None:
            images, labels, shifts = (each.to(self._device, non_blocking=True) for each in (images, labels, shifts))
        if self._is_finished_here:
            images = self._finished(images, shifts)
        if self._transform is not None:
            return self._transform(images, labels)
        return images, labels

    def _finished(self, images: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self._process:
            # Forked: torch would wait for ever for threads that its copy of the pool lacks. A DataLoader's workers do
            # the same.
            torch.set_num_threads(1)
            self._process = os.getpid()
        if self._finish is None:
            self._finish = Finish(self._client.describe().mean_image, images.shape[-1]).to(self._device)
        out = None
        if images.device.type == "cpu":
            pixels = images.movedim(-3, -1)
            out = torch.from_numpy(self._finished_arrays(tuple(pixels.shape), np.float32)).movedim(-1, -3)
        finished: torch.Tensor = self._finish(images, shifts, out)
        return finished


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size: expected both or neither, found {rank} and {world_size}")
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if (found[0] is None) != (found[1] is None):
        raise ValueError(f"RANK and WORLD_SIZE in the environment: expected both or neither, found {found}")
    return int(found[0] or 0), int(found[1] or 1)


def pinned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array in page-locked memory, which a GPU copies from without waiting."""
    kind = torch.float32 if np.dtype(dtype) == np.float32 else torch.uint8
    return torch.empty(shape, dtype=kind, pin_memory=True).numpy()
