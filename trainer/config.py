"""The options of each command, checked once."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commandline import check_options, option, required
from loader_service.client import StreamSpec, View
from loader_service.commands.connect import TARGET, ConnectConfig
from loader_service.wire.addresses import check_metrics_listen
from trainer.network.architecture import Ablation, Architecture, RemovableLayer, resolve
from trainer.recipes import recipe_named
from trainer.recipes.parts import Part, with_parts
from trainer.recipes.recipe import Activation, Columns, Init, Recipe, RecipeName
from trainer.recipes.schedule import with_drops, with_epochs, with_rate

ColourPca = Literal["recipe", "sqrt_eigenvalue", "unit_eigenvalue", "off"]

_DEVICES = "devices of the two columns, such as cuda:0,cuda:1 or cpu,cpu"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ConnectConfig):
    """Options that decide the network's layers; those of ``describe``, and of ``train`` among others."""

    recipe: RecipeName = option(
        "convnet2012",
        "convnet2012: what the authors ran, to get the published 40.7 / 18.2 %; paper: the text's words; cifar10: a "
        "network of four layers for images of 32 pixels (give --crop 32)",
    )
    width: float = option(1.0, "multiplies the paper's maps and units", above=0, most=16)
    crop: int | None = option(None, "side of a crop in pixels (default: 7/8 of the stored side)", least=1)
    activation: Activation = option("relu", "ablation: what the units compute")
    lrn: bool = option(True, "ablation: response normalisation")
    overlapping_pooling: bool = option(True, "ablation: pooling windows of 3x3, 2 apart; without: of 2x2")
    columns: Columns = option("linked", "ablation: two linked columns, two without links, or one")
    dropout: bool = option(True, "ablation: dropout in fc6 and fc7")
    without_layer: RemovableLayer | None = option(None, "ablation: a layer to leave out")
    parts_of_2012: tuple[Part, ...] = option((), "ablation: what --recipe paper has from convnet2012 instead")

    @property
    def ablation(self) -> Ablation:
        return Ablation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Ablation)})

    def architecture(self, *, crop: int, num_classes: int) -> Architecture:
        """The layers that these options make. Raises ValueError when they make no network."""
        recipe = recipe_named(self.recipe)
        return resolve(recipe, crop=crop, num_classes=num_classes, width=self.width, ablation=self.ablation)

    def check_network(self, num_classes: int = 1000) -> None:
        """Raises ValueError, by the option's name, when these options make no network."""
        try:
            self.architecture(crop=self.crop or 224, num_classes=num_classes)
        except ValueError as error:
            raise ValueError(f"--{error}") from None


