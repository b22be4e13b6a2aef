"""Both columns as one network, for when they share a device: the same function of the same parameters, fewer launches.

A layer that reads both columns, or the image, is one product; where each column reads its own maps it is one
convolution in two groups. Masters stay where they were, in :class:`TwoColumns`, in float32: here is a working copy of
each layer's weights, side by side and in the precision of the products, which the update writes as it goes.
"""

import torch
from torch import Tensor, nn

from trainer.network import fused, lrn
from trainer.network.architecture import Architecture, Layer
from trainer.network.columns import BatchSlice, TwoColumns
from trainer.network.layers import pooled


def can_merge(architecture: Architecture) -> bool:
    """Whether every product of the network is one product: not where full layers read their own column alone."""
    return all(layer.kind == "conv" or layer.reads_both or layer.num_parts == 1 for layer in architecture.layers)


class MergedColumns:
    """The network of ``network``'s parameters and dropout generators, computed in ``dtype`` on its one device."""

    def __init__(self, network: TwoColumns, dtype: torch.dtype) -> None:
        self._network = network
        self._norms = fused if fused.runs_on(network.devices[0]) else lrn
        masters = dict(network.named_parameters())
        self.working: dict[str, Tensor] = {}
        """Weights and biases by layer, ``conv1.weight``, of all columns one below the other; leaves of autograd."""
        self.parts: dict[str, tuple[str, slice]] = {}
        """Where each of the network's parameters stands: a name of ``working`` and rows of it."""
        for layer in network.architecture.layers:
            for kind in ("weight", "bias"):
                name = f"{layer.name}.{kind}"
                owners = [each for each in masters if each.endswith(f".{name}")]
                merged = torch.cat([masters[each].detach() for each in owners]).to(dtype)
                if merged.dim() == 4 and not masters[owners[0]].is_contiguous():
                    merged = merged.contiguous(memory_format=torch.channels_last)
                self.working[name] = merged.requires_grad_()
                for place, owner in enumerate(owners):
                    self.parts[owner] = name, slice(place * layer.num_outputs, (place + 1) * layer.num_outputs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the masters' values, after something else than the update has changed them."""
        for owner, master in self._network.named_parameters():
            name, rows = self.parts[owner]
            self.working[name][rows] = master

    def __call__(self, x: Tensor, rows: BatchSlice) -> Tensor:
        """Class scores [N, classes] of centred images [N, 3, crop, crop]; both in the working precision."""
        for layer in self._network.architecture.layers:
            x = self._operations(layer, self._product(layer, x), rows)
        return x

    def _product(self, layer: Layer, x: Tensor) -> Tensor:
        weight, bias = self.working[f"{layer.name}.weight"], self.working[f"{layer.name}.bias"]
        if layer.kind == "full":
            return nn.functional.linear(x.flatten(1), weight, bias)
        if layer.pad_end:
            x = nn.functional.pad(x, (0, layer.pad_end, 0, layer.pad_end))
        groups = x.shape[1] // layer.num_inputs
        return nn.functional.conv2d(x, weight, bias, layer.stride, layer.pad, groups=groups)

    def _operations(self, layer: Layer, x: Tensor, rows: BatchSlice) -> Tensor:
        """What follows the product; a ReLU right before the cross-map norm is done inside it."""
        architecture, num_columns = self._network.architecture, layer.num_parts
        is_relu = architecture.activation == "relu"
        for place, operation in enumerate(layer.operations):
            if operation == "activation":
                if not (is_relu and layer.operations[place + 1 : place + 2] == ("lrn",)):
                    x = torch.relu(x) if is_relu else torch.tanh(x)
            elif operation == "lrn":
                relu = is_relu and layer.operations[:place][-1:] == ("activation",)
                x = self._norms.cross_map_norm(x, architecture.lrn, num_columns=num_columns, relu=relu)
            elif operation == "map_norm" and architecture.map_norm is not None:
                x = self._norms.within_map_norm(x, architecture.map_norm)
            elif operation in ("pool", "mean_pool"):
                x = pooled(x, architecture.pooling, mean=operation == "mean_pool")
            elif operation == "dropout":
                halves = x.chunk(num_columns, dim=1)
                x = torch.cat([self._network.drop_out(column, half, rows) for column, half in enumerate(halves)], dim=1)
        return x
