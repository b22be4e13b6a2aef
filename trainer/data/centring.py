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
        # One pass a term; permuting first makes the result's memory come out in the wanted order.
        centred = torch.empty((len(images), 3, *images.shape[1:3]), device=images.device, memory_format=self._format)
        torch.sub(images.permute(0, 3, 1, 2), self._means[images.device].permute(2, 0, 1), out=centred)
        if shifts is not None:
            centred += shifts[:, :, None, None]
        if divisor != 1.0:
            centred /= divisor
        return centred
