"""What a person may say about a source, and what a layout may ask of the program that reads it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# Runs a function on each item, perhaps elsewhere, and yields the results in any order.
MapTasks = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where to find what a layout does not hold itself. Paths or URLs; None: look beside the images."""

    val_labels: str | None = None
    """Labels of a flat validation folder: see ``labels``."""
    devkit: str | None = None
    """ILSVRC2012_devkit_t12.tar.gz, or the folder it unpacks to."""
