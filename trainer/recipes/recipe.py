"""What a recipe says: layers, constants and schedule, as frozen dataclasses without defaults that matter.

Sources cited in the recipes: [P] is Krizhevsky, Sutskever, Hinton 2012 with its section; [C] is the authors' own
2012 code and logs as released by the Computer History Museum (layers-145 is the paper's network); [C1] is
cuda-convnet, with the authors' networks for CIFAR-10; [C2] is cuda-convnet2.
"""

from dataclasses import dataclass
from typing import Literal

from loader_service.client import ColourScale

RecipeName = Literal["paper", "convnet2012", "cifar10"]
Activation = Literal["relu", "tanh"]
Columns = Literal["linked", "unlinked", "one"]
Init = Literal["recipe", "fan_in", "he"]
"""Initial weights: the recipe's own, or one of two remedies; see trainer.network.layers.initialise."""
Operation = Literal["activation", "lrn", "map_norm", "pool", "mean_pool", "dropout"]


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """A convolutional layer as each of the two columns has it."""

    name: str
    maps: int
    """Filters of one column at width 1."""
    kernel: int
    stride: int
    pad: int
    sees: Literal["image", "own", "both"]
    """What a column's filters read: the image, their own column's maps, or both columns' maps."""
    then: tuple[Operation, ...]
    """What follows the convolution, in order."""
    deviation: float
    """Standard deviation of the initial weights, N(0, deviation)."""
    bias: float
    """Initial bias."""


@dataclass(frozen=True, kw_only=True)
class FullLayer:
    """A fully connected layer as each column has it; the last one (fc8) is whole and on the first device."""

    name: str
    units: int | None
    """Units of one column at width 1; None for fc8, which has one unit a class."""
    then: tuple[Operation, ...]
    deviation: float
    bias: float


@dataclass(frozen=True, kw_only=True)
class CrossMapNorm:
    """``b = a / (k + alpha * sum over num_maps adjacent maps of a^2) ^ beta``: alpha is NOT divided by num_maps."""

    k: float
    num_maps: int
    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True)
class WithinMapNorm:
    """``b = a / (1 + alpha * sum over a window x window neighbourhood of the same map of a^2) ^ beta``."""

    window: int
    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """Windows of ``size x size``, ``stride`` apart: ``pool`` takes each one's maximum, ``mean_pool`` its mean."""

    size: int
    stride: int
    edge: Literal["crossed"] | None = None
    """Crossed: the last window may reach past the edge, and counts what it has inside. None: all lie within."""


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Divides every rate when the validation error stops improving; after ``drops`` divisions the next plateau ends."""

    divide_by: float
    drops: int
    patience_epochs: int
    """Epochs without a new best validation error that count as "stopped improving"."""
    end_epoch: int
    """Stops here at the latest."""


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """Rates as steps: ``((0, 0.01), (25, 0.001))`` is 0.01 in epochs [0, 25) and 0.001 from 25 on."""

    weights: tuple[tuple[float, float], ...]
    conv1_weights: tuple[tuple[float, float], ...]
    biases: tuple[tuple[float, float], ...]
    colour: tuple[tuple[float, float], ...]
    """Standard deviation of the colour draw, likewise by epoch."""
    end_epoch: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides how a network is built and trained, apart from its size and its data."""

    name: RecipeName
    activation: Activation
    convs: tuple[ConvLayer, ...]
    fulls: tuple[FullLayer, ...]
    lrn: CrossMapNorm
    map_norm: WithinMapNorm | None
    pooling: Pooling
    dropout: float
    """Probability with which a unit is dropped; at test its output is multiplied by 1 - dropout instead."""
    batch_size: int
    momentum: float
    weight_decay: float
    bias_decay: float
    weight_rate: float
    bias_rate: float
    schedule: Plateau | Milestones
    colour_std: float
    colour_scale: ColourScale
    num_columns: Literal[1] | None = None
    """1: one column always. None: two, unless an ablation says otherwise."""
    rescale_after_colour: bool
    """True: while colour noise is on, centred training pixels are divided by 1 + colour_std."""
