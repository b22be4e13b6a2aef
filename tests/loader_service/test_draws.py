"""The draws: pinned bits, right distributions."""

import hashlib
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest

from loader_service.pipeline.draws import colour_scales, colour_shifts, draw, normal_quantile, philox4x32_rounds


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    """The known answers of Random123, the generator's reference implementation."""
    words = philox4x32_rounds([np.array([c], np.uint64) for c in counter], *key)
    assert [int(word[0]) for word in words] == expected


def test_golden() -> None:
    """Another draw is another pipeline: change these values only together with PIPELINE_VERSION."""
    draws = draw(np.array([0, 1, 2, 1_281_166]), seed=0, epoch=0, side=256, crop_size=224)
    assert draws.tops.tolist() == [13, 32, 0, 3]
    assert draws.lefts.tolist() == [29, 11, 10, 5]
    assert draws.mirrors.tolist() == [True, True, False, True]
    assert [a.hex() for a in draws.alphas[0].tolist()] == [
        "-0x1.d6c179dadc27fp-1",
        "-0x1.6fec358e0d276p+0",
        "0x1.219fd074877e8p+1",
    ]
    many = draw(np.arange(100_000), seed=2**63 + 5, epoch=90, side=256, crop_size=224)
    digest = hashlib.sha256()
    for array in (many.tops, many.lefts, many.mirrors, many.alphas):
        digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == "b20be903bcf7fa493cd584aba28603524c3759ed80793a1a14a445b3e05ccbda"


def test_depend_on_the_index_alone() -> None:
    together = draw(np.arange(64), seed=9, epoch=4, side=64, crop_size=56)
    alone = draw(np.array([37]), seed=9, epoch=4, side=64, crop_size=56)
    assert together.tops[37] == alone.tops[0]
    assert (together.alphas[37] == alone.alphas[0]).all()


def chi_squared(counts: npt.NDArray[np.int64]) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_distributions() -> None:
    """Deterministic, so it cannot flake; the bounds are those of p = 1e-9 for fair draws."""
    n = 330_000
    draws = draw(np.arange(n), seed=1, epoch=2, side=256, crop_size=224)
    for offsets in (draws.tops, draws.lefts):
        assert offsets.min() == 0
        assert offsets.max() == 32
        assert chi_squared(np.bincount(offsets)) < 107  # 32 degrees of freedom
    joint = np.bincount(draws.tops * 33 + draws.lefts, minlength=33 * 33)
    assert chi_squared(joint) < 1400  # 1,088 degrees of freedom
    assert abs(draws.mirrors.mean() - 0.5) < 6.1 * 0.5 / n**0.5
    assert np.abs(draws.alphas.mean(0)).max() < 6.1 / n**0.5
    assert np.abs(draws.alphas.std(0) - 1).max() < 6.1 / (2 * n) ** 0.5
    assert np.abs(np.corrcoef(draws.alphas.T) - np.eye(3)).max() < 6.1 / n**0.5
    assert np.abs((draws.alphas**4).mean(0) - 3).max() < 6.1 * (96 / n) ** 0.5


def test_normal_quantile_against_the_standard_library() -> None:
    probabilities = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 10_001), [0.5 * 2**-32, 1 - 0.5 * 2**-32]])
    expected = [NormalDist().inv_cdf(p) for p in probabilities.tolist()]
    np.testing.assert_allclose(normal_quantile(probabilities), expected, rtol=0, atol=1e-14)


def test_colour_shift_is_the_papers_formula() -> None:
    generator = np.random.default_rng(0)
    alphas = generator.normal(size=(20, 3))
    eigenvalues = np.array([14830.0, 1375.0, 389.0])
    vectors = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    for unit, scales in ((False, eigenvalues**0.5), (True, eigenvalues / 255**2 * 255)):
        shifts = colour_shifts(alphas, colour_scales(eigenvalues, unit=unit), vectors, 0.1)
        for a, shift in zip(alphas, shifts, strict=True):
            np.testing.assert_allclose(shift, vectors @ (0.1 * a * scales), rtol=1e-5)
