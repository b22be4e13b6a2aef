"""Rates by epoch: three divisions and then the end; the 2012 log's milestones."""

import pytest

from trainer.recipes import CONVNET2012, PAPER
from trainer.recipes.schedule import (
    ScheduleState,
    after_epoch,
    colour_end,
    colour_std_at,
    rates_at,
    with_drops,
    with_epochs,
    with_rate,
)


def plateau_rates(errors: list[float]) -> tuple[list[float], ScheduleState]:
    state, rates = ScheduleState(), []
    for epoch, error in enumerate(errors):
        rates.append(rates_at(PAPER, epoch, state).weight)
        state = after_epoch(PAPER, epoch, state, error)
        if state.finished:
            break
    return rates, state


def test_plateau_divides_three_times_and_the_fourth_ends() -> None:
    rates, state = plateau_rates([0.9] + [0.95] * 80)
    # The first epoch is the best; then every five epochs without a new best end a stage.
    assert rates == pytest.approx([0.01] * 6 + [0.001] * 5 + [1e-4] * 5 + [1e-5] * 5)
    assert state.finished
    assert state.num_drops == 3


def test_plateau_waits_while_the_error_falls() -> None:
    rates, state = plateau_rates([0.9 - 0.001 * epoch for epoch in range(100)])
    assert rates == [0.01] * 90
    assert state.finished  # [P] 5: about 90 epochs


def test_plateau_lowers_biases_with_the_weights() -> None:
    rates = rates_at(PAPER, 3, ScheduleState(num_drops=2))
    assert rates.bias == rates.weight == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("epoch", "weight", "conv1", "colour"),
    [
        (0, 0.01, 0.01, 0.1),
        (24, 0.01, 0.01, 0.1),
        (25, 1e-3, 1e-3, 0.1),
        (50, 1e-3, 1e-3, 0.1),
        (51, 1e-4, 1e-4, 0.1),
        (66, 1e-4, 1e-4, 0.1),
        (67, 1e-4, 1e-5, 0.0),
        (72, 1e-4, 0.0, 0.0),
        (79, 1e-5, 0.0, 0.0),
        (90, 1e-5, 0.0, 0.0),
    ],
)
def test_milestones_of_the_2012_log(epoch: int, weight: float, conv1: float, colour: float) -> None:
    rates = rates_at(CONVNET2012, epoch, ScheduleState())
    assert (rates.weight, rates.conv1_weight, rates.bias) == (weight, conv1, 0.02)
    assert colour_std_at(CONVNET2012, epoch) == colour


def test_milestones_end_at_91_whatever_the_error() -> None:
    assert not after_epoch(CONVNET2012, 89, ScheduleState(), 0.5).finished
    assert after_epoch(CONVNET2012, 90, ScheduleState(), 0.5).finished


def test_one_deviation_of_the_colour_draw_lasts_until_the_next_or_the_end() -> None:
    assert [colour_end(CONVNET2012, epoch) for epoch in (3, 66, 67, 90)] == [67, 67, 91, 91]
    assert colour_end(PAPER, 0) == 90


def test_other_lengths_rates_and_drops() -> None:
    short = with_epochs(CONVNET2012, 10)
    assert rates_at(short, 2, ScheduleState()).weight == 0.01
    assert rates_at(short, 3, ScheduleState()).weight == 1e-3  # 25 / 91 of the way
    slow = with_rate(CONVNET2012, 0.005)
    assert rates_at(slow, 30, ScheduleState()).weight == pytest.approx(5e-4)
    assert rates_at(slow, 30, ScheduleState()).bias == pytest.approx(0.01)
    dropped = with_drops(with_epochs(PAPER, 8), (4, 6))
    assert [rates_at(dropped, e, ScheduleState()).weight for e in (3, 4, 6)] == pytest.approx([0.01, 1e-3, 1e-4])
    assert after_epoch(dropped, 7, ScheduleState(), 0.5).finished
