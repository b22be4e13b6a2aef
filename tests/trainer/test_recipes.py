"""The network for CIFAR-10, and the way from the paper's recipe to the 2012 code's."""

import dataclasses

import pytest
import torch

from tests.trainer.conftest import CPU_PAIR
from trainer.network.architecture import Ablation, resolve
from trainer.network.columns import TwoColumns
from trainer.network.layers import pooled
from trainer.recipes import CONVNET2012, PAPER, recipe_named
from trainer.recipes.parts import PARTS, Part, with_parts
from trainer.recipes.recipe import Pooling


def test_the_network_for_cifar() -> None:
    """32 -> 16 -> 8 -> 4, as in the authors' own, and so 1,024 inputs of the full layer; whatever --columns says."""
    for columns in ("linked", "one"):
        found = resolve(recipe_named("cifar10"), crop=32, num_classes=10, ablation=Ablation(columns=columns))
        assert [layer.side_out for layer in found.layers] == [16, 8, 4, 1]
        assert [layer.num_parameters for layer in found.layers] == [2432, 25_632, 51_264, 10_250]
        assert all(layer.recipe_inputs == layer.fan_in for layer in found.layers)
        scores = TwoColumns(found, CPU_PAIR)([torch.zeros(2, 3, 32, 32)])
        assert scores.shape == (2, 10)


def test_a_window_across_the_edge_counts_what_it_has_inside() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    pooling = Pooling(size=3, stride=2, edge="crossed")
    assert pooled(x, pooling, mean=False)[0, 0].tolist() == [[10, 11], [14, 15]]
    assert pooled(x, pooling, mean=True)[0, 0].tolist() == [[5, 6.5], [11, 12.5]]
    assert pooled(x, Pooling(size=3, stride=2), mean=True)[0, 0].tolist() == [[5]]


def test_all_parts_make_the_2012_recipe_but_for_its_schedule() -> None:
    found = with_parts(PAPER, PARTS)
    assert dataclasses.replace(found, name="convnet2012", schedule=CONVNET2012.schedule) == CONVNET2012


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_something_of_its_own(part: Part) -> None:
    assert with_parts(PAPER, [part]) != PAPER
    assert with_parts(PAPER, [each for each in PARTS if each != part]) != with_parts(PAPER, PARTS)


def test_parts_are_of_the_papers_recipe_alone() -> None:
    with pytest.raises(ValueError, match="expected them with --recipe paper, found convnet2012"):
        resolve(CONVNET2012, crop=224, num_classes=10, ablation=Ablation(parts_of_2012=("alpha",)))
