"""The options of each command, checked once."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from commandline import check_options, option
from loader_service.client import StreamSpec, View
from loader_service.commands.connect import TARGET, ConnectConfig
from loader_service.wire.addresses import host_and_port, is_loopback, named
from trainer.network.architecture import Ablation, RemovableLayer, resolve
from trainer.recipes import Columns, Recipe, RecipeName, recipe_named
from trainer.recipes.recipe import Activation, Init
from trainer.recipes.schedule import with_drops, with_epochs, with_rate

ColourPca = Literal["recipe", "sqrt_eigenvalue", "unit_eigenvalue", "off"]

_DEVICES = "devices of the two columns, such as cuda:0,cuda:1 or cpu,cpu"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ConnectConfig):
    """Options that decide the network's layers; those of ``describe``, and of ``train`` among others."""

    recipe: RecipeName = field(
        default="convnet2012",
        metadata=option(
            "convnet2012: what the authors ran, to get the published 40.7 / 18.2 %; paper: the text's words"
        ),
    )
    width: float = field(default=1.0, metadata=option("multiplies the paper's maps and units", above=0, most=16))
    crop: int | None = field(
        default=None, metadata=option("side of a crop in pixels (default: 7/8 of the stored side)", least=1)
    )
    activation: Activation = field(default="relu", metadata=option("ablation: what the units compute"))
    lrn: bool = field(default=True, metadata=option("ablation: response normalisation"))
    overlapping_pooling: bool = field(
        default=True, metadata=option("ablation: pooling windows of 3x3, 2 apart; without: of 2x2")
    )
    columns: Columns = field(
        default="linked", metadata=option("ablation: two linked columns, two without links, or one")
    )
    dropout: bool = field(default=True, metadata=option("ablation: dropout in fc6 and fc7"))
    without_layer: RemovableLayer | None = field(default=None, metadata=option("ablation: a layer to leave out"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)

    @property
    def ablation(self) -> Ablation:
        return Ablation(
            activation=self.activation,
            lrn=self.lrn,
            overlapping_pooling=self.overlapping_pooling,
            columns=self.columns,
            dropout=self.dropout,
            without_layer=self.without_layer,
        )

    def check_network(self, num_classes: int = 1000) -> None:
        """Raises ValueError when these options make no network."""
        try:
            recipe = recipe_named(self.recipe)
            resolve(recipe, crop=self.crop or 224, num_classes=num_classes, width=self.width, ablation=self.ablation)
        except ValueError as error:
            raise ValueError(f"--{error}") from None


@dataclass(frozen=True, kw_only=True)
class DescribeConfig(NetworkConfig):
    """Options of ``describe``."""

    num_classes: int | None = field(
        default=None, metadata=option("number of classes (default: the store's with --target, else 1000)", least=2)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_network(self.num_classes or 1000)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(NetworkConfig):
    """Options of ``train``."""

    target: tuple[str, ...] = field(metadata=TARGET)
    run_dir: Path = field(metadata=option("folder for checkpoints, metrics and pictures"))
    devices: tuple[str, ...] = field(
        default=(),
        metadata=option(
            f"{_DEVICES}; with torchrun all devices of the machine, of which rank r takes the r-th pair "
            "(default: the machine's GPUs, or cpu,cpu)",
            metavar="DEVICE,DEVICE",
        ),
    )
    epochs: int | None = field(
        default=None,
        metadata=option(
            "number of epochs; the recipe's milestones move in proportion (default: the recipe's)", least=1
        ),
    )
    batch_size: int = field(default=128, metadata=option("images of a step, over all processes", least=1))
    lr: float | None = field(
        default=None,
        metadata=option("first learning rate of the weights; all others keep their ratio to it", above=0),
    )
    lr_drops: tuple[int, ...] = field(
        default=(),
        metadata=option("epochs at which all rates are divided by 10, instead of the recipe's schedule", least=1),
    )
    init: Init = field(
        default="recipe",
        metadata=option(
            "initial weights: the recipe's deviations; fan_in: these scaled to a narrower network's inputs; he: "
            "deviation sqrt(2 / inputs) and no bias of 1, the remedy for a loss that stays flat"
        ),
    )
    seed: int = field(
        default=0, metadata=option("seed of the order, crops, weights and dropout", least=0, most=2**64 - 1)
    )
    split: str = field(default="train", metadata=option("split to train on"))
    validation_split: str | None = field(
        default=None, metadata=option("split to validate on after each epoch (default: val, if the store has one)")
    )
    colour_pca: ColourPca = field(
        default="recipe", metadata=option("ablation: the scale of the colour shifts, or no colour shifts")
    )
    augment: bool = field(
        default=True, metadata=option("ablation: random crops and mirror images; without: the centre crop")
    )
    precision: Literal["float32", "bfloat16"] = field(
        default="float32", metadata=option("bfloat16: convolutions and products are computed by autocast")
    )
    channels_last: bool = field(
        default=True, metadata=option("keep maps innermost in memory, which makes convolutions faster on a CPU")
    )
    compile: bool = field(
        default=False, metadata=option("compile each column with torch.compile (needs a C++ compiler)")
    )
    resume: str = field(
        default="never",
        metadata=option(
            "auto: continue from the newest whole checkpoint of --run-dir, or start where there is none; never: refuse "
            "a folder that holds checkpoints; or the checkpoint file to continue from",
            metavar="auto|never|FILE",
        ),
    )
    checkpoint_interval_s: float = field(
        default=600.0,
        metadata=option(
            "also save this often between the ends of epochs",
            above=0,
            formerly="checkpoint-minutes",
            former_unit="m",
        ),
    )
    checkpoint_steps: int | None = field(
        default=None, metadata=option("also save each time this many steps have been taken", least=1)
    )
    keep: int = field(default=3, metadata=option("checkpoints to keep besides the best", least=1))
    log_steps: int = field(default=20, metadata=option("steps from one point of the metrics to the next", least=1))
    tensorboard: bool = field(default=True, metadata=option("also write TensorBoard events"))
    metrics_listen: str | None = field(
        default=None, metadata=option("serve Prometheus metrics at http://HOST:PORT/metrics", metavar="HOST:PORT")
    )
    metrics_insecure: bool = field(
        default=False, metadata=option("serve metrics in clear text on an address that is not loopback")
    )
    threads: int | None = field(
        default=None, metadata=option("CPU threads of torch (default: torch's choice)", least=1, most=4096)
    )
    json: bool = field(default=False, metadata=option("print the result as JSON"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_target()
        self.check_network()
        if self.metrics_listen is not None:
            with named("--metrics-listen"):
                host_and_port(self.metrics_listen, lowest_port=0)
            if not is_loopback(self.metrics_listen) and not self.metrics_insecure:
                raise ValueError(
                    f"--metrics-listen {self.metrics_listen}: expected a loopback address, or --metrics-insecure to "
                    "show metrics to whoever can connect"
                )
        if list(self.lr_drops) != sorted(set(self.lr_drops)):
            raise ValueError(f"--lr-drops: expected rising epochs, found {','.join(map(str, self.lr_drops))}")
        end_epoch = self.resolved_recipe.schedule.end_epoch
        if self.lr_drops and self.lr_drops[-1] >= end_epoch:
            raise ValueError(f"--lr-drops: expected epochs before the last, {end_epoch}, found {self.lr_drops[-1]}")

    @property
    def resolved_recipe(self) -> Recipe:
        """The recipe with this command's rates, epochs and colour."""
        recipe = recipe_named(self.recipe)
        if self.epochs is not None:
            recipe = with_epochs(recipe, self.epochs)
        if self.lr is not None:
            recipe = with_rate(recipe, self.lr)
        if self.lr_drops:
            recipe = with_drops(recipe, self.lr_drops)
        if self.colour_pca == "off" or not self.augment:
            recipe = dataclasses.replace(recipe, colour_std=0.0)
        elif self.colour_pca != "recipe":
            recipe = dataclasses.replace(recipe, colour_scale=self.colour_pca)
        return dataclasses.replace(recipe, batch_size=self.batch_size)

    def stream_spec(self, crop: int, colour_std: float, rank: int, world_size: int) -> StreamSpec:
        """The training stream of one rank while the colour deviation is ``colour_std``."""
        view: View = "train" if self.augment else "centre"
        return StreamSpec(
            split=self.split,
            view=view,
            crop_size=crop,
            seed=self.seed,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            colour_std=colour_std,
            colour_scale=self.resolved_recipe.colour_scale,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ConnectConfig):
    """Options of ``evaluate``."""

    target: tuple[str, ...] = field(metadata=TARGET)
    checkpoint: tuple[Path, ...] = field(
        metadata=option("checkpoint files or run folders (their best); the softmax outputs of several are averaged")
    )
    devices: tuple[str, ...] = field(default=(), metadata=option(_DEVICES, metavar="DEVICE,DEVICE"))
    split: str = field(default="val", metadata=option("split to evaluate"))
    crops: Literal["centre", "ten", "both"] = field(
        default="both", metadata=option("the centre crop, the paper's ten crops, or both")
    )
    batch_size: int = field(default=64, metadata=option("images asked for at once", least=1))
    classes: bool = field(default=False, metadata=option("also print each class's error and the worst confusions"))
    json: bool = field(default=False, metadata=option("print the result as JSON"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)
        self.require_target()
        if not self.checkpoint:
            raise ValueError("--checkpoint: expected at least one file or run folder, found none")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(ConnectConfig):
    """Options of ``report``."""

    run_dir: Path = field(metadata=option("the run's folder", positional=True))
    out: Path | None = field(default=None, metadata=option("file to write (default: report.html in the run's folder)"))
    devices: tuple[str, ...] = field(default=(), metadata=option(_DEVICES, metavar="DEVICE,DEVICE"))
    split: str = field(default="val", metadata=option("split that is evaluated, and of the example images"))
    crops: Literal["centre", "ten"] = field(
        default="ten", metadata=option("evaluate with the paper's ten crops, or ten times faster with the centre crop")
    )
    train_split: str = field(default="train", metadata=option("split in which their neighbours are sought"))
    neighbours_among: int = field(
        default=2000, metadata=option("training images that are searched for neighbours", least=0, most=10_000_000)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Options of ``predict``."""

    images: tuple[Path, ...] = field(metadata=option("picture files", positional=True, metavar="IMAGE"))
    checkpoint: Path = field(metadata=option("checkpoint file or run folder (its best)"))
    devices: tuple[str, ...] = field(default=(), metadata=option(_DEVICES, metavar="DEVICE,DEVICE"))
    top: int = field(default=5, metadata=option("classes to print", least=1))
    json: bool = field(default=False, metadata=option("print the result as JSON"))

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of ``export``."""

    checkpoint: Path = field(metadata=option("checkpoint file or run folder (its best)"))
    out: Path = field(metadata=option("safetensors file to write"))
