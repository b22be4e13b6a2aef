"""The way from the paper's words to what its authors ran, one difference at a time."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Literal, get_args

from trainer.recipes.convnet2012 import CONVNET2012
from trainer.recipes.paper import PAPER
from trainer.recipes.recipe import ConvLayer, Recipe

Part = Literal["norm-order", "alpha", "second-norm", "deviation", "bias-rate", "noise-divisor"]
PARTS: tuple[Part, ...] = get_args(Part)


def with_parts(recipe: Recipe, parts: Collection[Part]) -> Recipe:
    """The paper's recipe with some of what ``convnet2012`` has instead; all of them leave the schedule to differ.

    Raises ValueError for another recipe than the paper's.
    """
    if parts and recipe.name != PAPER.name:
        raise ValueError(f"parts-of-2012: expected them with --recipe {PAPER.name}, found {recipe.name}")
    for part in PARTS:
        if part in parts:
            recipe = _TAKE[part](recipe)
    return recipe


def _take_order(recipe: Recipe) -> Recipe:
    """Norm before activation in conv1, pooling before activation in conv1 and conv5."""

    def then(ours: ConvLayer, theirs: ConvLayer) -> ConvLayer:
        return dataclasses.replace(ours, then=tuple(each for each in theirs.then if each != "map_norm"))

    return _with_convs(recipe, then)


def _take_second_norm(recipe: Recipe) -> Recipe:
    def then(ours: ConvLayer, theirs: ConvLayer) -> ConvLayer:
        if "map_norm" not in theirs.then:
            return ours
        place = ours.then.index("lrn") + 1
        return dataclasses.replace(ours, then=(*ours.then[:place], "map_norm", *ours.then[place:]))

    return dataclasses.replace(_with_convs(recipe, then), map_norm=CONVNET2012.map_norm)


def _take_deviation(recipe: Recipe) -> Recipe:
    return _with_convs(recipe, lambda ours, theirs: dataclasses.replace(ours, deviation=theirs.deviation))


def _take_bias_rate(recipe: Recipe) -> Recipe:
    """Twice the weights' rate, and no decay."""
    return dataclasses.replace(recipe, bias_rate=CONVNET2012.bias_rate, bias_decay=CONVNET2012.bias_decay)


_TAKE: dict[Part, Callable[[Recipe], Recipe]] = {
    "norm-order": _take_order,
    "alpha": lambda recipe: dataclasses.replace(recipe, lrn=CONVNET2012.lrn),
    "second-norm": _take_second_norm,
    "deviation": _take_deviation,
    "bias-rate": _take_bias_rate,
    "noise-divisor": lambda recipe: dataclasses.replace(recipe, rescale_after_colour=CONVNET2012.rescale_after_colour),
}


def _with_convs(recipe: Recipe, change: Callable[[ConvLayer, ConvLayer], ConvLayer]) -> Recipe:
    """The recipe with each convolution as ``change`` makes it of that layer and the one of ``convnet2012``."""
    convs = tuple(change(ours, theirs) for ours, theirs in zip(recipe.convs, CONVNET2012.convs, strict=True))
    return dataclasses.replace(recipe, convs=convs)
