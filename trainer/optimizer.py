"""The paper's update rule, one multi-tensor update a device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.recipes import Recipe
from trainer.recipes.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Parameters that share a device, a rate and a decay."""

    kind: str
    decay: float
    parameters: list[Tensor]
    velocities: list[Tensor]


class PaperUpdate:
    """``v <- momentum v - decay * rate * w - rate * gradient``, ``w <- w + v`` ([P] 5).

    torch.optim.SGD keeps a velocity without the rate in it and equals this only while the rate is constant: after a
    drop, the paper's v keeps the scale of the old rate.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], recipe: Recipe) -> None:
        self.momentum = recipe.momentum
        self.velocities: dict[str, Tensor] = {}
        groups: dict[tuple[str, torch.device], _Group] = {}
        for name, parameter in named_parameters:
            kind = rate_kind(name)
            decay = recipe.bias_decay if kind == "bias" else recipe.weight_decay
            velocity = torch.zeros_like(parameter)
            self.velocities[name] = velocity
            key = (kind, parameter.device)
            group = groups.setdefault(key, _Group(kind=kind, decay=decay, parameters=[], velocities=[]))
            group.parameters.append(parameter)
            group.velocities.append(velocity)
        self._groups = list(groups.values())

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """Updates every parameter from its ``.grad``; gradients are left as they are."""
        for group in self._groups:
            rate = rates.of(group.kind)
            gradients = [_gradient(parameter) for parameter in group.parameters]
            torch._foreach_mul_(group.velocities, self.momentum)
            if group.decay:
                torch._foreach_add_(group.velocities, group.parameters, alpha=-group.decay * rate)
            torch._foreach_add_(group.velocities, gradients, alpha=-rate)
            torch._foreach_add_(group.parameters, group.velocities)

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
