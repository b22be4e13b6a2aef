"""Resolves a recipe, the ablation switches and the sizes into concrete layers: shapes, parameters, multiply-adds."""

from dataclasses import dataclass
from typing import Literal, get_args

from trainer.recipes.parts import Part, with_parts
from trainer.recipes.recipe import (
    Activation,
    Columns,
    ConvLayer,
    CrossMapNorm,
    Operation,
    Pooling,
    Recipe,
    WithinMapNorm,
)

RemovableLayer = Literal["conv3", "conv4", "fc6", "fc7"]
"""[P] 7: "removing any of the middle layers" - those whose removal leaves a network that still fits together."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is switched off or exchanged against the recipe; the defaults change nothing."""

    activation: Activation = "relu"
    lrn: bool = True
    overlapping_pooling: bool = True
    columns: Columns = "linked"
    dropout: bool = True
    without_layer: RemovableLayer | None = None
    parts_of_2012: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        removable = get_args(RemovableLayer)
        if self.without_layer is not None and self.without_layer not in removable:
            raise ValueError(f"without_layer: expected one of {', '.join(removable)}, found {self.without_layer!r}")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One concrete layer; defaults are those of a full one. Counts are of one column's part unless said otherwise."""

    name: str
    kind: Literal["conv", "full"]
    num_parts: int
    """How many columns hold a part of it: 1 for fc8."""
    reads_both: bool
    """True: the input is both columns' output, side by side; on two devices this is an exchange."""
    num_inputs: int
    """Maps that the filters see, or features of a fully connected layer."""
    num_outputs: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    pad_end: int = 0
    """Zeros read past the right and bottom edge (conv1 only)."""
    side: int = 1
    """Side of the convolution's output before any pooling; 1 for fully connected layers."""
    side_out: int = 1
    """Side after the layer's pooling."""
    operations: tuple[Operation, ...]
    deviation: float
    bias: float
    recipe_inputs: int
    """Inputs of one unit at the recipe's full size, where its deviation was chosen."""

    @property
    def fan_in(self) -> int:
        """Inputs of one unit."""
        return self.num_inputs * self.kernel**2

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all parts together."""
        return self.num_parts * self.num_outputs * (self.fan_in + 1)

    @property
    def num_neurons(self) -> int:
        """Outputs of all parts together, before pooling."""
        return self.num_parts * self.num_outputs * self.side**2

    @property
    def multiply_adds(self) -> int:
        """Of one image, all parts together."""
        return self.num_parts * self.num_outputs * self.fan_in * self.side**2


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network ready to be built."""

    crop: int
    num_classes: int
    num_columns: int
    layers: tuple[Layer, ...]
    activation: Activation
    lrn: CrossMapNorm
    map_norm: WithinMapNorm | None
    pooling: Pooling
    dropout: float

    @property
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of one image, forward."""
        return sum(layer.multiply_adds for layer in self.layers)


def resolve(
    recipe: Recipe, *, crop: int, num_classes: int, width: float = 1.0, ablation: Ablation | None = None
) -> Architecture:
    """The layers of ``recipe`` for ``crop x crop`` images, with ``width`` times the maps and units of each column.

    Raises ValueError when the crop is too small for the layers or a number is out of range.
    """
    ablation = ablation or Ablation()
    recipe = with_parts(recipe, ablation.parts_of_2012)
    if width <= 0:
        raise ValueError(f"width: expected more than 0, found {width}")
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, found {num_classes}")
    num_columns = recipe.num_columns or (1 if ablation.columns == "one" else 2)
    pooling = recipe.pooling if ablation.overlapping_pooling else Pooling(size=2, stride=2)
    full_size_inputs = CIFAR_FAN_IN if recipe.name == "cifar10" else FULL_SIZE_FAN_IN
    side, inputs = crop, 3
    layers: list[Layer] = []
    for conv in recipe.convs:
        if conv.name == ablation.without_layer:
            continue
        outputs = _scaled(_conv_maps(conv, ablation.columns), width)
        both = conv.sees == "both" and ablation.columns == "linked"
        pad_end = 0
        if conv.sees == "image":
            # [C]: 1 + ceil((crop - kernel) / stride) windows, zeros past the edge: 55 of 224, which needs 3 zeros.
            windows = 1 + -(-(side - conv.kernel) // conv.stride)
            pad_end = (windows - 1) * conv.stride + conv.kernel - side
        conv_side = (side + 2 * conv.pad + pad_end - conv.kernel) // conv.stride + 1
        operations = _kept(conv.then, ablation)
        side_out = _pooled(conv_side, pooling) if {"pool", "mean_pool"} & {*operations} else conv_side
        if crop < conv.kernel or conv_side < 1 or side_out < 1:
            raise ValueError(f"crop: {crop} is too small, nothing is left after {conv.name}")
        layers.append(
            Layer(
                name=conv.name,
                kind="conv",
                num_parts=num_columns,
                reads_both=both,
                num_inputs=inputs * (2 if both else 1),
                num_outputs=outputs,
                kernel=conv.kernel,
                stride=conv.stride,
                pad=conv.pad,
                pad_end=pad_end,
                side=conv_side,
                side_out=side_out,
                operations=operations,
                deviation=conv.deviation,
                bias=conv.bias,
                recipe_inputs=full_size_inputs[conv.name],
            )
        )
        side, inputs = side_out, outputs
    features = inputs * side**2
    for full in recipe.fulls:
        if full.name == ablation.without_layer:
            continue
        last = full.units is None
        both = num_columns == 2 and (last or ablation.columns == "linked")
        outputs = num_classes if full.units is None else _scaled(full.units * (3 - num_columns), width)
        layers.append(
            Layer(
                name=full.name,
                kind="full",
                num_parts=1 if last else num_columns,
                reads_both=both,
                num_inputs=features * (2 if both else 1),
                num_outputs=outputs,
                operations=_kept(full.then, ablation),
                deviation=full.deviation,
                bias=full.bias,
                recipe_inputs=full_size_inputs[full.name],
            )
        )
        features = outputs
    return Architecture(
        crop=crop,
        num_classes=num_classes,
        num_columns=num_columns,
        layers=tuple(layers),
        activation=recipe.activation if ablation.activation == "relu" else ablation.activation,
        lrn=recipe.lrn,
        map_norm=recipe.map_norm,
        pooling=pooling,
        dropout=recipe.dropout,
    )


FULL_SIZE_FAN_IN = {
    "conv1": 3 * 11**2,
    "conv2": 48 * 5**2,
    "conv3": 256 * 3**2,
    "conv4": 192 * 3**2,
    "conv5": 192 * 3**2,
    "fc6": 256 * 6**2,
    "fc7": 4096,
    "fc8": 4096,
}
"""Inputs of one unit of the paper's network ([P] 3.5): the size at which the recipes' deviations were chosen."""
CIFAR_FAN_IN = {"conv1": 3 * 5**2, "conv2": 32 * 5**2, "conv3": 32 * 5**2, "fc4": 64 * 4**2}
"""The same of the network for CIFAR-10 [C1]."""


def _conv_maps(conv: ConvLayer, columns: Columns) -> int:
    # [P] 3.5, footnote to the one-GPU figures: the one-column network keeps the last convolutional layer and the
    # fully connected ones whole, since most parameters follow it.
    return conv.maps * 2 if columns == "one" and conv.name == "conv5" else conv.maps


def _pooled(side: int, pooling: Pooling) -> int:
    """The side after pooling: windows along an edge of ``side``."""
    reach = side - pooling.size
    return (-(-reach // pooling.stride) if pooling.edge == "crossed" else reach // pooling.stride) + 1


def _scaled(count: int, width: float) -> int:
    return max(1, round(count * width))


def _kept(operations: tuple[Operation, ...], ablation: Ablation) -> tuple[Operation, ...]:
    dropped: set[Operation] = set()
    if not ablation.lrn:
        dropped |= {"lrn", "map_norm"}
    if not ablation.dropout:
        dropped.add("dropout")
    return tuple(operation for operation in operations if operation not in dropped)
