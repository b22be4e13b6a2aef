"""Two columns against the merged oracle: outputs, every gradient, exchanges, dropout."""

import functools
import itertools

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import CPU_PAIR, tiny_architecture
from tests.trainer.merged import merged_copy
from trainer.network.architecture import Ablation, Architecture, resolve
from trainer.network.columns import BatchSlice, TwoColumns
from trainer.recipes import recipe_named
from trainer.recipes.recipe import Activation, Columns, RecipeName


def images_like(network: TwoColumns, count: int = 3, seed: int = 1) -> Tensor:
    crop = network.architecture.crop
    generator = torch.Generator().manual_seed(seed)
    return 60 * torch.randn(count, 3, crop, crop, generator=generator, dtype=next(network.parameters()).dtype)


@pytest.mark.parametrize("recipe", ["paper", "convnet2012"])
@pytest.mark.parametrize("columns", ["linked", "one"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_outputs_and_all_gradients_equal_the_merged_network(
    recipe: RecipeName, columns: Columns, activation: Activation
) -> None:
    ablation = Ablation(columns=columns, activation=activation)
    network = TwoColumns(tiny_architecture(recipe, crop=99, ablation=ablation), CPU_PAIR, init="fan_in").double().eval()
    merged = merged_copy(network)
    x = images_like(network)
    labels = torch.tensor([0, 4, 2])
    ours, oracle = network([x, x]) if columns != "one" else network([x]), merged(x)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    for scores in (ours, oracle):
        torch.nn.functional.cross_entropy(scores, labels).backward()
    for layer in network.architecture.layers:
        owners = [network.classifier] if layer.name == "fc8" else list(network.columns)
        for kind in ("weight", "bias"):
            gradients = [owner.get_submodule(layer.name).get_parameter(kind).grad for owner in owners]
            expected = merged.layers[layer.name].get_parameter(kind).grad
            assert expected is not None
            assert expected.abs().max() > 0
            torch.testing.assert_close(torch.cat([g for g in gradients if g is not None]), expected)


def test_the_full_size_network_has_the_papers_parameters_and_placement() -> None:
    network = TwoColumns(_full_size(), CPU_PAIR)
    assert sum(p.numel() for p in network.parameters()) == 60_965_224
    per_column = [sum(p.numel() for p in column.parameters()) for column in network.columns]
    assert per_column == [28_434_112, 28_434_112]


@pytest.mark.parametrize("recipe", ["paper", "convnet2012"])
def test_initial_deviations_and_biases(recipe: RecipeName) -> None:
    network = TwoColumns(_full_size(recipe), CPU_PAIR)
    middle = 0.01 if recipe == "paper" else 0.03
    deviations = {"conv3": middle, "conv4": middle, "conv5": middle}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for layer in network.architecture.layers:
        for owner in [network.classifier] if layer.name == "fc8" else list(network.columns):
            part = owner.get_submodule(layer.name)
            weight, bias = part.get_parameter("weight"), part.get_parameter("bias")
            expected = deviations.get(layer.name, 0.01)
            assert abs(weight.std().item() - expected) < 0.02 * expected, layer.name
            assert abs(weight.mean().item()) < 0.02 * expected
            assert set(bias.tolist()) == {1.0 if layer.name in ones else 0.0}


def test_the_columns_start_from_different_weights_and_the_seed_decides_them() -> None:
    one, same, other = (TwoColumns(tiny_architecture(), CPU_PAIR, seed=seed) for seed in (1, 1, 2))
    first, second = (column.get_submodule("conv1").get_parameter("weight") for column in one.columns)
    assert not torch.equal(first, second)
    for (name, value), (_, again), (_, different) in zip(
        one.named_parameters(), same.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(value, again)
        assert name.endswith("bias") or not torch.equal(value, different)


def test_init_fan_in_is_the_recipe_at_full_size_and_keeps_the_signal_of_a_narrow_network() -> None:
    full, scaled = TwoColumns(_full_size(), CPU_PAIR), TwoColumns(_full_size(), CPU_PAIR, init="fan_in")
    for name, value in full.state_dict().items():
        assert torch.equal(value, scaled.state_dict()[name])
    narrow = TwoColumns(tiny_architecture(width=0.25), CPU_PAIR, init="fan_in")
    weight = narrow.columns[0].get_submodule("conv4").get_parameter("weight")
    assert abs(weight.std().item() / 0.02 - 1) < 0.05  # a quarter of the inputs: twice the deviation


def test_what_a_column_sees_before_conv3_is_its_own() -> None:
    """Column B's conv2 input changes nothing in column A until the exchange."""
    network = TwoColumns(tiny_architecture(), CPU_PAIR).eval()
    x = images_like(network)
    first = network.stages[0]
    assert first.names == ("conv1", "conv2")
    a_before = network.columns[0].run_stage(first, x)  # type: ignore[operator]
    changed = network([x, x + 50.0])
    a_after = network.columns[0].run_stage(first, x)  # type: ignore[operator]
    assert torch.equal(a_before, a_after)
    assert not torch.equal(changed, network([x, x]))  # and after it, it does
    b_input = x.clone().requires_grad_()
    a_input = x.clone().requires_grad_()
    network.columns[0].run_stage(first, a_input).sum().backward()  # type: ignore[operator]
    assert a_input.grad is not None
    assert b_input.grad is None


def test_exchanges_come_before_conv3_fc6_fc7_and_fc8_alone() -> None:
    network = TwoColumns(tiny_architecture(), CPU_PAIR)
    stages = [*network.stages, network.head]
    assert [stage.names for stage in stages] == [
        ("conv1", "conv2"),
        ("conv3", "conv4", "conv5"),
        ("fc6",),
        ("fc7",),
        ("fc8",),
    ]
    assert [stage.reads_both for stage in stages] == [False, True, True, True, True]


def test_dropout_masks_without_rescaling_and_halves_at_test() -> None:
    network = TwoColumns(tiny_architecture(width=0.5), CPU_PAIR, init="fan_in")
    x = images_like(network)
    network.eval()
    halved = network.features([x, x])
    for column in network.columns:  # switch fc7 to a constant 1 to see the mask itself
        fc7 = column.get_submodule("fc7")
        fc7.get_parameter("weight").data.zero_()
        fc7.get_parameter("bias").data.fill_(1.0)
    assert torch.equal(network.features([x, x]), torch.full_like(halved, 0.5))
    network.train()
    masks = network.features([x, x])
    assert set(masks.flatten().tolist()) == {0.0, 1.0}
    assert abs(masks.mean().item() - 0.5) < 0.03
    assert not torch.equal(*masks.chunk(2, dim=1))  # each column draws its own


def test_dropout_belongs_to_the_position_in_the_step_not_to_the_process() -> None:
    whole = TwoColumns(tiny_architecture(), CPU_PAIR, seed=3)
    halves = [TwoColumns(tiny_architecture(), CPU_PAIR, seed=3) for _ in range(2)]
    x = images_like(whole, 4)
    for _ in range(2):
        expected = whole([x, x])
        found = [
            network([x[rows.begin : rows.end]] * 2, rows) for network, rows in zip(halves, _slices(4, 2), strict=True)
        ]
        torch.testing.assert_close(torch.cat(found), expected)


def test_generator_states_continue_dropout() -> None:
    network = TwoColumns(tiny_architecture(), CPU_PAIR)
    x = images_like(network)
    network([x, x])
    states = network.generator_states()
    expected = network([x, x])
    network([x, x])
    network.set_generator_states(states)
    assert torch.equal(network([x, x]), expected)


def test_a_compiled_stage_list_is_cut_at_exchanges_and_dropout() -> None:
    unlinked = TwoColumns(tiny_architecture(ablation=Ablation(columns="unlinked")), CPU_PAIR)
    assert [stage.names for stage in unlinked.stages] == [
        ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6"),
        ("fc7",),
    ]
    assert unlinked([images_like(unlinked)] * 2).shape == (3, 5)


@pytest.mark.parametrize(("lrn", "overlapping", "dropout"), list(itertools.product([True, False], repeat=3)))
def test_every_combination_of_switches_runs_and_has_gradients(lrn: bool, overlapping: bool, dropout: bool) -> None:
    ablation = Ablation(lrn=lrn, overlapping_pooling=overlapping, dropout=dropout)
    network = TwoColumns(tiny_architecture("convnet2012", ablation=ablation), CPU_PAIR, init="fan_in")
    x = images_like(network)
    network([x, x]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def _slices(total: int, parts: int) -> list[BatchSlice]:
    return [
        BatchSlice(begin=part * total // parts, end=(part + 1) * total // parts, total=total) for part in range(parts)
    ]


def _full_size(recipe: RecipeName = "paper") -> Architecture:
    return resolve(recipe_named(recipe), crop=224, num_classes=1000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about its own insides
def test_compiled_columns_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured and differentiated by torch.compile; the code generator itself is left out, being torch's own."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, compiled = (TwoColumns(tiny_architecture(), CPU_PAIR, init="fan_in") for _ in range(2))
    compiled.compile_columns()
    x = images_like(plain)
    scores = [network([x, x]) for network in (plain, compiled)]
    torch.testing.assert_close(*scores)
    for each in scores:
        each.sum().backward()
    for ours, theirs in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
