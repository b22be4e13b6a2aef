"""Statistics are exact, mergeable in any order, and what plain NumPy and LAPACK compute."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.images.statistics import StatisticsAccumulator, finish
from preprocess.store.sidecar import PartialStatistics


def _accumulate(images: npt.NDArray[np.uint8]) -> PartialStatistics:
    accumulator = StatisticsAccumulator(images.shape[-1])
    for image in images:
        accumulator.add(list(image))
    return accumulator.result()


def _oracle_products(images: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    flat = images.astype(np.int64).transpose(1, 0, 2, 3).reshape(3, -1)
    return tuple(int((flat[i] * flat[j]).sum()) for i in range(3) for j in range(i, 3))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8), side=st.integers(1, 40), split=st.integers(0, 8))
def test_sums_are_exact_and_parts_add_up(seed: int, count: int, side: int, split: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    whole = _accumulate(images)
    assert whole.num_images == count
    np.testing.assert_array_equal(whole.sum_image, images.sum(axis=0, dtype=np.uint64))
    assert whole.products == _oracle_products(images)
    parts = _accumulate(images[split:]) + _accumulate(images[:split])
    assert parts.products == whole.products
    np.testing.assert_array_equal(parts.sum_image, whole.sum_image)


def test_white_images_do_not_overflow() -> None:
    # The largest sums there can be, past the number of images that float32 can add up.
    accumulator = StatisticsAccumulator(2)
    white = np.full((3, 2, 2), 255, np.uint8)
    for _ in range(66_000):
        accumulator.add(list(white))
    result = accumulator.result()
    assert np.all(result.sum_image == 66_000 * 255)
    assert result.products == (66_000 * 4 * 255**2,) * 6


def test_white_blocks_are_exact() -> None:
    assert _accumulate(np.full((3, 3, 256, 256), 255, np.uint8)).products == (3 * 256 * 256 * 255**2,) * 6


def test_numpy_without_vecdot_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(5).integers(0, 256, (3, 3, 48, 48), dtype=np.uint8)
    expected = _accumulate(images).products
    monkeypatch.delattr(np, "vecdot", raising=False)
    assert _accumulate(images).products == expected == _oracle_products(images)


def test_a_result_can_be_taken_in_between() -> None:
    accumulator = StatisticsAccumulator(4)
    accumulator.add([np.full((4, 4), 7, np.uint8)] * 3)
    first = accumulator.result()
    accumulator.add([np.full((4, 4), 7, np.uint8)] * 3)
    assert first.num_images == 1
    assert np.all(first.sum_image == 7)
    assert accumulator.result().products == (2 * 16 * 49,) * 6


def test_finished_statistics_equal_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
    images[:, 1] = images[:, 0] // 2 + images[:, 1] // 4
    statistics = finish(_accumulate(images))
    pixels = images.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(statistics.covariance, np.cov(pixels.T, bias=True), rtol=1e-12)
    mean = images.astype(np.float64).mean(axis=0).transpose(1, 2, 0)
    np.testing.assert_array_equal(statistics.mean_image, mean.astype(np.float32))
    values, vectors = np.linalg.eigh(statistics.covariance)
    np.testing.assert_allclose(statistics.eigenvalues, values[::-1], rtol=1e-12)
    for j in range(3):
        ours, theirs = statistics.eigenvectors[:, j], vectors[:, 2 - j]
        assert ours[np.argmax(np.abs(ours))] > 0
        np.testing.assert_allclose(ours, theirs * np.sign(ours @ theirs), atol=1e-10)


@pytest.mark.parametrize("value", [0, 9])
def test_images_of_one_colour_have_no_spread(value: int) -> None:
    statistics = finish(_accumulate(np.full((2, 3, 8, 8), value, np.uint8)))
    assert np.all(statistics.covariance == 0)
    np.testing.assert_array_equal(statistics.eigenvalues, [0, 0, 0])
    np.testing.assert_array_equal(statistics.eigenvectors, np.eye(3))


def test_grey_images_have_one_axis() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8).repeat(3, axis=1)
    statistics = finish(_accumulate(grey))
    np.testing.assert_allclose(statistics.eigenvectors[:, 0], [3**-0.5] * 3, rtol=1e-12)
    np.testing.assert_allclose(statistics.eigenvalues[1:], 0, atol=1e-9)
