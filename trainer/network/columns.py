"""AlexNet as two columns on two devices: placement, the exchanges before conv3, fc6, fc7 and fc8, and dropout."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.network.architecture import Architecture
from trainer.network.layers import LayerModule, initialise
from trainer.recipes.recipe import Init


@dataclass(frozen=True, kw_only=True)
class BatchSlice:
    """Which rows [begin, end) of a step of ``total`` images this process computes."""

    begin: int
    end: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of layers that a column computes alone: an exchange may come before it, dropout may come after it."""

    names: tuple[str, ...]
    reads_both: bool
    drops: bool


class Column(nn.Module):
    """One column's layers, on one device. Parameters are named ``conv1.weight`` and so on."""

    def __init__(self, architecture: Architecture, layer_names: Sequence[str]) -> None:
        super().__init__()
        for layer in architecture.layers:
            if layer.name in layer_names:
                self.add_module(layer.name, LayerModule(layer, architecture))

    def run_stage(self, stage: Stage, x: Tensor) -> Tensor:
        """The stage's layers in order, without its dropout."""
        for name in stage.names:
            x = self.get_submodule(name)(x)
        return x


class TwoColumns(nn.Module):
    """The network. Column k lives on ``devices[k]``; fc8 is whole on the first device.

    The same device may be given twice: the same code then runs without copies. A one-column architecture uses the
    first device alone. Dropout masks come from one generator a column, drawn for the whole step (``BatchSlice``)
    whatever part of it this process computes: so they do not depend on the number of processes, and a run resumed
    from the generators' states continues bit for bit.
    """

    def __init__(
        self, architecture: Architecture, devices: Sequence[torch.device], *, init: Init = "recipe", seed: int = 0
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.devices = tuple(devices[: architecture.num_columns])
        if len(self.devices) != architecture.num_columns:
            raise ValueError(f"devices: expected {architecture.num_columns}, found {len(devices)}")
        self.stages, self.head = _stages(architecture)
        names = [name for stage in self.stages for name in stage.names]
        self.columns = nn.ModuleList(Column(architecture, names) for _ in self.devices)
        self.classifier = Column(architecture, self.head.names)
        drawn = torch.Generator().manual_seed(seed_of(seed, "weights"))
        for part in self.modules():
            if isinstance(part, LayerModule):
                initialise(part, init, drawn)
        self.generators = []
        for place, device in enumerate(self.devices):
            self.columns[place].to(device)
            self.generators.append(torch.Generator(device).manual_seed(seed_of(seed, f"dropout {place}")))
        self.classifier.to(self.devices[0])
        self._run = [column.run_stage for column in self._column_modules()]

    def compile_columns(self) -> None:
        """Compiles each column's stages with torch.compile; exchanges and dropout stay outside."""
        self._run = [torch.compile(column.run_stage, dynamic=False) for column in self._column_modules()]

    def forward(self, images: Sequence[Tensor], rows: BatchSlice | None = None) -> Tensor:
        """Class scores (logits) float [N, classes] on the first device.

        ``images[k]`` is float [N, 3, crop, crop] on column k's device, centred; ``rows`` says which part of a
        larger step these are (default: all of it) and matters for dropout alone.
        """
        scores: Tensor = self.classifier.run_stage(self.head, self.features(images, rows))
        return scores

    def features(self, images: Sequence[Tensor], rows: BatchSlice | None = None) -> Tensor:
        """What fc8 reads: float [N, 4096] at full width, on the first device (the fc7 activations of [P] 6.1)."""
        values = list(images)
        for stage in self.stages:
            if stage.reads_both:
                values = exchange(values, self.devices)
            values = [run(stage, value) for run, value in zip(self._run, values, strict=True)]
            if stage.drops:
                values = [self.drop_out(place, value, rows) for place, value in enumerate(values)]
        return exchange(values, self.devices[:1])[0]

    def generator_states(self) -> list[Tensor]:
        """The dropout generators' states, uint8 tensors on the CPU."""
        return [generator.get_state() for generator in self.generators]

    def set_generator_states(self, states: Sequence[Tensor]) -> None:
        """Continues dropout from states that :meth:`generator_states` gave."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def drop_out(self, place: int, value: Tensor, rows: BatchSlice | None) -> Tensor:
        """Column ``place``'s features [N, units] with some dropped, from that column's generator."""
        keep = 1.0 - self.architecture.dropout
        if not self.training:
            return value * keep  # [P] 4.2: at test every unit, its output multiplied by 0.5
        rows = rows or BatchSlice(begin=0, end=len(value), total=len(value))
        shape = (rows.total, *value.shape[1:])
        generator = self.generators[place]
        mask = torch.empty(shape, dtype=value.dtype, device=value.device).bernoulli_(keep, generator=generator)
        return value * mask[rows.begin : rows.end]  # no rescaling: [P] 4.2

    def _column_modules(self) -> list[Column]:
        return [column for column in self.columns if isinstance(column, Column)]


def exchange(values: Sequence[Tensor], devices: Sequence[torch.device]) -> list[Tensor]:
    """Both columns' maps or features side by side (first column first), once on each of ``devices``."""
    if len(values) == 1:
        return list(values)
    joined: dict[torch.device, Tensor] = {}
    for device in devices:
        if device not in joined:
            joined[device] = torch.cat([value.to(device, non_blocking=True) for value in values], dim=1)
    return [joined[device] for device in devices]


def seed_of(seed: int, use: str) -> int:
    """A seed for one use (``"weights"``, ``"dropout 0"``), unrelated to the seeds of the others."""
    return int.from_bytes(hashlib.sha256(f"{seed} {use}".encode()).digest()[:8]) >> 1


def _stages(architecture: Architecture) -> tuple[tuple[Stage, ...], Stage]:
    """The layers cut wherever columns exchange or drop out, and the stage of fc8 by itself."""
    stages: list[Stage] = []
    *layers, last = architecture.layers
    for layer in layers:
        drops = "dropout" in layer.operations
        if not stages or layer.reads_both or stages[-1].drops:
            stages.append(Stage(names=(layer.name,), reads_both=layer.reads_both, drops=drops))
        else:
            names = (*stages[-1].names, layer.name)
            stages[-1] = Stage(names=names, reads_both=stages[-1].reads_both, drops=drops)
    return tuple(stages), Stage(names=(last.name,), reads_both=last.reads_both, drops=False)
