"""Figure 1: epochs to 25 % training error on CIFAR-10 with ReLU and with tanh, each at the best of some rates."""

import statistics
from collections.abc import Sequence

from trainer.experiments.config import ExperimentConfig
from trainer.experiments.estimates import Estimate, ratio_of
from trainer.experiments.experiment import Arm, Conclusion, Experiment, Outcome, Results, Row
from trainer.monitor.metrics import EpochPoint
from trainer.recipes.recipe import Activation
from trainer.report.charts import Line, line_chart

GOAL = 0.25
"""Training error, as a fraction: the dashed line of [P] figure 1."""
UNITS: tuple[Activation, ...] = ("relu", "tanh")
RATES = tuple(0.001 * 2.0**power for power in range(-4, 7))
"""Those that may be tried, in ascending order."""
FIRST_RATES: dict[Activation, tuple[float, ...]] = {"relu": (0.002, 0.001), "tanh": (0.008, 0.004)}
"""Those that are: from here on towards the better ones, until the best has a worse one on either side. ``--quick``
takes the first, which was the best when this was run (docs/experiments.md)."""
EPOCHS: dict[Activation, int] = {"relu": 16, "tanh": 48}
"""Runs end when they have reached the goal, and here if they have not."""
SEEDS = 3
CLAIM = "ReLU reaches 25 % training error in fewer epochs than tanh: epochs with tanh / epochs with ReLU"


def figure_1(config: ExperimentConfig) -> Experiment:
    """Rates with one seed for each unit until the best is known, then the other seeds at that."""
    seeds = tuple(range(config.seeds or (1 if config.quick else SEEDS)))
    num_rates = 1 if config.quick else None
    arms = tuple(_arm(unit, rate, seeds[:1], config.epochs) for unit in UNITS for rate in FIRST_RATES[unit][:num_rates])

    def then(results: Results) -> tuple[Arm, ...]:
        further = []
        for unit in UNITS:
            rate = None if config.quick else _next_rate(unit, results)
            best = _best(unit, results)
            if rate is not None:
                further.append(_arm(unit, rate, seeds[:1], config.epochs))
            elif best is not None:
                further.append(_arm(*best, seeds, config.epochs))
        return tuple(further)

    return Experiment(
        name="figure-1",
        title="Figure 1: ReLU and tanh on CIFAR-10",
        about=(
            "The network of the paper's figure was never released. This is the nearest that its authors did release "
            "for CIFAR-10: three convolutions of 32, 32 and 64 maps of 5x5, pooling windows of 3x3 two apart (the "
            "greatest value, then means), one full layer to ten classes; batches of 128, momentum 0.9, biases at "
            "twice the weights' rate; no norms, no weight decay, no crops, mirrors or noise.",
            f"Each unit is trained with seed {seeds[0]} at rates of which each is twice the one before, until the one "
            "that reached the goal first, or came nearest to it, has a worse one on either side; at that rate with the "
            "other seeds too. The training error of an epoch is the mean over its steps, while weights change; between "
            "epochs it is taken to change evenly. A run ends with the epoch that reaches the goal.",
            "Where the store was made from CIFAR-10 as JPEG files, its pixels are not those of the original.",
        ),
        setting=("--recipe", "cifar10", "--crop", "32", "--no-augment", "--colour-pca", "off", "--batch-size", "128"),
        arms=arms,
        then=then,
        is_enough=lambda points: epochs_to_goal(points) is not None,
        conclude=lambda evidence: _conclude(evidence.results),
    )


def epochs_to_goal(points: Sequence[EpochPoint]) -> float | None:
    """Epochs until the training error is GOAL, between two epochs in proportion; None if it never is."""
    before = 1.0
    for point in points:
        error = point.train_top1_error
        if error <= GOAL:
            return point.epoch + ((before - GOAL) / (before - error) if point.epoch else 1.0)
        before = error
    return None


def _arm(unit: Activation, rate: float, seeds: tuple[int, ...], epochs: int | None) -> Arm:
    options = ("--activation", unit, "--lr", f"{rate:g}", "--epochs", str(epochs or EPOCHS[unit]))
    return Arm(name=_name(unit, rate), options=options, seeds=seeds)


