"""The two shipped recipes, one declarative file each, to be compared with diff."""

from trainer.recipes.convnet2012 import CONVNET2012
from trainer.recipes.paper import PAPER
from trainer.recipes.recipe import (
    Columns,
    ConvLayer,
    CrossMapNorm,
    FullLayer,
    Milestones,
    Operation,
    Plateau,
    Pooling,
    Recipe,
    RecipeName,
    WithinMapNorm,
)

__all__ = [
    "CONVNET2012",
    "PAPER",
    "Columns",
    "ConvLayer",
    "CrossMapNorm",
    "FullLayer",
    "Milestones",
    "Operation",
    "Plateau",
    "Pooling",
    "Recipe",
    "RecipeName",
    "WithinMapNorm",
    "recipe_named",
]


def recipe_named(name: RecipeName) -> Recipe:
    """The recipe that ``--recipe NAME`` means. Raises ValueError for a name that none has."""
    for recipe in (PAPER, CONVNET2012):
        if recipe.name == name:
            return recipe
    raise ValueError(f"recipe: expected one of {PAPER.name}, {CONVNET2012.name}, found {name!r}")
