"""Both columns as one network, for when they share a device: the same function of the same parameters, fewer launches.

A layer that reads both columns, or the image, is one product; where each column reads its own maps it is one
convolution in two groups. Masters stay where they were, in :class:`TwoColumns`, in float32: here is a working copy of
each layer's weights, side by side and in the precision of the products, which the update writes as it goes.
"""

import torch
from torch import Tensor

from trainer.network import fused, lrn
from trainer.network.architecture import Architecture
from trainer.network.columns import BatchSlice, TwoColumns
from trainer.network.layers import followed, product


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
        network = self._network
        for layer in network.architecture.layers:
            x = product(layer, x, self.working[f"{layer.name}.weight"], self.working[f"{layer.name}.bias"])
            x = followed(layer, x, network.architecture, self._norms, num_columns=layer.num_parts)
            if "dropout" in layer.operations:
                columns = x.chunk(layer.num_parts, dim=1)
                x = torch.cat([network.drop_out(place, column, rows) for place, column in enumerate(columns)], dim=1)
        return x
