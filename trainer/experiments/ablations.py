"""What each part of the network is worth: every switch against the recipe, and the way to the 2012 code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from trainer.experiments.config import ExperimentConfig
from trainer.experiments.estimates import Estimate, paired_difference
from trainer.experiments.experiment import Arm, Conclusion, Evidence, Experiment, Results, Row
from trainer.recipes.parts import PARTS
from trainer.report.charts import Interval, interval_chart

RECIPE = "the recipe"


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One switch: what it undoes, and by how much that raised the errors elsewhere."""

    name: str
    options: tuple[str, ...]
    claim: str
    source: str
    top1: str = "no figure"
    """Points of top-1 error, in the paper; ``log`` marks the authors' 2012 logs."""
    top5: str = "no figure"
    has_own_stream: bool = False
    """It changes which images are consumed."""

    @property
    def published(self) -> float | None:
        """The first figure in ``top1``, for the picture."""
        found = re.search(r"\d[\d.]*", self.top1)
        return float(found[0]) if found else None


SWITCHES = (
    Switch(
        name="columns unlinked",
        options=("--columns", "unlinked"),
        claim="links between the columns lower the error",
        source="log",
        top1="1.17 (log)",
        top5="1.12 (log)",
    ),
    Switch(
        name="one column",
        options=("--columns", "one"),
        claim="two columns lower the error against one",
        source="[P] 3.2",
        top1="1.7; 1.67 (log, 2010)",
        top5="1.2; 1.23 (log, 2010)",
    ),
    Switch(
        name="no response normalisation",
        options=("--no-lrn",),
        claim="response normalisation lowers the error",
        source="[P] 3.3",
        top1="1.4; 1.37 (log)",
        top5="1.2; 1.15 (log)",
    ),
    Switch(
        name="pooling of 2x2",
        options=("--no-overlapping-pooling",),
        claim="overlapping pooling lowers the error",
        source="[P] 3.4",
        top1="0.4; 0.40 (log)",
        top5="0.3; 0.30 (log)",
    ),
    Switch(
        name="no colour noise",
        options=("--colour-pca", "off"),
        claim="colour noise lowers the error",
        source="[P] 4.1",
        top1="over 1",
        has_own_stream=True,
    ),
    Switch(
        name="no crops and mirrors",
        options=("--no-augment",),
        claim="random crops and mirror images lower the error",
        source="[P] 4.1",
        has_own_stream=True,
    ),
    Switch(
        name="no dropout",
        options=("--no-dropout",),
        claim="dropout lowers the error",
        source="[P] 4.2",
    ),
    *(
        Switch(
            name=f"without {layer}",
            options=("--without-layer", layer),
            claim=f"the middle layer {layer} lowers the error",
            source="[P] 7",
            top1="about 2",
        )
        for layer in ("conv3", "conv4", "fc6", "fc7")
    ),
    Switch(
        name="tanh",
        options=("--activation", "tanh"),
        claim="ReLU lowers the error against tanh",
        source="[P] 3.1",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the runs are."""

    options: tuple[str, ...]
    epochs: int
    drops: tuple[float, ...] | None
    """Where rates are divided by 10, as shares of the epochs; None: the recipe's own schedule."""
    seeds: int
    different: str


SCALES = {
    "small": Scale(
        options=("--width", "0.25", "--init", "fan_in", "--batch-size", "64", "--lr", "0.004"),
        epochs=15,
        drops=(0.7, 0.9),
        seeds=3,
        different="quarter width, the store's images and classes, centre crop of the last epoch",
    ),
    "full": Scale(
        options=("--batch-size", "128"),
        epochs=90,
        drops=None,
        seeds=2,
        different="centre crop of the last epoch",
    ),
}
"""By ``--scale``."""


def setting_of(config: ExperimentConfig) -> tuple[str, ...]:
    """The options of ``train`` at the scale asked for, with ``--epochs``, to which the drops of the rate move."""
    scale = SCALES[config.scale]
    epochs = config.epochs or scale.epochs
    setting = (*scale.options, "--epochs", str(epochs))
    if scale.drops is None:
        return setting
    drops = sorted({max(1, int(epochs * share)) for share in scale.drops} - {epochs})
    return (*setting, "--lr-drops", ",".join(map(str, drops))) if drops else setting


def ablations(config: ExperimentConfig) -> Experiment:
    """The recipe, each switch, and each step from the paper's text to the 2012 code; all with the same seeds."""
    scale = SCALES[config.scale]
    seeds = tuple(range(config.seeds or scale.seeds))
    arms = [Arm(name=RECIPE, options=("--recipe", "convnet2012"), seeds=seeds)]
    arms += [
        Arm(
            name=each.name,
            options=("--recipe", "convnet2012", *each.options),
            seeds=seeds,
            stream=each.name if each.has_own_stream else arms[0].stream,
        )
        for each in SWITCHES
    ]
    arms += [
        Arm(name=_step_name(count), options=_step_options(count), seeds=seeds, stream="the paper's")
        for count in range(len(PARTS) + 1)
    ]
    return Experiment(
        name="ablations",
        title="What each part of the network is worth",
        about=(
            f"Every switch of the trainer against the recipe convnet2012, {len(seeds)} seeds each. A difference is "
            "taken seed by seed, between runs that consumed the same images in the same order where the switch "
            "leaves them the same, and is given with its 95 % interval by Student's t: an interval that holds 0 "
            "decides nothing.",
            "The steps lead from the recipe paper to convnet2012, one difference at a time, each compared with the "
            "step before it. The schedule is the same for all.",
            "log: the authors' 2012 logs, whose networks were tested on ten views of the validation images.",
        ),
        setting=setting_of(config),
        arms=tuple(arms),
        conclude=lambda evidence: Conclusion(
            rows=(*_switches(evidence, scale), *_steps(evidence, scale)), charts=_charts(evidence.results)
        ),
    )


def _step_name(count: int) -> str:
    return f"paper with {PARTS[count - 1]}" if count else "paper"


def _step_options(count: int) -> tuple[str, ...]:
    parts = ("--parts-of-2012", ",".join(PARTS[:count])) if count else ()
    return ("--recipe", "paper", *parts)


def _switches(evidence: Evidence, scale: Scale) -> Iterator[Row]:
    for each in SWITCHES:
        for top, paper in ((1, each.top1), (5, each.top5)):
            yield Row(
                claim=f"{each.claim}: top-{top} error of {each.name} minus that of the recipe",
                source=each.source,
                paper=paper,
                ours=_difference(evidence.results, each.name, RECIPE, top),
                unit="points",
                is_greater=True,
                runs=evidence.results.in_words(each.name, RECIPE),
                different=scale.different,
            )


def _steps(evidence: Evidence, scale: Scale) -> Iterator[Row]:
    for count, part in enumerate(PARTS, start=1):
        for top in (1, 5):
            yield Row(
                claim=f"step {count}, {part}: top-{top} error with it minus that of the step before",
                source="[C]",
                paper="unpublished",
                ours=_difference(evidence.results, _step_name(count), _step_name(count - 1), top),
                unit="points",
                runs=evidence.results.in_words(_step_name(count), _step_name(count - 1)),
                different=scale.different,
            )


def _charts(results: Results) -> tuple[str, ...]:
    """Top-1 differences of the switches, and of the steps."""
    switches = [_interval(each.name, _difference(results, each.name, RECIPE, 1), each.published) for each in SWITCHES]
    steps = [
        _interval(part, _difference(results, _step_name(count), _step_name(count - 1), 1))
        for count, part in enumerate(PARTS, start=1)
    ]
    return (
        interval_chart("Top-1 error, against that of the recipe", "points", switches),
        interval_chart("Top-1 error of each step, against the one before", "points", steps),
    )


def _interval(name: str, ours: Estimate | None, published: float | None = None) -> Interval:
    return Interval(name=name, found=None if ours is None else (ours.value, *ours.bounds), published=published)


def _difference(results: Results, arm: str, reference: str, top: int) -> Estimate | None:
    return paired_difference(_errors(results, arm, top), _errors(results, reference, top))


def _errors(results: Results, arm: str, top: int) -> dict[int, float]:
    """Validation errors in per cent after the last epoch, by seed; of runs that failed, none."""
    last = {outcome.seed: outcome.epochs[-1] for outcome in results.of(arm) if outcome.failure is None}
    found = {
        seed: point.validation_top1_error if top == 1 else point.validation_top5_error for seed, point in last.items()
    }
    return {seed: 100 * error for seed, error in found.items() if error is not None}
