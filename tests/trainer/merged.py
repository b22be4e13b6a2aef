"""The oracle of the two columns: one network on one device, ``groups=2`` and LRN by torch's own operation."""

import torch
from torch import Tensor, nn

from trainer.network.architecture import Architecture, Layer
from trainer.network.columns import TwoColumns
from trainer.recipes.recipe import Operation


class MergedNetwork(nn.Module):
    """The same function as :class:`TwoColumns` without dropout, written as a plain single network."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = nn.ModuleDict()
        for layer in architecture.layers:
            outputs = layer.num_outputs * layer.num_parts
            if layer.kind == "full":
                self.layers[layer.name] = nn.Linear(layer.num_inputs, outputs)
                continue
            # The image has three maps for everyone; a layer that reads both columns is an ordinary convolution.
            groups = 1 if layer.reads_both or layer.name == "conv1" else layer.num_parts
            self.layers[layer.name] = nn.Conv2d(
                layer.num_inputs * groups, outputs, layer.kernel, layer.stride, layer.pad, groups=groups
            )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.architecture.layers:
            if layer.pad_end:
                x = nn.functional.pad(x, (0, layer.pad_end, 0, layer.pad_end))
            if layer.kind == "full":
                x = x.flatten(1)
            x = self.layers[layer.name](x)
            for operation in layer.operations:
                x = self._operate(operation, x)
        return x

    def _operate(self, operation: Operation, x: Tensor) -> Tensor:
        architecture = self.architecture
        if operation == "activation":
            return torch.tanh(x) if architecture.activation == "tanh" else torch.relu(x)
        if operation == "pool":
            return nn.functional.max_pool2d(x, architecture.pooling.size, architecture.pooling.stride)
        if operation == "lrn":
            norm = architecture.lrn
            # torch divides alpha by the window.
            per_column = nn.LocalResponseNorm(norm.num_maps, norm.alpha * norm.num_maps, norm.beta, norm.k)
            return torch.cat([per_column(half) for half in x.chunk(architecture.num_columns, dim=1)], dim=1)
        if operation == "map_norm":
            map_norm = architecture.map_norm
            assert map_norm is not None
            ones = torch.ones(x.shape[1], 1, map_norm.window, map_norm.window, dtype=x.dtype)
            squares = nn.functional.conv2d(x * x, ones, padding=map_norm.window // 2, groups=x.shape[1])
            return x / (1 + map_norm.alpha * squares) ** map_norm.beta
        assert operation == "dropout"
        return x * (1 - architecture.dropout)  # as at test: the oracle has no random masks


def merged_parameters(network: TwoColumns, layer: Layer, kind: str) -> Tensor:
    """``weight`` or ``bias`` of a layer, both columns' filters one after the other; keeps autograd's graph."""
    owners = [network.classifier] if layer.num_parts == 1 and layer.name == "fc8" else network.columns
    parts: list[Tensor] = [owner.get_submodule(layer.name).get_parameter(kind) for owner in owners]
    return torch.cat(parts)


def merged_copy(network: TwoColumns) -> MergedNetwork:
    """A merged network with the values of ``network``."""
    merged = MergedNetwork(network.architecture).to(next(network.parameters()).dtype)
    with torch.no_grad():
        for layer in network.architecture.layers:
            for kind in ("weight", "bias"):
                merged.layers[layer.name].get_parameter(kind).copy_(merged_parameters(network, layer, kind))
    return merged
