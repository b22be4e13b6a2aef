"""The two response normalisations, written for speed: own autograd functions that stay inside the processor's cache.

torch.nn.LocalResponseNorm pads and pools in three dimensions; here the window is a handful of shifted additions over
slabs of a few images, so that a slab's intermediate results never leave the cache. ``tests/trainer/test_lrn.py``
compares both with a loop over the definition.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.recipes.recipe import CrossMapNorm, WithinMapNorm

SLAB_BYTES = 1 << 22
"""Input bytes that one slab holds on a CPU: smaller ones spend their time handing work to threads, larger ones leave
the cache (measured from 256 KB to the whole batch: 1 to 4 MB is best for every shape of the network)."""


def cross_map_norm(a: Tensor, norm: CrossMapNorm, *, num_columns: int = 1, relu: bool = False) -> Tensor:
    """``a / (k + alpha * S) ^ beta``, S the sum of squares over ``num_maps`` adjacent maps ([P] 3.3).

    ``a`` is float [N, maps, H, W] and holds the maps of ``num_columns`` columns side by side: neighbours never reach
    across columns. The window of map i is ``[i - num_maps // 2, i + num_maps // 2]``, cut at its column's first and
    last map. With ``relu``, ``a`` goes through a ReLU first. bfloat16 and float16 are computed in float32, where a
    square cannot overflow.
    """
    if norm.num_maps % 2 != 1:
        raise ValueError(f"num_maps: expected an odd window, found {norm.num_maps}")
    constants = (norm.k, norm.num_maps // 2, norm.alpha, norm.beta)
    columns = (torch.relu(a) if relu else a).chunk(num_columns, dim=1)
    normed = [_CrossMapNorm.apply(column, *constants) for column in columns]  # type: ignore[no-untyped-call]
    return normed[0] if num_columns == 1 else torch.cat(normed, dim=1)


def within_map_norm(a: Tensor, norm: WithinMapNorm) -> Tensor:
    """``a / (1 + alpha * S) ^ beta``, S the sum of squares over a ``window x window`` neighbourhood in the same map.

    ``a`` is float [N, maps, H, W]. Outside the map there are zeros. [C] layers-145, second norm of layer 2.
    """
    squares = nn.functional.avg_pool2d(a * a, norm.window, stride=1, padding=norm.window // 2, divisor_override=1)
    return a * (1.0 + norm.alpha * squares).pow(-norm.beta)


class _CrossMapNorm(torch.autograd.Function):
    # With s = k + alpha * S and p = s^-beta: b = a p and
    # db_j/da_i = p_i [i = j] - 2 alpha beta a_i a_j p_j / s_j for j in i's window, which is symmetric.

    @staticmethod
    def forward(ctx: Any, a: Tensor, k: float, reach: int, alpha: float, beta: float) -> Tensor:
        b, power = torch.empty_like(a), torch.empty_like(a, dtype=torch.promote_types(a.dtype, torch.float32))
        for a_slab, b_slab, p in zip(*_slabs(a, b, power), strict=True):
            exact = a_slab.to(power.dtype)
            s = _window_sum(exact * exact, reach).mul_(alpha).add_(k)
            _power(s, beta, out=p)
            b_slab.copy_(p * exact)
        ctx.save_for_backward(a, power)
        ctx.constants = (reach, alpha, beta)
        return b

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        a, power = ctx.saved_tensors
        reach, alpha, beta = ctx.constants
        gradient = gradients[0]
        result = torch.empty_like(a)
        for a_slab, p, g_slab, r_slab in zip(*_slabs(a, power, gradient, result), strict=True):
            exact = a_slab.to(p.dtype)
            direct = g_slab * p
            # 1 / s from p = s^-beta, cheaper than keeping s in memory as well.
            through_window = _window_sum(p.pow(1.0 / beta).mul_(direct).mul_(exact), reach).mul_(exact)
            r_slab.copy_(direct.sub_(through_window, alpha=2.0 * alpha * beta))
        return result, None, None, None, None


def _slabs(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Each tensor cut along the batch into slabs of about SLAB_BYTES; whole on a GPU, where launches cost more."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() == 0:
        return [(tensor,) for tensor in tensors]
    image_bytes = first[0].numel() * first.element_size()
    size = max(1, SLAB_BYTES // image_bytes)
    return [torch.split(tensor, size) for tensor in tensors]


def _window_sum(x: Tensor, reach: int) -> Tensor:
    """Sum over ``[i - reach, i + reach]`` of dimension 1, cut at its ends; a new tensor."""
    total = x.clone()
    for distance in range(1, min(reach, x.shape[1] - 1) + 1):
        total[:, distance:] += x[:, :-distance]
        total[:, :-distance] += x[:, distance:]
    return total


def _power(s: Tensor, beta: float, *, out: Tensor) -> None:
    """``s ^ -beta`` into ``out``; ``s`` is used up."""
    if beta == 0.75:
        s.rsqrt_()  # two square roots are an order of magnitude cheaper than a general power
        torch.sqrt(s, out=out)
        out.mul_(s)
    else:
        torch.pow(s, -beta, out=out)
