"""For any PyTorch code: the service behind what looks like a DataLoader.

    loader = RemoteLoader("10.0.0.1:7000", split="train", batch_size=128, seed=1)
    for epoch in range(90):
        loader.set_epoch(epoch)
        for images, labels in loader:
            ...

Batches come decoded, cropped and mirrored from the service: no worker processes, no shared memory, nothing to fork.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from loader_service.client import ClientOptions, LoaderClient
from loader_service.wire import Batch, PixelFormat, StreamSpec, View

Transform = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class RemoteLoader:
    """Iterates over one epoch at a time: ``(images, labels)``, the labels int64 [N].

    Images are float32 [N, 3, H, W] (``pixel_format="float32"``, the default: centred on the mean image, with the colour
    shift of the train view added) or uint8 [N, 3, H, W] as stored; both channels_last in memory. ``ten_crop`` gives
    [N, 10, 3, H, W].

    ``rank`` and ``world_size`` default to torch.distributed's, if it is initialised, and then to torchrun's
    environment; ``batch_size`` is this process's own, as in a DataLoader. Use ``set_epoch`` as with a
    DistributedSampler. ``state_dict`` gives the position; after ``load_state_dict`` the next iteration starts there.
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
        pixel_format: PixelFormat = "float32",
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
            pixel_format=pixel_format,
        )
        self._client = LoaderClient(target.split(","), options)
        self._allocate = _pinned if pin_memory else None
        self._transform = transform
        self._epoch = 0
        self._step = 0

    @property
    def num_classes(self) -> int:
        return len(self._client.describe().classes)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.spec.num_steps(self._client.describe().splits[self.spec.split])

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch, first_step = self._epoch, self._step
        if first_step >= len(self):
            self._epoch, self._step = epoch + 1, 0
            return
        with self._client.stream(self.spec, epoch=epoch, step=first_step, allocate=self._allocate) as stream:
            for batch in stream:
                # The position is that of the batch after the one being handed out: what a checkpoint must hold.
                self._step = batch.step + 1
                yield self._tensors(batch)
        self._epoch, self._step = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration. Setting the present one keeps a position that was loaded."""
        if epoch != self._epoch:
            self._epoch, self._step = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        description = self._client.describe()
        return {
            "epoch": self._epoch,
            "step": self._step,
            "split": self.spec.split,
            "shuffle": self.spec.shuffle,
            "seed": self.spec.seed,
            "global_batch_size": self.spec.batch_size,
            "fingerprint": description.fingerprint,
            "pipeline_version": description.pipeline_version,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a position. Raises ValueError when it is one in another stream, naming what differs."""
        here = self.state_dict()
        if missing := here.keys() - state.keys():
            raise ValueError(f"expected the state of a RemoteLoader, found one without {', '.join(sorted(missing))}")
        for name in here.keys() - {"epoch", "step"}:
            if state[name] != here[name]:
                raise ValueError(f"{name}: the state has {state[name]!r}, this loader {here[name]!r}")
        self._epoch, self._step = int(state["epoch"]), int(state["step"])

    def close(self) -> None:
        """Ends the stream that is open, if any."""
        self._client.close()

    def _tensors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(batch.images).movedim(-1, -3)
        labels = torch.from_numpy(batch.labels)
        if self._transform is not None:
            return self._transform(images, labels)
        return images, labels


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is not None and world_size is not None:
        return rank, world_size
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array in page-locked memory, which a GPU copies from without waiting."""
    kind = torch.float32 if np.dtype(dtype) == np.float32 else torch.uint8
    return torch.empty(shape, dtype=kind, pin_memory=True).numpy()
