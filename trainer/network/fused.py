"""The kernels of :mod:`trainer.network.kernels` as functions on a GPU's tensors, and whether they can be trusted there.

The plain ones in :mod:`trainer.network.lrn` are what they must agree with, and what takes their place elsewhere.
"""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from commandline import one_line, write_line
from trainer.network import lrn
from trainer.recipes.recipe import CrossMapNorm, WithinMapNorm

VALUES = 2048
"""Values that one program of a kernel computes."""

NUM_WARPS = 8
"""Of a norm's program: 8 values a thread are one load of bfloat16, and so few registers that others run beside."""


def cross_map_norm(a: Tensor, norm: CrossMapNorm, *, num_columns: int = 1, relu: bool = False) -> Tensor:
    """As :func:`trainer.network.lrn.cross_map_norm`, for ``num_columns`` columns side by side, after a ReLU if told."""
    return _CrossMapNorm.apply(_rows(a), norm, a.shape[1] // num_columns, relu)  # type: ignore[no-any-return, no-untyped-call]


def within_map_norm(a: Tensor, norm: WithinMapNorm) -> Tensor:
    """As :func:`trainer.network.lrn.within_map_norm`."""
    return _WithinMapNorm.apply(_rows(a), norm)  # type: ignore[no-any-return, no-untyped-call]


def centred(pixels: Tensor, mean: Tensor, shifts: Tensor, divisor: Tensor, dtype: torch.dtype) -> Tensor:
    """``(pixel - mean + shift) / divisor`` as [N, 3, H, W] of ``dtype`` with the maps innermost.

    ``pixels`` is uint8 [N, H, W, 3], ``mean`` float32 [H, W, 3], ``shifts`` float32 [N, 3], ``divisor`` one float32.
    """
    result = torch.empty(pixels.shape, dtype=dtype, device=pixels.device)
    _kernels().centre[(len(pixels), _programs(mean.numel()))](
        pixels, mean, shifts, divisor, result, PER_IMAGE=mean.numel(), VALUES=VALUES
    )
    return result.permute(0, 3, 1, 2)


def update(
    weight: Tensor, velocity: Tensor, gradient: Tensor, working: Tensor, *, rate: Tensor, momentum: float, decay: float
) -> None:
    """The paper's rule in place, as :class:`trainer.optimizer.PaperUpdate` has it, and ``working`` made of the weights.

    The four have one layout; ``rate`` is one float32 on their device.
    """
    if _layout(gradient) != _layout(weight):
        gradient = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
    assert _layout(weight) == _layout(velocity) == _layout(working), "expected one layout"
    _kernels().update[(_programs(weight.numel()),)](
        weight, velocity, gradient, working, weight.numel(), rate, momentum, decay, VALUES=VALUES
    )


@functools.cache
def runs_on(device: torch.device) -> bool:
    """Whether ``device`` is a GPU where the kernels give what the plain functions give; if not, a warning says why."""
    if device.type != "cuda":
        return False
    try:
        failure = disagreement(device)
    except Exception as error:
        failure = one_line(error)[:200]
    if failure is not None:
        write_line(f"WARNING: the fused kernels are not used on {device}: {failure}")
    return failure is None


def disagreement(device: torch.device) -> str | None:
    """Where kernels and plain functions differ on a small example, in words."""
    drawn = torch.Generator().manual_seed(0)
    a = (3 * torch.randn(2, 24, 7, 5, generator=drawn)).to(device).contiguous(memory_format=torch.channels_last)
    across, within = (
        CrossMapNorm(k=2.0, num_maps=5, alpha=0.1, beta=0.75),
        WithinMapNorm(window=5, alpha=0.1, beta=0.75),
    )
    pairs: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "cross-map norm": (
            lambda x: cross_map_norm(x, across, num_columns=2, relu=True),
            lambda x: lrn.cross_map_norm(x, across, num_columns=2, relu=True),
        ),
        "within-map norm": (lambda x: within_map_norm(x, within), lambda x: lrn.within_map_norm(x, within)),
    }
    for name, functions in pairs.items():
        found = []
        for function in functions:
            x = a.clone().requires_grad_()
            result: Tensor = function(x)
            (gradient,) = torch.autograd.grad((result * result.detach().cos()).sum(), x)
            found.append((result, gradient))
        for ours, plain in zip(*found, strict=True):
            if not torch.allclose(ours, plain, rtol=1e-4, atol=1e-4):
                return f"{name}: differs by {(ours - plain).abs().max().item():.2g} from the plain function"
    return None


class _CrossMapNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, norm: CrossMapNorm, column: int, relu: bool) -> Tensor:
        ctx.save_for_backward(a)
        ctx.how = (norm, column, relu)
        b = torch.empty_like(a)
        _over_maps(_kernels().cross_map_forward, (a, b), norm, column, relu)
        return b

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (a,) = ctx.saved_tensors
        result = torch.empty_like(a)
        _over_maps(_kernels().cross_map_backward, (a, _rows(gradients[0]), result), *ctx.how)
        return result, None, None, None


class _WithinMapNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, norm: WithinMapNorm) -> Tensor:
        b, roots = torch.empty_like(a), torch.empty_like(a, dtype=torch.float32)
        _over_pixels(_kernels().within_map_forward, (a, b, roots), norm)
        ctx.save_for_backward(a, roots)
        ctx.norm = norm
        return b

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        a, roots = ctx.saved_tensors
        result = torch.empty_like(a)
        _over_pixels(_kernels().within_map_backward, (a, roots, _rows(gradients[0]), result), ctx.norm)
        return result, None


def _over_maps(kernel: Any, tensors: Sequence[Tensor], norm: CrossMapNorm, column: int, relu: bool) -> None:
    """Launches a kernel of the cross-map norm: programs of whole rows."""
    width = tensors[0].shape[1]
    lanes = _power_of_two(width)
    rows, num_rows = max(1, VALUES // lanes), tensors[0].numel() // width
    kernel[(_programs(num_rows, rows),)](
        *tensors, num_rows, norm.k, norm.alpha,
        BETA=norm.beta, REACH=norm.num_maps // 2, COLUMN=column, WIDTH=width, RELU=relu, ROWS=rows, LANES=lanes,
        num_warps=NUM_WARPS,
    )  # fmt: skip


def _over_pixels(kernel: Any, tensors: Sequence[Tensor], norm: WithinMapNorm) -> None:
    """Launches a kernel of the within-map norm: programs of some maps of some rows."""
    _, width, height, breadth = tensors[0].shape
    lanes = min(64, _power_of_two(width))
    rows, num_rows = VALUES // lanes, tensors[0].numel() // width
    kernel[(_programs(num_rows, rows), _programs(width, lanes))](
        *tensors, num_rows, norm.alpha,
        BETA=norm.beta, REACH=norm.window // 2, HEIGHT=height, BREADTH=breadth, WIDTH=width, ROWS=rows, LANES=lanes,
        num_warps=NUM_WARPS,
    )  # fmt: skip


def _layout(a: Tensor) -> list[int]:
    return [stride for stride, size in zip(a.stride(), a.shape, strict=True) if size > 1]


def _rows(a: Tensor) -> Tensor:
    return a.contiguous(memory_format=torch.channels_last)


def _programs(count: int, each: int = VALUES) -> int:
    return -(-count // each)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


@functools.cache
def _kernels() -> types.ModuleType:
    # Imported here: a machine without a GPU has no Triton.
    from trainer.network import kernels

    return kernels