@dataclass(frozen=True, kw_only=True)
class DescribeConfig(NetworkConfig):
    """Options of ``describe``."""

    num_classes: int | None = option(None, "number of classes (default: the store's with --target, else 1000)", least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_network(self.num_classes or 1000)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(NetworkConfig):
    """Options of ``train``."""

    target: tuple[str, ...] = required(**TARGET)
    run_dir: Path = required("folder for checkpoints, metrics and pictures")
    devices: tuple[str, ...] = option(
        (),
        f"{_DEVICES}; with torchrun all devices of the machine, of which rank r takes the r-th pair "
        "(default: the machine's GPUs, or cpu,cpu)",
        metavar="DEVICE,DEVICE",
    )
    epochs: int | None = option(
        None, "number of epochs; the recipe's milestones move in proportion (default: the recipe's)", least=1
    )
    batch_size: int = option(128, "images of a step, over all processes", least=1)
    lr: float | None = option(None, "first learning rate of the weights; all others keep their ratio to it", above=0)
    lr_drops: tuple[int, ...] = option(
        (), "epochs at which all rates are divided by 10, instead of the recipe's schedule", least=1
    )
    init: Init = option(
        "recipe",
        "initial weights: the recipe's deviations; fan_in: these scaled to a narrower network's inputs; he: "
        "deviation sqrt(2 / inputs) and no bias of 1, the remedy for a loss that stays flat",
    )
    seed: int = option(0, "seed of the order, crops, weights and dropout", least=0, most=2**64 - 1)
    split: str = option("train", "split to train on")
    validation_split: str | None = option(
        None, "split to validate on after each epoch (default: val, if the store has one)"
    )
    colour_pca: ColourPca = option("recipe", "ablation: the scale of the colour shifts, or no colour shifts")
    augment: bool = option(True, "ablation: random crops and mirror images; without: the centre crop")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "of convolutions and products; weights, sums and the update are float32 (auto: bfloat16 on GPUs that have it, "
        "else float32)",
    )
    channels_last: bool = option(True, "keep maps innermost in memory, which makes convolutions faster on a CPU")
    compile: bool = option(False, "compile each column with torch.compile (needs a C++ compiler)")
    resume: str = option(
        "never",
        "auto: continue from the newest whole checkpoint of --run-dir, or start where there is none; never: refuse "
        "a folder that holds checkpoints; or the checkpoint file to continue from",
        metavar="auto|never|FILE",
    )
    checkpoint_interval_s: float = option(
        600.0,
        "also save this often between the ends of epochs",
        above=0,
        formerly="checkpoint-minutes",
        former_unit="m",
    )
    checkpoint_steps: int | None = option(None, "also save each time this many steps have been taken", least=1)
    keep: int = option(3, "checkpoints to keep besides the best", least=1)
    log_steps: int = option(20, "steps from one point of the metrics to the next", least=1)
    tensorboard: bool = option(True, "also write TensorBoard events")
    metrics_listen: str | None = option(
        None, "serve Prometheus metrics at http://HOST:PORT/metrics", metavar="HOST:PORT"
    )
    metrics_insecure: bool = option(False, "serve metrics in clear text on an address that is not loopback")
    threads: int | None = option(None, "CPU threads of torch (default: torch's choice)", least=1, most=4096)
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_target()
        self.check_network()
        if self.metrics_listen is not None:
            check_metrics_listen(self.metrics_listen, is_insecure=self.metrics_insecure)
        if list(self.lr_drops) != sorted(set(self.lr_drops)):
            raise ValueError(f"--lr-drops: expected rising epochs, found {','.join(map(str, self.lr_drops))}")
        end_epoch = self.resolved_recipe.schedule.end_epoch
        if self.lr_drops and self.lr_drops[-1] >= end_epoch:
            raise ValueError(f"--lr-drops: expected epochs before the last, {end_epoch}, found {self.lr_drops[-1]}")

    @property
    def resolved_recipe(self) -> Recipe:
        """The recipe with this command's rates, epochs and colour."""
        recipe = with_parts(recipe_named(self.recipe), self.parts_of_2012)
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

    target: tuple[str, ...] = required(**TARGET)
    checkpoint: tuple[Path, ...] = required(
        "checkpoint files or run folders (their best); the softmax outputs of several are averaged"
    )
    devices: tuple[str, ...] = option((), _DEVICES, metavar="DEVICE,DEVICE")
    split: str = option("val", "split to evaluate")
    crops: Literal["centre", "ten", "both"] = option("both", "the centre crop, the paper's ten crops, or both")
    batch_size: int = option(64, "images asked for at once", least=1)
    classes: bool = option(False, "also print each class's error and the worst confusions")
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_target()
        if not self.checkpoint:
            raise ValueError("--checkpoint: expected at least one file or run folder, found none")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(ConnectConfig):
    """Options of ``report``."""

    run_dir: Path = required("the run's folder", positional=True)
    out: Path | None = option(None, "file to write (default: report.html in the run's folder)")
    devices: tuple[str, ...] = option((), _DEVICES, metavar="DEVICE,DEVICE")
    split: str = option("val", "split that is evaluated, and of the example images")
    crops: Literal["centre", "ten"] = option(
        "ten", "evaluate with the paper's ten crops, or ten times faster with the centre crop"
    )
    train_split: str = option("train", "split in which their neighbours are sought")
    neighbours_among: int = option(2000, "training images that are searched for neighbours", least=0, most=10_000_000)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Options of ``predict``."""

    images: tuple[Path, ...] = required("picture files", positional=True, metavar="IMAGE")
    checkpoint: Path = required("checkpoint file or run folder (its best)")
    devices: tuple[str, ...] = option((), _DEVICES, metavar="DEVICE,DEVICE")
    top: int = option(5, "classes to print", least=1)
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of ``export``."""

    checkpoint: Path = required("checkpoint file or run folder (its best)")
    out: Path = required("safetensors file to write")
