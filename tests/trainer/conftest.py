"""What the trainer's tests share: one torch thread, since tests run beside each other, and tiny networks."""

from collections.abc import Iterator

import pytest
import torch

from trainer.network.architecture import Ablation, Architecture, resolve
from trainer.recipes import recipe_named
from trainer.recipes.recipe import RecipeName

CPU_PAIR = (torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_architecture(
    recipe: RecipeName = "paper", *, crop: int = 67, width: float = 1 / 16, ablation: Ablation | None = None
) -> Architecture:
    """A network of a few thousand parameters with every layer in place; 67 pixels leave 1 x 1 maps after conv5."""
    return resolve(recipe_named(recipe), crop=crop, num_classes=5, width=width, ablation=ablation)
