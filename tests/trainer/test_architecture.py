"""Sizes of the paper's network: parameters, shapes, multiply-adds, and what every ablation does to them."""

import pytest

from trainer.network.architecture import Ablation, Architecture, RemovableLayer, resolve
from trainer.network.describe import describe_architecture
from trainer.recipes import recipe_named
from trainer.recipes.recipe import RecipeName


def full_size(recipe: RecipeName = "paper", ablation: Ablation | None = None) -> Architecture:
    return resolve(recipe_named(recipe), crop=224, num_classes=1000, ablation=ablation)


@pytest.mark.parametrize("recipe", ["paper", "convnet2012"])
def test_parameters_of_every_layer(recipe: RecipeName) -> None:
    architecture = full_size(recipe)
    assert {layer.name: layer.num_parameters for layer in architecture.layers} == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }
    assert architecture.num_parameters == 60_965_224


def test_sides_neurons_and_multiply_adds() -> None:
    layers = full_size().layers
    assert [layer.side for layer in layers[:5]] == [55, 27, 13, 13, 13]
    assert [layer.side_out for layer in layers[:5]] == [27, 13, 13, 13, 6]
    assert layers[0].pad_end == 3
    assert sum(layer.num_neurons for layer in layers) == 659_272
    assert round(full_size().multiply_adds / 1e6, 1) == 724.4


def test_only_conv3_and_the_full_layers_read_both_columns() -> None:
    assert [layer.name for layer in full_size().layers if layer.reads_both] == ["conv3", "fc6", "fc7", "fc8"]


def test_filters_and_what_they_see() -> None:
    seen = [(layer.num_outputs, layer.kernel, layer.num_inputs) for layer in full_size().layers]
    assert seen == [
        (48, 11, 3),
        (128, 5, 48),
        (192, 3, 256),
        (192, 3, 192),
        (128, 3, 192),
        (2048, 1, 9216),
        (2048, 1, 4096),
        (1000, 1, 4096),
    ]


def test_without_links_each_column_reads_itself_up_to_fc8() -> None:
    unlinked = full_size(ablation=Ablation(columns="unlinked"))
    assert [layer.name for layer in unlinked.layers if layer.reads_both] == ["fc8"]
    assert unlinked.layers[2].num_inputs == 128


def test_one_column_keeps_conv5_and_the_full_layers_whole() -> None:
    one = full_size(ablation=Ablation(columns="one"))
    assert one.num_columns == 1
    assert [layer.num_outputs for layer in one.layers] == [48, 128, 192, 192, 256, 4096, 4096, 1000]


def test_disjoint_pooling_keeps_every_size() -> None:
    disjoint = full_size(ablation=Ablation(overlapping_pooling=False))
    assert [layer.side_out for layer in disjoint.layers] == [layer.side_out for layer in full_size().layers]
    assert (disjoint.pooling.size, disjoint.pooling.stride) == (2, 2)


@pytest.mark.parametrize("name", ["conv3", "conv4", "fc6", "fc7"])
def test_a_middle_layer_can_be_left_out(name: RemovableLayer) -> None:
    smaller = full_size(ablation=Ablation(without_layer=name))
    assert [layer.name for layer in smaller.layers] == [
        layer.name for layer in full_size().layers if layer.name != name
    ]


def test_switches_remove_operations() -> None:
    plain = full_size("convnet2012", Ablation(lrn=False, dropout=False))
    operations = {operation for layer in plain.layers for operation in layer.operations}
    assert operations == {"activation", "pool"}


def test_order_of_operations_differs_between_the_recipes() -> None:
    paper, convnet = full_size("paper"), full_size("convnet2012")
    assert [layer.operations for layer in paper.layers[:2]] == [("activation", "lrn", "pool")] * 2
    assert convnet.layers[0].operations == ("lrn", "pool", "activation")
    assert convnet.layers[1].operations == ("activation", "lrn", "map_norm", "pool")
    assert convnet.layers[4].operations == ("pool", "activation")


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="crop: 32 is too small"):
        resolve(recipe_named("paper"), crop=32, num_classes=10)
    with pytest.raises(ValueError, match="width"):
        resolve(recipe_named("paper"), crop=224, num_classes=10, width=0)
    with pytest.raises(ValueError, match="without_layer: expected one of conv3"):
        Ablation(without_layer="conv1")  # type: ignore[arg-type]


def test_description_names_layers_and_totals() -> None:
    text = describe_architecture(full_size())
    assert "60,965,224 parameters (32,531,112 + 28,434,112 by device)" in text
    assert "659,272 neurons" in text
    assert "724.4 M multiply-adds" in text
    assert "48 of 11x11x3 stride 4 pad end 3" in text