def _name(unit: Activation, rate: float) -> str:
    return f"{unit} at {rate:g}"


def _best(unit: Activation, results: Results) -> tuple[Activation, float] | None:
    """The unit and the rate whose run reached the goal first or, if none has, ended nearest; None if all diverged."""
    ranked: list[tuple[float, float, float]] = []
    for rate in RATES:
        for outcome in results.of(_name(unit, rate)):
            if outcome.diverged is None:
                reached = epochs_to_goal(outcome.epochs)
                ranked.append((float("inf") if reached is None else reached, outcome.epochs[-1].train_top1_error, rate))
    return (unit, min(ranked)[2]) if ranked else None


def _next_rate(unit: Activation, results: Results) -> float | None:
    """The rate to try next: beside the best of those tried, or below all where all diverged; None: no more."""
    tried = [rate for rate in RATES if results.of(_name(unit, rate))]
    best = _best(unit, results)
    place = RATES.index(tried[0]) if best is None else RATES.index(best[1])
    beside = (place - 1,) if best is None else (place - 1, place + 1)
    return next((RATES[each] for each in beside if 0 <= each < len(RATES) and RATES[each] not in tried), None)


def _conclude(results: Results) -> Conclusion:
    names: dict[Activation, str] = {}
    for unit in UNITS:
        best = _best(unit, results)
        if best is not None:
            names[unit] = _name(*best)
    runs = {unit: results.of(name) for unit, name in names.items()}
    reached = {unit: [epochs_to_goal(outcome.epochs) for outcome in outcomes] for unit, outcomes in runs.items()}
    row = Row(
        claim=CLAIM,
        source="[P] 3.1, figure 1",
        paper="6",
        ours=_ratio(runs, reached),
        neutral=1.0,
        is_greater=True,
        runs="; ".join(f"{name}: {_epochs_in_words(reached[unit])}" for unit, name in names.items()),
        different="the network and its rates: those of the figure were not released",
    )
    return Conclusion(rows=(row,), charts=(line_chart("Training error, %", "epoch", _lines(runs, names)),))


def _ratio(
    runs: dict[Activation, tuple[Outcome, ...]], reached: dict[Activation, list[float | None]]
) -> Estimate | None:
    """Epochs with tanh over those with ReLU; a lower bound where a run with tanh ended before the goal."""
    if len(runs) < len(UNITS):
        return None
    relu = [epochs for epochs in reached["relu"] if epochs is not None]
    pairs = zip(runs["tanh"], reached["tanh"], strict=True)
    tanh = [(epochs, float(len(outcome.epochs))) for outcome, epochs in pairs if outcome.diverged is None]
    ratio = ratio_of([end if epochs is None else epochs for epochs, end in tanh], relu)
    if ratio is None or all(epochs is not None for epochs, _ in tanh):
        return ratio
    spread = "a lower bound: not all runs with tanh reached the goal"
    return Estimate(value=ratio.bounds[0], low=ratio.bounds[0], num=ratio.num, spread=spread)


def _epochs_in_words(reached: Sequence[float | None]) -> str:
    return ", ".join("not reached" if epochs is None else f"{epochs:.1f} epochs" for epochs in reached)


def _lines(runs: dict[Activation, tuple[Outcome, ...]], names: dict[Activation, str]) -> tuple[Line, ...]:
    """A curve a unit, the mean over its seeds, and the goal."""
    lines = []
    for unit, outcomes in runs.items():
        errors = zip(*([point.train_top1_error for point in outcome.epochs] for outcome in outcomes), strict=False)
        points = [(float(epoch), 100 * statistics.fmean(each)) for epoch, each in enumerate(errors, start=1)]
        lines.append(Line(name=names[unit], points=points))
    longest = max((len(line.points) for line in lines), default=1)
    return (*lines, Line(name="25 %", points=[(1.0, 100 * GOAL), (float(longest), 100 * GOAL)]))
