"""Pixels to input: the mean's centre crop, the shift after it, the 2012 division."""

import numpy as np
import pytest
import torch

from trainer.data.centring import Centring
from trainer.data.crops import centre_crop

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels_last", [False, True])
def test_mean_and_shift_are_exact(channels_last: bool) -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    images = rng.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    shifts = rng.normal(0, 10, (2, 3)).astype(np.float32)
    centring = Centring(mean, 6, [CPU], channels_last=channels_last)
    found = centring(torch.from_numpy(images), torch.from_numpy(shifts), 1.1)
    expected = (images.astype(np.float32) - mean[1:7, 1:7] + shifts[:, None, None, :]) / np.float32(1.1)
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_without_shift_or_division_the_centred_pixels_are_untouched() -> None:
    mean = np.zeros((4, 4, 3), np.float32)
    images = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    assert torch.equal(Centring(mean, 4, [CPU])(images), torch.full((1, 3, 4, 4), 255.0))


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at most the stored side 4"):
        centre_crop(np.zeros((4, 4, 3), np.float32), 5)
