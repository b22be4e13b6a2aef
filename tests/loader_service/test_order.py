"""The epoch order: a permutation, pinned for good."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader_service.pipeline.order import epoch_order


def test_golden() -> None:
    """Another order is another pipeline: change these values only together with PIPELINE_VERSION."""
    assert epoch_order(10, 0, 0).tolist() == [2, 3, 5, 7, 0, 6, 1, 4, 9, 8]
    assert epoch_order(10, 0, 1).tolist() == [3, 7, 2, 9, 6, 4, 8, 5, 0, 1]
    imagenet = epoch_order(1_281_167, 7, 3)
    assert imagenet[:6].tolist() == [750782, 837093, 453283, 1072741, 323506, 631955]
    assert (
        hashlib.sha256(imagenet.astype("<i8").tobytes()).hexdigest()
        == "f03f03f6948721007d8e36e0d3047a2e79a96877ec2a7ee9a759acef72bb5288"
    )


@given(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_is_a_permutation(num_images: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(num_images, seed, epoch).tolist()) == list(range(num_images))


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_place_is_equally_likely() -> None:
    """Chi-squared over which of 8 images comes first, 4,000 epochs: 7 degrees of freedom, p = 1e-9 is 56."""
    first = np.array([epoch_order(8, 1, epoch)[0] for epoch in range(4000)])
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500.0) ** 2 / 500.0).sum() < 56


def test_too_many_images() -> None:
    with pytest.raises(ValueError, match="at most"):
        epoch_order(1 << 41, 0, 0)
