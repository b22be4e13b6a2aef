"""The GPU's kernels against the plain functions: on a GPU where there is one, else in Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.data.centring import Centring
from trainer.network import fused, lrn
from trainer.optimizer import PaperUpdate
from trainer.recipes import CONVNET2012, PAPER
from trainer.recipes.recipe import CrossMapNorm, WithinMapNorm
from trainer.recipes.schedule import Rates

triton = pytest.importorskip("triton", reason="Triton's interpreter is not installed")

ROOT = Path(__file__).parents[2]
KERNELS = {
    "cross_map_forward", "cross_map_backward", "within_map_forward", "within_map_backward", "centre", "update",
}  # fmt: skip
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STRONG = CrossMapNorm(k=1.0, num_maps=3, alpha=0.1, beta=0.5)


def random_maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (20 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(DEVICE, dtype)


def both_ways(function: object, a: Tensor) -> tuple[Tensor, Tensor]:
    """The function's values and their derivative, seen from a weighted sum."""
    x = a.clone().requires_grad_()
    result = function(x)  # type: ignore[operator]
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    (gradient,) = torch.autograd.grad((result.float() * weights).sum(), x)
    return result, gradient


@pytest.mark.parametrize("norm", [PAPER.lrn, CONVNET2012.lrn, STRONG, CrossMapNorm(k=2, num_maps=7, alpha=1, beta=1)])
@pytest.mark.parametrize(
    ("maps", "num_columns", "relu"), [(1, 1, True), (6, 2, False), (48, 1, True), (96, 2, True), (130, 1, False)]
)
def test_the_cross_map_norm_is_the_plain_one(norm: CrossMapNorm, maps: int, num_columns: int, relu: bool) -> None:
    a = random_maps(2, maps, 3, 4)
    ours = both_ways(lambda x: fused.cross_map_norm(x, norm, num_columns=num_columns, relu=relu), a)
    plain = both_ways(lambda x: lrn.cross_map_norm(x, norm, num_columns=num_columns, relu=relu), a)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (3, 8, 4, 5), (1, 70, 9, 3)])
def test_the_within_map_norm_is_the_plain_one(window: int, shape: tuple[int, ...]) -> None:
    norm = WithinMapNorm(window=window, alpha=0.01, beta=0.75)
    a = random_maps(*shape)
    ours = both_ways(lambda x: fused.within_map_norm(x, norm), a)
    torch.testing.assert_close(ours, both_ways(lambda x: lrn.within_map_norm(x, norm), a), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_once_each_way() -> None:
    """Inside, everything is float32: what comes out is the float32 result of the same input, rounded."""
    a = random_maps(2, 16, 5, 5, dtype=torch.bfloat16)
    for function in (
        lambda x: fused.cross_map_norm(x, STRONG, num_columns=2),
        lambda x: fused.within_map_norm(x, WithinMapNorm(window=5, alpha=0.01, beta=0.75)),
    ):
        exact = both_ways(function, a.float())
        for found, wanted in zip(both_ways(function, a), exact, strict=True):
            torch.testing.assert_close(found.float(), wanted, rtol=2**-8, atol=2**-8 * wanted.abs().max().item())


def test_kernels_that_disagree_are_not_trusted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fused.disagreement(DEVICE) is None
    monkeypatch.setattr(fused, "within_map_norm", lambda x, norm: 1.001 * lrn.within_map_norm(x, norm))
    assert "within-map norm: differs" in str(fused.disagreement(DEVICE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_centring_in_one_pass(dtype: torch.dtype) -> None:
    drawn = np.random.default_rng(0)
    mean = drawn.uniform(0, 255, (9, 9, 3)).astype(np.float32)
    pixels = torch.from_numpy(drawn.integers(0, 256, (4, 7, 7, 3), np.uint8)).to(DEVICE)
    shifts = torch.from_numpy(drawn.normal(0, 9, (4, 3)).astype(np.float32)).to(DEVICE)
    plain = Centring(mean, 7, [DEVICE], channels_last=True)
    found = fused.centred(pixels, plain.mean_on(DEVICE), shifts, torch.tensor(1.1, device=DEVICE), dtype)
    rounding = 1e-6 if dtype == torch.float32 else 2**-7  # the interpreter cuts off where a GPU rounds
    torch.testing.assert_close(found.float(), plain(pixels, shifts, 1.1), rtol=rounding, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(5,), (6, 7), (4, 3, 5, 5)])
def test_the_update_is_the_papers(shape: tuple[int, ...]) -> None:
    """Over a change of rate, after which the velocity keeps the scale of the old one."""
    name = "conv2.bias" if len(shape) == 1 else "conv2.weight"
    plain, ours = (nn.Parameter(random_maps(*shape)) for _ in range(2))
    updates = [PaperUpdate([(name, parameter)], PAPER) for parameter in (plain, ours)]
    working = ours.detach().to(torch.bfloat16)
    for number, rate in enumerate((0.01, 0.01, 0.001)):
        gradient = random_maps(*shape) * (number + 1)
        plain.grad = gradient
        updates[0].step(Rates(weight=rate, conv1_weight=9.0, bias=rate))
        mine = updates[1].parameters[0]
        fused.update(
            mine.weight,
            mine.velocity,
            gradient,
            working,
            rate=torch.tensor(rate, device=DEVICE),
            momentum=PAPER.momentum,
            decay=mine.decay,
        )
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(working.float(), ours.detach(), rtol=2**-7, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(not triton.__version__.startswith("3.6."), reason="the stand-in is for the driver of Triton 3.6")
@pytest.mark.parametrize("capability", ["80", "90"])  # A100; H100 and H200
def test_compiled_for_a_gpu_kernels_stay_in_registers(tmp_path: Path, capability: str) -> None:
    """The interpreter takes any code. A kernel that spills, or that takes a minute to compile, shows only here."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.trainer.gpu_compiler", capability],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kernels = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {kernel["name"] for kernel in kernels} == KERNELS
    for kernel in kernels:
        assert kernel["stack"] == 0, kernel
        assert kernel["registers"] <= 128, kernel  # half of what a thread may have: other programs hide its waits
        assert 100 < kernel["instructions"] < 1500, kernel
