"""One step taken in each way: column by column, and both columns at once."""

import numpy as np
import pytest
import torch

from tests.trainer.conftest import CPU_PAIR, tiny_architecture
from trainer.checkpoint.state import TrainingState
from trainer.data.centring import Centring
from trainer.data.feed import DeviceBatch
from trainer.network.architecture import Ablation
from trainer.network.columns import BatchSlice, TwoColumns
from trainer.network.merged import MergedColumns, can_merge
from trainer.optimizer import PaperUpdate
from trainer.ranks import Ranks
from trainer.recipes import recipe_named
from trainer.recipes.recipe import RecipeName
from trainer.recipes.schedule import ScheduleState, rates_at
from trainer.step import ColumnsStep, FusedStep, Step, step_for

HAS_GPU = torch.cuda.is_available()
DEVICES = (torch.device("cuda", 0),) * 2 if HAS_GPU else CPU_PAIR
CROP, BATCH_SIZE = 67, 3
ABLATIONS = (Ablation(), Ablation(columns="one"), Ablation(activation="tanh"), Ablation(lrn=False, dropout=False))


def state_of(recipe: RecipeName, ablation: Ablation | None = None) -> TrainingState:
    network = TwoColumns(tiny_architecture(recipe, crop=CROP, ablation=ablation), DEVICES, init="fan_in", seed=3)
    if ablation is None or ablation.dropout:  # maps innermost or outermost, both in use
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainingState(
        network=network,
        update=PaperUpdate(network.named_parameters(), recipe_named(recipe)),
        schedule=ScheduleState(),
        epoch_sums=torch.zeros(4, dtype=torch.float64, device=DEVICES[0]),
    )


def centring() -> Centring:
    return Centring(np.full((CROP, CROP, 3), 120, np.float32), CROP, DEVICES, channels_last=True)


def batch_of(step: int) -> DeviceBatch:
    drawn = np.random.default_rng(step)
    images = drawn.integers(0, 256, (BATCH_SIZE, CROP, CROP, 3), np.uint8)
    shifts = drawn.normal(0, 5, (BATCH_SIZE, 3)).astype(np.float32)
    return DeviceBatch(
        epoch=0,
        step=step,
        images={DEVICES[0]: torch.from_numpy(images).to(DEVICES[0])},
        shifts={DEVICES[0]: torch.from_numpy(shifts).to(DEVICES[0])},
        labels=torch.from_numpy(drawn.integers(0, 5, BATCH_SIZE)).to(DEVICES[0]),
        indices=torch.arange(BATCH_SIZE),
    )


def fused_step(state: TrainingState, precision: torch.dtype = torch.float32) -> FusedStep:
    pytest.importorskip("triton", reason="Triton's interpreter is not installed")
    return FusedStep(state, centring(), batch_size=BATCH_SIZE, precision=precision)


def columns_step(state: TrainingState, precision: torch.dtype = torch.float32) -> ColumnsStep:
    return ColumnsStep(state, centring(), Ranks(), batch_size=BATCH_SIZE, precision=precision)


def test_columns_on_cpus_are_taken_one_by_one() -> None:
    step = step_for(state_of("paper"), centring(), Ranks(), batch_size=BATCH_SIZE, precision=torch.float32)
    assert isinstance(step, FusedStep if HAS_GPU else ColumnsStep)


@pytest.mark.parametrize("recipe", ["paper", "convnet2012"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_merged_network_is_the_same_function(recipe: RecipeName, ablation: Ablation) -> None:
    """In float64, where rounding cannot hide a difference; dropout from the same generators."""
    network = state_of(recipe, ablation).network.double()
    merged = MergedColumns(network, torch.float64)
    x = 60 * torch.randn(BATCH_SIZE, 3, CROP, CROP, dtype=torch.float64, device=DEVICES[0])
    before = network.generator_states()
    rows = BatchSlice(begin=0, end=BATCH_SIZE, total=BATCH_SIZE)
    expected = network([x, x][: len(network.devices)], rows)
    network.set_generator_states(before)
    torch.testing.assert_close(merged(x, rows), expected, rtol=1e-9, atol=1e-12)


def test_columns_that_never_meet_are_not_merged() -> None:
    assert can_merge(tiny_architecture())
    assert can_merge(tiny_architecture(ablation=Ablation(columns="one")))
    assert not can_merge(tiny_architecture(ablation=Ablation(columns="unlinked")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about its own insides
def test_the_merged_network_is_one_graph_without_breaks() -> None:
    merged = MergedColumns(state_of("convnet2012", Ablation(dropout=False, lrn=False)).network, torch.float32)
    rows = BatchSlice(begin=0, end=BATCH_SIZE, total=BATCH_SIZE)
    compiled = torch.compile(lambda x: merged(x, rows), fullgraph=True, backend="aot_eager")
    x = torch.randn(BATCH_SIZE, 3, CROP, CROP, device=DEVICES[0])
    torch.testing.assert_close(compiled(x), merged(x, rows))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["paper", "convnet2012"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_steps_taken_at_once_are_those_taken_column_by_column(recipe: RecipeName, ablation: Ablation) -> None:
    """Over more steps than are launched one by one, a drop of the rate among them, and a state put in from outside."""
    states = [state_of(recipe, ablation) for _ in range(2)]
    steps: tuple[Step, Step] = (columns_step(states[0]), fused_step(states[1]))
    for number in range(5):
        rates = rates_at(recipe_named(recipe), 0 if number < 3 else 30, ScheduleState(num_drops=int(number > 3)))
        if number == 2:
            for state, step in zip(states, steps, strict=True):
                for parameter in state.network.parameters():
                    parameter.data.mul_(1.01)
                step.refresh()
        for step in steps:
            step.take(batch_of(number), 1.1 if number else 1.0, rates)
    for pair in (
        zip(*(state.network.parameters() for state in states), strict=True),
        zip(*(state.update.velocities.values() for state in states), strict=True),
        zip(*(state.network.generator_states() for state in states), strict=True),
    ):
        for one_by_one, at_once in pair:
            torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(states[1].epoch_sums, states[0].epoch_sums, rtol=1e-5, atol=1e-5)
    assert states[0].epoch_sums[3] == 5 * BATCH_SIZE


def test_bfloat16_is_no_further_from_float32_than_torchs_autocast() -> None:
    states = [state_of("convnet2012", Ablation(dropout=False)) for _ in range(3)]
    rates = rates_at(recipe_named("convnet2012"), 0, ScheduleState())
    for step in (
        columns_step(states[0]),
        columns_step(states[1], torch.bfloat16),
        fused_step(states[2], torch.bfloat16),
    ):
        step.take(batch_of(0), 1.0, rates)
    for exact, autocast, ours in zip(*(state.update.velocities.values() for state in states), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 1.5 * (autocast - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.skipif(not HAS_GPU, reason="expected a GPU")
def test_a_recorded_step_gives_the_bits_of_one_that_is_not() -> None:
    """And no line of it waits for the device."""
    torch.backends.cudnn.deterministic = True
    states = [state_of("convnet2012") for _ in range(2)]
    rates = rates_at(recipe_named("convnet2012"), 0, ScheduleState())
    recorded, launched = fused_step(states[0]), fused_step(states[1])
    for number in range(8):
        batch = batch_of(number)
        recorded.take(batch, 1.0, rates)
        launched._num_taken = 0
        if number > 4:
            torch.cuda.set_sync_debug_mode("error")
        try:
            launched.take(batch, 1.0, rates)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(*(state.network.parameters() for state in states), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
