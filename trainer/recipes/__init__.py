"""The shipped recipes, one declarative file each, to be compared with diff."""

from trainer.recipes.cifar10 import CIFAR10
from trainer.recipes.convnet2012 import CONVNET2012
from trainer.recipes.paper import PAPER
from trainer.recipes.recipe import Recipe, RecipeName

__all__ = ["CIFAR10", "CONVNET2012", "PAPER", "recipe_named"]


def recipe_named(name: RecipeName) -> Recipe:
    """The recipe that ``--recipe NAME`` means. Raises ValueError for a name that none has."""
    recipes = (PAPER, CONVNET2012, CIFAR10)
    for recipe in recipes:
        if recipe.name == name:
            return recipe
    raise ValueError(f"recipe: expected one of {', '.join(each.name for each in recipes)}, found {name!r}")
