"""The draws of an image: crop offsets, mirror and colour shift, from (seed, epoch, index) alone.

Bits come from Philox4x32-10 (Salmon et al. 2011), vectorised over a batch: the seed is the key, and the counter is
(index low, index high, epoch, lane). They become numbers by integer arithmetic and by IEEE 754 operations that
are correctly rounded everywhere (+, -, *, /, sqrt), so every machine draws the same, bit for bit. Changing any of
this changes PIPELINE_VERSION, the golden tests and the CHANGELOG together.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PIPELINE_VERSION = 1

Float64 = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]

_LANE_GEOMETRY = 0
_LANE_COLOUR = 1

# Philox4x32-10's multipliers and Weyl constants (Salmon et al. 2011, section 3).
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn for N images."""

    tops: npt.NDArray[np.int64]
    """int64 [N]: first row of the crop, uniform over 0..side - crop."""
    lefts: npt.NDArray[np.int64]
    """int64 [N]: first column of the crop, likewise."""
    mirrors: npt.NDArray[np.bool_]
    """bool [N]: whether the crop is mirrored left to right."""
    alphas: Float64
    """float64 [N, 3]: standard normal, one for each eigenvector."""


def draw(indices: npt.NDArray[np.int64], *, seed: int, epoch: int, side: int, crop_size: int) -> Draws:
    """The draws for the images ``indices`` (int64 [N]) of a store of ``side``-pixel images.

    Offsets take the high bits of a 32-bit word times their number: with 33 offsets no value is more likely than
    another by more than 1 in 10**8.
    """
    num_offsets = np.uint64(side - crop_size + 1)
    geometry = philox4x32(indices, seed=seed, epoch=epoch, lane=_LANE_GEOMETRY)
    colour = philox4x32(indices, seed=seed, epoch=epoch, lane=_LANE_COLOUR)
    uniforms = (colour[:3].T.astype(np.float64) + 0.5) * 2.0**-32
    return Draws(
        tops=((geometry[0] * num_offsets) >> _SHIFT32).astype(np.int64),
        lefts=((geometry[1] * num_offsets) >> _SHIFT32).astype(np.int64),
        mirrors=(geometry[2] >> np.uint64(31)).astype(np.bool_),
        alphas=normal_quantile(uniforms),
    )


def colour_shifts(alphas: Float64, scales: Float64, eigenvectors: Float64, std: float) -> npt.NDArray[np.float32]:
    """The paper's ``[p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T`` (section 4.1): float32 [N, 3], RGB, on 0..255.

    ``alphas`` [N, 3] are standard normal, ``std`` their deviation (0.1), ``scales`` [3] the l's, and column j of
    ``eigenvectors`` [3, 3] is p_j. Written out term by term: a matrix product may fuse or reorder.
    """
    weights = alphas * std * scales
    terms = [weights[:, j, None] * eigenvectors[None, :, j] for j in range(3)]
    return ((terms[0] + terms[1]) + terms[2]).astype(np.float32)


def colour_scales(eigenvalues: Float64, *, unit: bool) -> Float64:
    """The l's of the colour shift, from the eigenvalues on 0..255.

    The standard deviation (the authors' code), or, with ``unit``, the eigenvalue of pixels on 0..1 brought back
    to 0..255: ``l / 255**2 * 255``.
    """
    return eigenvalues / 255.0 if unit else np.sqrt(eigenvalues)


def philox4x32(indices: npt.NDArray[np.int64], *, seed: int, epoch: int, lane: int) -> UInt64:
    """Four 32-bit words for each index: uint64 [4, N], range [0, 2**32)."""
    wide = indices.astype(np.uint64)
    counter = [wide & _LOW32, wide >> _SHIFT32, np.full_like(wide, epoch), np.full_like(wide, lane)]
    return np.stack(philox4x32_rounds(counter, seed & 0xFFFFFFFF, seed >> 32))


def philox4x32_rounds(counter: list[UInt64], key0: int, key1: int) -> list[UInt64]:
    """Philox4x32-10 on four arrays of 32-bit counter words and a 64-bit key."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT32) ^ c1 ^ np.uint64(key0),
            product1 & _LOW32,
            (product0 >> _SHIFT32) ^ c3 ^ np.uint64(key1),
            product0 & _LOW32,
        )
        key0 = (key0 + _WEYL[0]) & 0xFFFFFFFF
        key1 = (key1 + _WEYL[1]) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


# Coefficients of Wichura's AS241 (PPND16), Applied Statistics 37 (1988): numerators and denominators of the central
# region, the near tail and the far tail, highest power first.
_CENTRAL = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_NEAR_TAIL = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
_FAR_TAIL = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)


def normal_quantile(probabilities: Float64) -> Float64:
    """The standard normal quantile of each probability in (0, 1), by AS241: about 16 digits.

    Takes its logarithm from :func:`log`, since the C library's differs between machines in the last bit.
    """
    q = probabilities - 0.5
    r = 0.180625 - q * q
    central = q * _rational(_CENTRAL, r)
    tail = np.sqrt(-log(np.where(q < 0.0, probabilities, 1.0 - probabilities)))
    tails = np.where(tail <= 5.0, _rational(_NEAR_TAIL, tail - 1.6), _rational(_FAR_TAIL, tail - 5.0))
    return np.where(np.abs(q) <= 0.425, central, np.where(q < 0.0, -tails, tails))


def _rational(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Float64) -> Float64:
    numerator = np.full_like(x, coefficients[0][0])
    denominator = np.full_like(x, coefficients[1][0])
    for a, b in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        numerator = numerator * x + a
        denominator = denominator * x + b
    return numerator / denominator


def log(x: Float64) -> Float64:
    """Natural logarithm of positive values by correctly rounded operations only: the same bits on every machine.

    ``x = m * 2**e`` with m in [sqrt(1/2), sqrt(2)), and ``log m = 2 atanh((m - 1) / (m + 1))`` as a series, whose
    14 terms reach double precision for such m.
    """
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.70710678118654752
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    exponent = np.where(small, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.zeros_like(s)
    for k in range(13, -1, -1):
        series = series * square + 1.0 / (2 * k + 1)
    return exponent * 0.6931471805599453 + 2.0 * s * series
