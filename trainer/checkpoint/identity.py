"""What a run is, under flat names, and which of it may be different when the run continues from a checkpoint."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loader_service.client import Description
from trainer.checkpoint.saved_network import NetworkPlan
from trainer.checkpoint.snapshot import Identity, Snapshot, Value
from trainer.config import TrainConfig
from trainer.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class ResumeRule:
    """Some options of ``train``, whether they may change when a run continues, and what that does or what to do."""

    options: tuple[str, ...]
    """As typed; a rule without options is about the service or the program."""
    may_change: bool
    note: str
    names: tuple[str, ...] = ()
    """Beginnings of the identity's names that these options decide."""


RESUME_RULES = (
    ResumeRule(
        options=("--epochs", "--lr", "--lr-drops"),
        may_change=True,
        note="the schedule of these options holds from here on, as if it always had: milestones move with --epochs, "
        "--lr-drops 25,51 lowers rates by hand",
        names=("recipe.schedule.", "recipe.weight_rate", "recipe.bias_rate"),
    ),
    ResumeRule(
        options=("--batch-size",),
        may_change=True,
        note="at the start of an epoch, or where the images taken so far are whole batches of the new size",
        names=("recipe.batch_size",),
    ),
    ResumeRule(
        options=("--devices", "--threads", "--channels-last", "--compile"),
        may_change=True,
        note="where and how it is computed, the number of torchrun's processes too: results differ by rounding",
    ),
    ResumeRule(
        options=("--precision",),
        may_change=True,
        note="where it is given; auto is refused on a device that would choose another than the checkpoint's",
        names=("precision",),
    ),
    ResumeRule(
        options=("--validation-split", "--keep", "--checkpoint-interval-s", "--checkpoint-steps", "--log-steps"),
        may_change=True,
        note="what is measured and kept; the best so far stays the best",
    ),
    ResumeRule(
        options=("--tensorboard", "--metrics-listen", "--metrics-insecure", "--json", "--run-dir", "--resume"),
        may_change=True,
        note="what is shown, and where; a checkpoint of another folder starts a run in --run-dir",
    ),
    ResumeRule(
        options=(
            *("--target", "--service-timeout-s", "--prefetch-bytes", "--prefetch-steps", "--transport"),
            *("--tls-ca", "--tls-cert", "--tls-key", "--tls-server-name", "--token-file", "--insecure"),
        ),
        may_change=True,
        note="any loaders of the same store",
    ),
    ResumeRule(
        options=(),
        may_change=False,
        note="serve the store, with the version of the loader, that the run began with",
        names=("fingerprint", "pipeline_version", "num_classes"),
    ),
    ResumeRule(
        options=("--split", "--seed", "--augment"),
        may_change=False,
        note="they decide the stream of images: leave them, or start another run",
        names=("split", "seed", "augment"),
    ),
    ResumeRule(
        options=(
            *("--crop", "--width", "--columns", "--without-layer"),
            *("--activation", "--lrn", "--overlapping-pooling", "--dropout", "--parts-of-2012"),
        ),
        may_change=False,
        note="they decide the network: leave them, or start another run",
        names=("crop", "width", "ablation."),
    ),
    ResumeRule(
        options=("--colour-pca",),
        may_change=False,
        note="it decides the stream of images: leave it, or start another run",
        names=("recipe.colour_",),
    ),
    ResumeRule(
        options=("--init",),
        may_change=False,
        note="the weights have left it behind: leave it, or start another run",
        names=("init",),
    ),
    ResumeRule(
        options=("--recipe",),
        may_change=False,
        note="leave it, or start another run",
        names=("recipe.", ""),
    ),
)
"""Every option of ``train`` once. Of several rules whose names fit, the first counts."""


def rule_of(name: str) -> ResumeRule:
    """The rule about one name of an identity."""
    return next(rule for rule in RESUME_RULES if any(name.startswith(each) for each in rule.names))


def identity_of(config: TrainConfig, plan: NetworkPlan, description: Description, precision: str) -> Identity:
    """The store, the stream, the network, the rule of update and the schedule, by dotted name."""
    values: dict[str, Value] = {
        "fingerprint": description.fingerprint,
        "pipeline_version": description.pipeline_version,
        "split": config.split,
        "seed": config.seed,
        "crop": plan.crop,
        "width": plan.width,
        "num_classes": len(plan.classes),
        "augment": config.augment,
        "init": config.init,
        "precision": precision,
    }
    _flatten("recipe", dataclasses.asdict(config.resolved_recipe), values)
    _flatten("ablation", dataclasses.asdict(plan.ablation), values)
    return values


def compare(path: Path, found: Identity, expected: Identity) -> list[str]:
    """The options, as typed, that a run changes against the checkpoint that it continues.

    Raises CheckpointError that names every difference which may not be, and what to do instead.
    """
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    refused = [name for name in names if not rule_of(name).may_change]
    if "recipe.name" in refused:  # which decides all the rest of it
        refused = [name for name in refused if name == "recipe.name" or not name.startswith("recipe.")]
    if not refused:  # names that one of them lacks are new in this version, or were given up
        return list(dict.fromkeys(_typed(name) for name in names if name in found and name in expected))
    parts = []
    for rule in dict.fromkeys(map(rule_of, refused)):
        differences = ", ".join(
            f"{_typed(name)} was {found.get(name)!r} and is {expected.get(name)!r}"
            for name in refused
            if rule_of(name) is rule
        )
        parts.append(f"{differences} ({rule.note})")
    raise CheckpointError(f"{path} belongs to another run: {'; '.join(parts)}")


def step_of(snapshot: Snapshot, path: Path, *, batch_size: int, num_images: int) -> int:
    """The snapshot's step within its epoch, in steps of ``batch_size``.

    Raises CheckpointError when its images are no whole number of such batches.
    """
    before = snapshot.identity.get("recipe.batch_size")
    if before == batch_size or not isinstance(before, int):
        return snapshot.step
    if snapshot.step == num_images // before:  # trained and not yet validated
        return num_images // batch_size
    num_taken = snapshot.step * before
    if num_taken % batch_size:
        raise CheckpointError(
            f"--batch-size {batch_size}: {path} is {num_taken} images into an epoch, no whole batches of that size:"
            f" continue with --batch-size {before} to the end of the epoch, or with a divisor of {num_taken}"
        )
    return num_taken // batch_size


_TYPED = {
    "fingerprint": "the store's fingerprint",
    "pipeline_version": "the loaders' pipeline version",
    "num_classes": "the store's number of classes",
    "recipe.name": "--recipe",
    "recipe.batch_size": "--batch-size",
    "recipe.weight_rate": "--lr",
    "recipe.bias_rate": "--lr",
    "recipe.colour_std": "--colour-pca (deviation)",
    "recipe.colour_scale": "--colour-pca",
}


def _typed(name: str) -> str:
    """A name of an identity as the option that decides it, or in words where no option does."""
    if name in _TYPED:
        return _TYPED[name]
    if name.startswith("recipe.schedule."):
        return "the schedule"
    if name.startswith("recipe."):
        return f"the recipe's {name.removeprefix('recipe.')}"
    return "--" + name.removeprefix("ablation.").replace("_", "-")


def _flatten(prefix: str, value: Any, into: dict[str, Value]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}", item, into)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            # Layers are told apart by their names, which read better in a message than numbers.
            name = item["name"] if isinstance(item, dict) and "name" in item else place
            _flatten(f"{prefix}.{name}", item, into)
    else:
        into[prefix] = value
