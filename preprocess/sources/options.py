"""What a layout reads a source with: what a person said about it, and what the program lends."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from preprocess.sources.ledger import Ledger
from preprocess.sources.storage import Storage

# Runs a function on each item, perhaps elsewhere, and yields the results in any order.
MapTasks = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where to find what a layout does not hold itself. Paths or URLs; None: look beside the images."""

    val_labels: str | None = None
    """Labels of a flat validation folder: see ``labels``."""
    devkit: str | None = None
    """ILSVRC2012_devkit_t12.tar.gz, or the folder it unpacks to."""
    follow_links: bool = False
    """Whether links that leave the source are what they lead to, rather than refused."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of one source."""

    storage: Storage
    options: SourceOptions
    map_tasks: MapTasks
    ledger: Ledger
