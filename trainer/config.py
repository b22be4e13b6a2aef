"""The options of each command, checked once."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from commandline import option
from loader_service.commands.connect import ConnectConfig
from loader_service.wire.addresses import host_and_port, is_loopback, named
from loader_service.wire.types import StreamSpec, View
from trainer.network.architecture import Ablation, resolve
from trainer.recipes import Columns, Recipe, RecipeName, recipe_named
from trainer.recipes.recipe import Activation, Init
from trainer.recipes.schedule import with_drops, with_epochs, with_rate

ColourPca = Literal["recipe", "sqrt_eigenvalue", "unit_eigenvalue", "off"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ConnectConfig):
    """Options of ``train``."""

    run_dir: Path | None = field(default=None, metadata=option("folder for checkpoints, metrics and pictures"))
    devices: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "the two columns' devices, e.g. cuda:0,cuda:1 or cpu,cpu; with torchrun all of a machine's devices, "
            "rank r takes the r-th pair (default: the GPUs there are, else cpu,cpu)",
            metavar="DEVICE,DEVICE",
        ),
    )
    recipe: RecipeName = field(
        default="convnet2012",
        metadata=option(
            "convnet2012: what the authors ran, use it to get the published 40.7 / 18.2 %; paper: the text "
            "(default: convnet2012)"
        ),
    )
    epochs: int | None = field(
        default=None, metadata=option("last epoch; the recipe's milestones move in proportion (default: the recipe's)")
    )
    batch_size: int = field(default=128, metadata=option("images a step over all processes"))
    lr: float | None = field(
        default=None, metadata=option("first learning rate of the weights; the others keep their ratio to it")
    )
    lr_drops: tuple[int, ...] = field(
        default=(), metadata=option("divide the rates by 10 at these epochs instead of the recipe's schedule")
    )
    init: Init = field(
        default="recipe",
        metadata=option(
            "initial weights: the recipe's deviations; fan_in: scaled to a narrower network's inputs; he: deviation "
            "sqrt(2 / inputs) and no bias of 1, the remedy when the loss stays flat (default: recipe)"
        ),
    )
    seed: int = field(default=0, metadata=option("seed of order, crops, weights and dropout"))
    width: float = field(default=1.0, metadata=option("times the paper's maps and units"))
    crop: int | None = field(default=None, metadata=option("side of a crop (default: 7/8 of the stored side)"))
    split: str = field(default="train", metadata=option("split to train on"))
    validation_split: str | None = field(
        default="val", metadata=option("split to validate on after each epoch; passed over when the store has none")
    )
    activation: Activation = field(default="relu", metadata=option("ablation: the units (default: relu)"))
    lrn: bool = field(default=True, metadata=option("ablation: response normalisation"))
    overlapping_pooling: bool = field(default=True, metadata=option("ablation: 3x3 windows 2 apart, not 2x2"))
    columns: Columns = field(
        default="linked", metadata=option("ablation: two linked columns, two without links, or one (default: linked)")
    )
    dropout: bool = field(default=True, metadata=option("ablation: dropout in fc6 and fc7"))
    without_layer: str | None = field(
        default=None, metadata=option("ablation: leave out conv3, conv4, fc6 or fc7", metavar="LAYER")
    )
    colour_pca: ColourPca = field(
        default="recipe", metadata=option("ablation: scale of the colour shifts, or off (default: recipe)")
    )
    augment: bool = field(default=True, metadata=option("ablation: random crops and mirrors, not the centre crop"))
    precision: Literal["float32", "bfloat16"] = field(
        default="float32", metadata=option("bfloat16: autocast products and convolutions (default: float32)")
    )
    channels_last: bool = field(
        default=True, metadata=option("keep maps innermost in memory: convolutions on a CPU run faster so")
    )
    compile: bool = field(default=False, metadata=option("torch.compile each column (needs a C++ compiler)"))
    resume: str = field(
        default="never",
        metadata=option(
            "auto: continue from the run's newest whole checkpoint, or start; never: refuse a folder that holds "
            "checkpoints; or a checkpoint file",
            metavar="auto|never|FILE",
        ),
    )
    checkpoint_minutes: float = field(
        default=10.0, metadata=option("also save this often between the ends of epochs", metavar="MINUTES")
    )
    checkpoint_steps: int | None = field(default=None, metadata=option("also save every so many steps"))
    keep: int = field(default=3, metadata=option("checkpoints to keep besides the best"))
    log_steps: int = field(default=20, metadata=option("steps between points of the metrics"))
    tensorboard: bool = field(default=True, metadata=option("also write TensorBoard events"))
    metrics_listen: str | None = field(
        default=None, metadata=option("serve Prometheus metrics at http://HOST:PORT/metrics", metavar="HOST:PORT")
    )
    metrics_insecure: bool = field(
        default=False, metadata=option("serve metrics in clear text on an address that is not loopback")
    )
    threads: int | None = field(default=None, metadata=option("CPU threads of torch (default: torch's choice)"))
    describe: bool = field(default=False, metadata=option("print the network's layers and sizes, and stop"))
    num_classes: int | None = field(
        default=None, metadata=option("classes, for --describe without a loader (default: the store's; then 1000)")
    )
    json: bool = field(default=False, metadata=option("print the result as JSON"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.describe:
            self.require_target()
            if self.run_dir is None:
                raise ValueError("--run-dir: expected a folder, found none")
        for name in ("batch_size", "keep", "log_steps", "epochs", "checkpoint_steps", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
        if self.metrics_listen is not None:
            with named("--metrics-listen"):
                host_and_port(self.metrics_listen, lowest_port=0)
            if not is_loopback(self.metrics_listen) and not self.metrics_insecure:
                raise ValueError(
                    f"--metrics-listen {self.metrics_listen}: expected a loopback address, or --metrics-insecure to "
                    "show metrics to whoever can connect"
                )
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"--lr: expected more than 0, found {self.lr}")
        if list(self.lr_drops) != sorted(set(self.lr_drops)):
            raise ValueError(f"--lr-drops: expected rising epochs, found {','.join(map(str, self.lr_drops))}")
        StreamSpec(seed=self.seed, batch_size=self.batch_size)
        resolve(
            self.resolved_recipe,
            crop=self.crop or 224,
            num_classes=self.num_classes or 1000,
            width=self.width,
            ablation=self.ablation,
        )

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

    checkpoint: tuple[Path, ...] = field(
        metadata=option("checkpoint files or run folders (their best); the softmax outputs of several are averaged")
    )
    devices: tuple[str, ...] = field(default=(), metadata=option("the two columns' devices", metavar="DEVICE,DEVICE"))
    split: str = field(default="val", metadata=option("split to evaluate"))
    crops: Literal["centre", "ten", "both"] = field(
        default="both", metadata=option("centre crop, the paper's ten crops, or both (default: both)")
    )
    batch_size: int = field(default=64, metadata=option("images at once"))
    classes: bool = field(default=False, metadata=option("also print each class's error and the worst confusions"))
    json: bool = field(default=False, metadata=option("print the result as JSON"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_target()
        if not self.checkpoint:
            raise ValueError("--checkpoint: expected at least one file or run folder, found none")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size: expected at least 1, found {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(ConnectConfig):
    """Options of ``report``."""

    run_dir: Path = field(metadata=option("the run's folder", positional=True))
    out: Path | None = field(default=None, metadata=option("file to write (default: report.html in the run's folder)"))
    devices: tuple[str, ...] = field(default=(), metadata=option("the two columns' devices", metavar="DEVICE,DEVICE"))
    split: str = field(default="val", metadata=option("split of the example images"))
    train_split: str = field(default="train", metadata=option("split in which their neighbours are sought"))
    neighbours_among: int = field(default=2000, metadata=option("training images that are searched for neighbours"))


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Options of ``predict``."""

    images: tuple[Path, ...] = field(metadata=option("picture files", positional=True, metavar="IMAGE"))
    checkpoint: Path = field(metadata=option("checkpoint file or run folder (its best)"))
    devices: tuple[str, ...] = field(default=(), metadata=option("the two columns' devices", metavar="DEVICE,DEVICE"))
    top: int = field(default=5, metadata=option("classes to print"))
    json: bool = field(default=False, metadata=option("print the result as JSON"))

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"--top: expected at least 1, found {self.top}")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of ``export``."""

    checkpoint: Path = field(metadata=option("checkpoint file or run folder (its best)"))
    out: Path = field(metadata=option("safetensors file to write"))
