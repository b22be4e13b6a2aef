"""Exact, mergeable statistics of uint8 images: mean image, RGB covariance and its eigenvectors. Pure.

All sums are whole numbers, so neither the order of the images nor their division among workers can change a bit of
the result. Products are summed in float32, where libraries are fastest, by blocks so short that no partial sum
reaches 2**24: below that float32 holds every whole number, whatever order the adder takes.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from preprocess.store.format import Statistics
from preprocess.store.sidecar import PartialStatistics

# 256 products of two bytes sum to at most 256 * 255**2 = 16,646,400 < 2**24.
_BLOCK = 256
# For as many images the sum of a pixel stays below 2**24 too.
_MAX_FLOAT_IMAGES = (2**24 - 1) // 255
# The upper triangle of the matrix of second moments: RR, RG, RB, GG, GB, BB.
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


class StatisticsAccumulator:
    """Adds up images of one size, one at a time."""

    def __init__(self, side: int) -> None:
        num_pixels = side * side
        num_blocks = math.ceil(num_pixels / _BLOCK)
        self._side = side
        self._num_images = 0
        self._sum = np.zeros((3, side, side), np.uint64)
        self._products = np.zeros(len(_PAIRS), np.int64)
        # Zeros past the last pixel fill the last block and add nothing.
        self._blocks = np.zeros((3, num_blocks, _BLOCK), np.float32)
        self._planes = self._blocks.reshape(3, -1)[:, :num_pixels]
        self._recent_sum = np.zeros((3, num_pixels), np.float32)

    def add(self, planes: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Adds one image: its red, green and blue, each uint8 [side, side]."""
        if self._num_images % _MAX_FLOAT_IMAGES == 0:
            self._flush()
        for channel in range(3):
            self._planes[channel] = planes[channel].reshape(-1)
        np.add(self._recent_sum, self._planes, out=self._recent_sum)
        self._num_images += 1
        for index, (i, j) in enumerate(_PAIRS):
            self._products[index] += _exact_dot(self._blocks[i], self._blocks[j])

    def result(self) -> PartialStatistics:
        """The sums so far."""
        self._flush()
        return PartialStatistics(
            num_images=self._num_images,
            sum_image=self._sum.copy(),
            products=tuple(int(product) for product in self._products),
        )

    def _flush(self) -> None:
        self._sum += self._recent_sum.reshape(3, self._side, self._side).astype(np.uint64)
        self._recent_sum[...] = 0


def _exact_dot(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> int:
    """The sum of products of two float32 [n, 256] arrays of whole numbers in 0..255, exactly."""
    # numpy 1.26 has no vecdot; einsum gives the same numbers a little later.
    blocks = np.vecdot(a, b) if hasattr(np, "vecdot") else np.einsum("nk,nk->n", a, b)
    return int(blocks.sum(dtype=np.float64))


def finish(partial: PartialStatistics) -> Statistics:
    """Mean image, covariance and eigenvectors from the sums; one rounding each, so the same on every machine."""
    assert partial.num_images > 0
    side = partial.sum_image.shape[1]
    num_pixels = partial.num_images * side * side
    channel_sums = [int(plane.sum()) for plane in partial.sum_image]
    covariance = np.empty((3, 3), np.float64)
    for product, (i, j) in zip(partial.products, _PAIRS, strict=True):
        # E[xy] - E[x]E[y] over whole numbers of any size; Python rounds the quotient once, correctly.
        numerator = num_pixels * product - channel_sums[i] * channel_sums[j]
        covariance[i, j] = covariance[j, i] = numerator / num_pixels**2
    eigenvalues, eigenvectors = _eigen(covariance)
    mean_image = (partial.sum_image / np.float64(partial.num_images)).astype(np.float32)
    return Statistics(
        num_images=partial.num_images,
        mean_image=np.ascontiguousarray(mean_image.transpose(1, 2, 0)),
        covariance=covariance,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
    )


def _eigen(covariance: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Eigenvalues [3], largest first, and eigenvectors [3, 3] in columns, by Jacobi's cyclic rotations.

    Not by LAPACK: its kernels differ in the last bit from one processor to the next, and these bytes are part of
    the store's fingerprint. Here there is nothing but IEEE additions, products, quotients and square roots.
    """
    a = [[float(value) for value in row] for row in covariance]
    vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    for _ in range(30):  # converges quadratically; 3x3 takes about five sweeps
        for p, q in ((0, 1), (0, 2), (1, 2)):
            if a[p][q] == 0.0:
                continue
            theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q])
            t = (1.0 if theta >= 0 else -1.0) / (abs(theta) + math.sqrt(theta * theta + 1.0))
            cosine = 1.0 / math.sqrt(t * t + 1.0)
            sine = t * cosine
            for k in range(3):
                a[k][p], a[k][q] = cosine * a[k][p] - sine * a[k][q], sine * a[k][p] + cosine * a[k][q]
            for k in range(3):
                a[p][k], a[q][k] = cosine * a[p][k] - sine * a[q][k], sine * a[p][k] + cosine * a[q][k]
            a[p][q] = a[q][p] = 0.0
            for row in vectors:
                row[p], row[q] = cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]
    order = sorted(range(3), key=lambda i: -a[i][i])
    columns = []
    for i in order:
        column = [row[i] for row in vectors]
        largest = max(column, key=abs)
        columns.append([-value if largest < 0 else value for value in column])
    return np.array([a[i][i] for i in order]), np.array(columns).T.copy()
