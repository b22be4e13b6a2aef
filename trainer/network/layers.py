"""One layer as a module: its parameters, its initial values, and the operations that follow it."""

import math
from types import ModuleType

import torch
from torch import Tensor, nn

from trainer.network import fused, lrn
from trainer.network.architecture import Architecture, Layer
from trainer.recipes.recipe import Init, Pooling


class LayerModule(nn.Module):
    """One column's part of a layer: convolution or product, then activation, norms and pooling in order.

    ``forward`` takes and gives float [N, maps, side, side], or [N, features] for a fully connected layer, which
    flattens maps map by map. Dropout is not done here: it needs a random generator, which the network owns.
    """

    def __init__(self, layer: Layer, architecture: Architecture) -> None:
        super().__init__()
        self.layer = layer
        self.architecture = architecture
        shape: tuple[int, ...] = (layer.num_outputs, layer.num_inputs)
        if layer.kind == "conv":
            shape += (layer.kernel, layer.kernel)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(layer.num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        norms = fused if fused.runs_on(x.device) else lrn
        x = product(self.layer, x, self.weight, self.bias)
        return followed(self.layer, x, self.architecture, norms)


def product(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer's convolution, in as many groups as ``x`` has times its inputs, or its matrix product."""
    if layer.kind == "full":
        return nn.functional.linear(x.flatten(1), weight, bias)
    if layer.pad_end:
        x = nn.functional.pad(x, (0, layer.pad_end, 0, layer.pad_end))
    return nn.functional.conv2d(x, weight, bias, layer.stride, layer.pad, groups=x.shape[1] // layer.num_inputs)


def followed(layer: Layer, x: Tensor, architecture: Architecture, norms: ModuleType, *, num_columns: int = 1) -> Tensor:
    """What follows a layer's product, but for dropout, for ``num_columns`` columns side by side.

    ``norms`` is trainer.network.fused or trainer.network.lrn; a ReLU right before the cross-map norm is done inside it.
    """
    is_relu = architecture.activation == "relu"
    for place, operation in enumerate(layer.operations):
        if operation == "activation":
            if not (is_relu and layer.operations[place + 1 : place + 2] == ("lrn",)):
                x = torch.relu(x) if is_relu else torch.tanh(x)
        elif operation == "lrn":
            relu = is_relu and layer.operations[:place][-1:] == ("activation",)
            x = norms.cross_map_norm(x, architecture.lrn, num_columns=num_columns, relu=relu)
        elif operation == "map_norm" and architecture.map_norm is not None:
            x = norms.within_map_norm(x, architecture.map_norm)
        elif operation in ("pool", "mean_pool"):
            x = pooled(x, architecture.pooling, mean=operation == "mean_pool")
    return x


def pooled(x: Tensor, pooling: Pooling, *, mean: bool) -> Tensor:
    """The greatest value, or the mean, of each window of float [N, maps, side, side]."""
    pool = nn.functional.avg_pool2d if mean else nn.functional.max_pool2d
    return pool(x, pooling.size, pooling.stride, ceil_mode=pooling.edge == "crossed")


@torch.no_grad()
def initialise(part: LayerModule, init: Init, generator: torch.Generator) -> None:
    """Fills weights and biases from ``generator`` (a CPU one, so that any device starts with the same values).

    ``recipe``: N(0, deviation) and the recipe's bias, as the paper says, whatever the size of the network.
    ``fan_in``: the recipe's values, the deviation times sqrt(full-size inputs / inputs), so that a narrow network
    starts with the signal of the full-size one; at full size this is ``recipe``.
    ``he``: N(0, sqrt(2 / inputs)) and bias 0 from conv2 on (He et al. 2015): the remedy when std 0.01 with bias 1
    leaves the loss flat. conv1 keeps the recipe's deviation, which suits pixels on 0..255.
    """
    layer = part.layer
    deviation, bias = layer.deviation, layer.bias
    if init == "fan_in":
        deviation *= math.sqrt(layer.recipe_inputs / layer.fan_in)
    elif init == "he" and layer.name != "conv1":
        bias = 0.0
        if layer.name != "fc8":  # fc8 keeps its deviation: the softmax should start undecided
            deviation = math.sqrt(2.0 / layer.fan_in)
    part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * deviation)
    part.bias.fill_(bias)
