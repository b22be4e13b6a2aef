"""The paper's update rule, one multi-tensor update a device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.recipes.recipe import Recipe
from trainer.recipes.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class Updated:
    """One parameter, with what its update needs."""

    name: str
    kind: str
    """Which rate it follows."""
    decay: float
    weight: nn.Parameter
    velocity: Tensor


class PaperUpdate:
    """``v <- momentum v - decay * rate * w - rate * gradient``, ``w <- w + v`` ([P] 5).

    torch.optim.SGD keeps a velocity without the rate in it and equals this only while the rate is constant: after a
    drop, the paper's v keeps the scale of the old rate.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> None:
        self.momentum = recipe.momentum
        self.parameters: list[Updated] = []
        for name, weight in named_parameters:
            kind = rate_kind(name)
            decay = recipe.bias_decay if kind == "bias" else recipe.weight_decay
            velocity = torch.zeros_like(weight)
            self.parameters.append(Updated(name=name, kind=kind, decay=decay, weight=weight, velocity=velocity))
        self.velocities = {parameter.name: parameter.velocity for parameter in self.parameters}
        groups: dict[tuple[str, torch.device], list[Updated]] = {}
        for parameter in self.parameters:
            groups.setdefault((parameter.kind, parameter.weight.device), []).append(parameter)
        self._groups = list(groups.values())

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """Updates every parameter from its ``.grad``; gradients are left as they are."""
        for group in self._groups:
            rate, decay = rates.of(group[0].kind), group[0].decay
            weights: list[Tensor] = [parameter.weight for parameter in group]
            velocities = [parameter.velocity for parameter in group]
            gradients = [_gradient(parameter.weight) for parameter in group]
            torch._foreach_mul_(velocities, self.momentum)
            if decay:
                torch._foreach_add_(velocities, weights, alpha=-decay * rate)
            torch._foreach_add_(velocities, gradients, alpha=-rate)
            torch._foreach_add_(weights, velocities)

    @torch.no_grad()
    def load(self, velocities: Mapping[str, Tensor]) -> None:
        """Continues from ``velocities`` by parameter name. Raises ValueError when they are of other parameters."""
        if velocities.keys() != self.velocities.keys():
            raise ValueError("expected a velocity for each parameter")
        for name, value in velocities.items():
            self.velocities[name].copy_(value)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "step() before backward()"
    return parameter.grad


def rate_kind(parameter_name: str) -> str:
    """Which rate a parameter follows: ``bias``, ``conv1_weight`` or ``weight``."""
    if parameter_name.endswith("bias"):
        return "bias"
    return "conv1_weight" if "conv1." in parameter_name else "weight"
