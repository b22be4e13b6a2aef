"""Learning rates and colour noise by epoch: the paper's plateau rule and the 2012 log's milestones."""

import dataclasses
import math
from dataclasses import dataclass

from trainer.recipes.recipe import Milestones, Plateau, Recipe


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates of one epoch."""

    weight: float
    conv1_weight: float
    bias: float

    def of(self, kind: str) -> float:
        """The rate of ``weight``, ``conv1_weight`` or ``bias``."""
        rate: float = getattr(self, kind)
        return rate


@dataclass(frozen=True, kw_only=True)
class ScheduleState:
    """What a schedule remembers between epochs; plain data, kept in checkpoints."""

    num_drops: int = 0
    best_error: float | None = None
    epochs_since_best: int = 0
    finished: bool = False


def rates_at(recipe: Recipe, epoch: int, state: ScheduleState) -> Rates:
    """The rates of ``epoch``."""
    if isinstance(recipe.schedule, Milestones):
        schedule = recipe.schedule
        return Rates(
            weight=_step_value(schedule.weights, epoch),
            conv1_weight=_step_value(schedule.conv1_weights, epoch),
            bias=_step_value(schedule.biases, epoch),
        )
    divisor = recipe.schedule.divide_by**state.num_drops
    weight = recipe.weight_rate / divisor
    return Rates(weight=weight, conv1_weight=weight, bias=recipe.bias_rate / divisor)


def colour_std_at(recipe: Recipe, epoch: int) -> float:
    """Standard deviation of the colour draw in ``epoch``."""
    if isinstance(recipe.schedule, Milestones):
        return min(recipe.colour_std, _step_value(recipe.schedule.colour, epoch))
    return recipe.colour_std


def colour_end(recipe: Recipe, epoch: int) -> int:
    """The first epoch after ``epoch`` whose colour draw has another deviation, or the recipe's end."""
    std, end = colour_std_at(recipe, epoch), recipe.schedule.end_epoch
    return next((later for later in range(epoch, end) if colour_std_at(recipe, later) != std), end)


def after_epoch(recipe: Recipe, epoch: int, state: ScheduleState, validation_error: float) -> ScheduleState:
    """The state after ``epoch`` (counted from 0) ended with ``validation_error`` (any scale; lower is better).

    Plateau ([P] 5): after ``patience_epochs`` without a new best the rates are divided; after the last division the
    next plateau finishes. Milestones finish at their end epoch alone.
    """
    schedule = recipe.schedule
    if is_better(validation_error, state.best_error):
        state = dataclasses.replace(state, best_error=validation_error, epochs_since_best=0)
    else:
        state = dataclasses.replace(state, epochs_since_best=state.epochs_since_best + 1)
    if isinstance(schedule, Plateau) and state.epochs_since_best >= schedule.patience_epochs:  # noqa: SIM102
        if state.num_drops < schedule.drops:
            state = dataclasses.replace(state, num_drops=state.num_drops + 1, epochs_since_best=0)
    return dataclasses.replace(state, finished=has_ended(recipe, epoch + 1, state))


def has_ended(recipe: Recipe, next_epoch: int, state: ScheduleState) -> bool:
    """Whether nothing is left to train: the last epoch was, or the plateau after the last division is over."""
    schedule = recipe.schedule
    if isinstance(schedule, Plateau):
        is_over = state.num_drops >= schedule.drops and state.epochs_since_best >= schedule.patience_epochs
        return is_over or next_epoch >= schedule.end_epoch
    return next_epoch >= schedule.end_epoch


def is_better(error: float, best: float | None) -> bool:
    """Whether ``error`` is a new best. What is not finite never is, and anything finite is better than it."""
    return math.isfinite(error) and (best is None or not math.isfinite(best) or error < best)


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with the weights' first rate ``rate`` and every other rate in proportion."""
    factor = rate / recipe.weight_rate
    schedule = recipe.schedule
    if isinstance(schedule, Milestones):
        schedule = dataclasses.replace(
            schedule,
            weights=_multiplied(schedule.weights, factor),
            conv1_weights=_multiplied(schedule.conv1_weights, factor),
            biases=_multiplied(schedule.biases, factor),
        )
    return dataclasses.replace(recipe, weight_rate=rate, bias_rate=recipe.bias_rate * factor, schedule=schedule)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe ending at ``epochs``; milestones move in proportion, a plateau's patience stays."""
    schedule = recipe.schedule
    if isinstance(schedule, Plateau):
        return dataclasses.replace(recipe, schedule=dataclasses.replace(schedule, end_epoch=epochs))
    factor = epochs / schedule.end_epoch
    moved = Milestones(
        weights=_moved(schedule.weights, factor),
        conv1_weights=_moved(schedule.conv1_weights, factor),
        biases=_moved(schedule.biases, factor),
        colour=_moved(schedule.colour, factor),
        end_epoch=epochs,
    )
    return dataclasses.replace(recipe, schedule=moved)


def with_drops(recipe: Recipe, drops: tuple[int, ...]) -> Recipe:
    """The recipe with every rate divided by 10 at the given epochs instead of its own schedule."""
    factors = [(0.0, 1.0)] + [(float(epoch), 10.0**-number) for number, epoch in enumerate(drops, start=1)]
    weights = tuple((epoch, recipe.weight_rate * factor) for epoch, factor in factors)
    biases = tuple((epoch, recipe.bias_rate * factor) for epoch, factor in factors)
    schedule = Milestones(
        weights=weights,
        conv1_weights=weights,
        biases=biases,
        colour=((0.0, recipe.colour_std),),
        end_epoch=recipe.schedule.end_epoch,
    )
    return dataclasses.replace(recipe, schedule=schedule)


def _step_value(steps: tuple[tuple[float, float], ...], epoch: int) -> float:
    return next(value for begin, value in reversed(steps) if epoch >= begin)


def _multiplied(steps: tuple[tuple[float, float], ...], factor: float) -> tuple[tuple[float, float], ...]:
    return tuple((epoch, value * factor) for epoch, value in steps)


def _moved(steps: tuple[tuple[float, float], ...], factor: float) -> tuple[tuple[float, float], ...]:
    return tuple((epoch * factor, value) for epoch, value in steps)
