"""The fast norms against a loop over the definition, torch's operation, and numerical derivatives."""

import pytest
import torch
from torch import Tensor, nn

from trainer.network import lrn
from trainer.network.lrn import cross_map_norm, within_map_norm
from trainer.recipes import CONVNET2012, PAPER
from trainer.recipes.recipe import CrossMapNorm, WithinMapNorm


def looped_cross_map(a: Tensor, norm: CrossMapNorm) -> Tensor:
    """[P] 3.3 as it is written: i is a map, the sum runs from max(0, i - n/2) to min(N - 1, i + n/2)."""
    b = torch.empty_like(a)
    num_maps, reach = a.shape[1], norm.num_maps // 2
    for i in range(num_maps):
        total = torch.zeros_like(a[:, 0])
        for j in range(max(0, i - reach), min(num_maps - 1, i + reach) + 1):
            total += a[:, j] ** 2
        b[:, i] = a[:, i] / (norm.k + norm.alpha * total) ** norm.beta
    return b


def looped_within_map(a: Tensor, norm: WithinMapNorm) -> Tensor:
    b = torch.empty_like(a)
    height, width = a.shape[2:]
    reach = norm.window // 2
    for y in range(height):
        for x in range(width):
            window = a[:, :, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            b[:, :, y, x] = a[:, :, y, x] / (1 + norm.alpha * (window**2).sum((2, 3))) ** norm.beta
    return b


def random_maps(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return 100 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("norm", [PAPER.lrn, CONVNET2012.lrn, CrossMapNorm(k=1, num_maps=3, alpha=0.1, beta=0.5)])
@pytest.mark.parametrize("num_maps", [1, 2, 4, 48])
def test_cross_map_norm_equals_the_loop(norm: CrossMapNorm, num_maps: int) -> None:
    a = random_maps(3, num_maps, 4, 5)
    torch.testing.assert_close(cross_map_norm(a, norm), looped_cross_map(a, norm))


def test_both_alpha_conventions_against_torch() -> None:
    """The paper's text is alpha = 5e-4 in torch's convention; what the authors ran is 1e-4 there."""
    a = random_maps(2, 9, 3, 3)
    torch.testing.assert_close(cross_map_norm(a, PAPER.lrn), nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)(a))
    torch.testing.assert_close(cross_map_norm(a, CONVNET2012.lrn), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)(a))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_derivative_is_the_numerical_one(memory_format: torch.memory_format) -> None:
    a = random_maps(2, 7, 2, 3).contiguous(memory_format=memory_format).requires_grad_()
    strong = CrossMapNorm(k=2.0, num_maps=5, alpha=0.01, beta=0.75)
    assert torch.autograd.gradcheck(lambda x: cross_map_norm(x, strong), a)
    assert torch.autograd.gradcheck(lambda x: within_map_norm(x, WithinMapNorm(window=3, alpha=0.01, beta=0.75)), a)


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    a = random_maps(5, 6, 4, 4)
    gradient = random_maps(5, 6, 4, 4, seed=1)

    def both() -> tuple[Tensor, Tensor]:
        x = a.clone().requires_grad_()
        b = cross_map_norm(x, PAPER.lrn)
        b.backward(gradient)
        assert x.grad is not None
        return b, x.grad

    whole = both()
    monkeypatch.setattr(lrn, "SLAB_BYTES", 1)
    for found, expected in zip(both(), whole, strict=True):
        assert torch.equal(found, expected)


def test_within_map_norm_equals_the_loop() -> None:
    a = random_maps(2, 3, 7, 6)
    norm = CONVNET2012.map_norm
    assert norm is not None
    torch.testing.assert_close(within_map_norm(a, norm), looped_within_map(a, norm))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_floats_are_computed_in_float32(dtype: torch.dtype) -> None:
    a = torch.full((1, 5, 1, 1), 300.0, dtype=dtype, requires_grad=True)  # 300 squared overflows float16
    b = cross_map_norm(a, PAPER.lrn)
    expected = looped_cross_map(a.detach().float(), PAPER.lrn)
    torch.testing.assert_close(b.float(), expected, rtol=1e-2, atol=0)
    b.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="odd window"):
        cross_map_norm(random_maps(1, 4, 1, 1), CrossMapNorm(k=2, num_maps=4, alpha=1e-4, beta=0.75))
