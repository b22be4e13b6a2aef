"""Pixels to network input, on the device: mean subtracted, colour shift added, maps first."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.data.crops import centre_crop


class Centring:
    """Makes float [N, 3, crop, crop] of uint8 [N, crop, crop, 3] on each device of a network."""

    def __init__(
        self,
        mean_image: npt.NDArray[np.float32],
        crop: int,
        devices: Sequence[torch.device],
        *,
        channels_last: bool = False,
    ) -> None:
        mean = torch.from_numpy(centre_crop(mean_image, crop))
        self._means = {device: mean.to(device) for device in devices}
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def mean_on(self, device: torch.device) -> Tensor:
        """The mean image's centre, float32 [crop, crop, 3]."""
        return self._means[device]

    def __call__(self, images: Tensor, shifts: Tensor | None = None, divisor: float = 1.0) -> Tensor:
        """``(pixel - mean + shift) / divisor``.

        ``images`` is uint8 [N, crop, crop, 3] and ``shifts`` float [N, 3], both on one of the devices; the result is
        float32 there. ``divisor`` is 1 + the colour deviation in the 2012 recipe while it trains with noise.
        """
        # One pass a term, all in the same memory: fresh memory costs more than the arithmetic. A shift for every column
        # makes rows of one piece, where three values at a time would take three times as long.
        centred = self._empty(images)
        centred.copy_(images.permute(0, 3, 1, 2))
        centred -= self._means[images.device].permute(2, 0, 1)
        if shifts is not None:
            columns = shifts[:, :, None, None].expand(-1, -1, 1, images.shape[2])
            centred += columns.contiguous(memory_format=self._format)
        if divisor != 1.0:
            centred /= divisor
        return centred

    def _empty(self, images: Tensor) -> Tensor:
        """For float32 [N, 3, crop, crop] of ``images`` [N, crop, crop, 3], where they are."""
        shape = (len(images), 3, *images.shape[1:3])
        if images.device.type != "cpu":
            return torch.empty(shape, device=images.device, memory_format=self._format)
        # NumPy asks the kernel for huge pages, which take a third of the time that torch's small ones do.
        if self._format == torch.channels_last:
            return torch.from_numpy(np.empty(tuple(images.shape), np.float32)).permute(0, 3, 1, 2)
        return torch.from_numpy(np.empty(shape, np.float32))
