"""The paper's update against a loop, across a drop of the rate, where torch's SGD goes another way."""

import torch
from torch import nn

from trainer.optimizer import PaperUpdate, rate_kind
from trainer.recipes import CONVNET2012, PAPER
from trainer.recipes.recipe import Recipe
from trainer.recipes.schedule import Rates

NAMES = ("columns.0.conv1.weight", "columns.0.conv1.bias", "columns.1.fc6.weight", "classifier.fc8.bias")


def run(recipe: Recipe, rates: list[Rates]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights after the steps by PaperUpdate, and by the formula one number at a time."""
    drawn = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 2, generator=drawn, dtype=torch.float64)) for _ in NAMES]
    update = PaperUpdate(zip(NAMES, parameters, strict=True), recipe)
    w = [p.detach().clone() for p in parameters]
    v = [torch.zeros_like(value) for value in w]
    for rate in rates:
        for place, (name, parameter) in enumerate(zip(NAMES, parameters, strict=True)):
            parameter.grad = torch.randn(3, 2, generator=drawn, dtype=torch.float64)
            lr = rate.bias if name.endswith("bias") else rate.conv1_weight if "conv1" in name else rate.weight
            decay = recipe.bias_decay if name.endswith("bias") else 0.0005
            for i in range(3):
                for j in range(2):
                    old = w[place][i, j]
                    v[place][i, j] = 0.9 * v[place][i, j] - decay * lr * old - lr * parameter.grad[i, j]
                    w[place][i, j] = old + v[place][i, j]
        update.step(rate)
    return [p.detach() for p in parameters], w


def test_update_equals_the_formula_across_a_drop() -> None:
    high = Rates(weight=0.01, conv1_weight=0.01, bias=0.01)
    low = Rates(weight=0.001, conv1_weight=0.001, bias=0.001)
    for ours, formula in zip(*run(PAPER, [high] * 4 + [low] * 4), strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-13, atol=0)


def test_2012_rates_a_group_and_no_decay_of_biases() -> None:
    rates = Rates(weight=0.01, conv1_weight=0.0, bias=0.02)
    for ours, formula in zip(*run(CONVNET2012, [rates] * 5), strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-13, atol=0)


def test_torch_sgd_agrees_while_the_rate_is_constant_and_not_after_a_drop() -> None:
    ours, theirs = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    update = PaperUpdate([("columns.0.conv2.weight", ours)], PAPER)
    sgd = torch.optim.SGD([theirs], lr=0.01, momentum=0.9, weight_decay=0.0005)
    for step in range(6):
        rate = 0.01 if step < 3 else 0.001
        if step == 4:
            assert not torch.allclose(ours, theirs, atol=1e-4)
        elif step <= 3:
            torch.testing.assert_close(ours, theirs)
        for parameter in (ours, theirs):
            parameter.grad = torch.ones(1)
        sgd.param_groups[0]["lr"] = rate
        sgd.step()
        update.step(Rates(weight=rate, conv1_weight=rate, bias=rate))


def test_every_parameter_has_one_kind() -> None:
    assert [rate_kind(name) for name in NAMES] == ["conv1_weight", "bias", "weight", "bias"]
