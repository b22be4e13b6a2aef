"""What an experiment is: settings of the trainer that differ in one thing, their seeds, and what is concluded.

A new experiment is a file that makes an :class:`Experiment`, and a line in ``trainer/experiments/command.py``.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from loader_service.client import LoaderClient
from trainer.experiments.estimates import Estimate
from trainer.monitor.metrics import EpochPoint

GUESSED = 0.995
"""Of the loss of one who guesses among the classes: a run that ends above it has learnt nothing."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting, run once with each seed."""

    name: str
    options: tuple[str, ...] = ()
    """Of ``train``, as typed, beside those that all arms share."""
    seeds: tuple[int, ...]
    stream: str = "the experiment's"
    """Arms of one stream must have consumed the same images, seed by seed: the engine compares their digests."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run ended."""

    arm: str
    seed: int
    run_dir: Path
    diverged: str | None
    """Where its numbers ceased to be finite, in words; None when it trained to its end."""
    epochs: tuple[EpochPoint, ...]
    consumed: tuple[str, ...]
    """Digest of the stream up to each epoch's end."""
    num_classes: int

    @property
    def failure(self) -> str | None:
        """Why its errors say nothing about its setting and count in no mean; None when they count."""
        if self.diverged is not None:
            return f"diverged: {self.diverged}"
        loss, guessed = self.epochs[-1].train_loss, math.log(self.num_classes)
        if loss >= GUESSED * guessed:
            return f"learnt nothing: a training loss of {loss:.2f}, and who guesses has {guessed:.2f}"
        return None


class Results:
    """The outcomes so far."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes = tuple(outcomes)

    def of(self, arm: str) -> tuple[Outcome, ...]:
        """The arm's outcomes, in the order of their seeds."""
        return tuple(sorted((each for each in self.outcomes if each.arm == arm), key=lambda each: each.seed))

    def in_words(self, *arms: str) -> str:
        """How many runs these arms had, and how many of them count in no mean."""
        failures = [outcome.failure for arm in arms for outcome in self.of(arm)]
        counts = Counter(failure.partition(":")[0] for failure in failures if failure is not None)
        return ", ".join((f"{len(failures)} runs", *(f"{count} {kind}" for kind, count in counts.items())))


Sign = Literal[
    "agrees", "opposite", "undecided", "agrees, one run", "opposite, one run", "no direction", "not measured"
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim of the paper beside what was measured."""

    claim: str
    source: str
    """Where it is claimed, such as ``[P] 3.3``."""
    paper: str
    """The published figure, in words."""
    ours: Estimate | None
    unit: str = ""
    neutral: float = 0.0
    """The figure at which there would be no difference."""
    is_greater: bool | None = None
    """Whether the claim is that the figure lies above ``neutral``; None: it claims no direction."""
    runs: str = ""
    """Which runs it rests on, and how many of them count in no mean."""
    different: str = ""
    """What differs from the paper's own measurement."""

    @property
    def sign(self) -> Sign:
        """Whether our figure lies on the claim's side of no difference, with all of its interval."""
        if self.ours is None:
            return "not measured"
        if self.is_greater is None:
            return "no direction"
        low, high = self.ours.bounds
        if low <= self.neutral <= high:
            return "undecided"
        agrees = (low > self.neutral) == self.is_greater
        if self.ours.num == 1:
            return "agrees, one run" if agrees else "opposite, one run"
        return "agrees" if agrees else "opposite"


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What the page shows beside the runs."""

    rows: tuple[Row, ...] = ()
    charts: tuple[str, ...] = ()
    """As SVG: see trainer.report.charts."""
    sections: tuple[str, ...] = ()
    """As HTML: see trainer.report.markup."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a conclusion is drawn from."""

    results: Results
    checkpoints: tuple[Path, ...]
    """Those that were given."""
    client: LoaderClient | None
    devices: tuple[torch.device, ...]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Runs, their seeds and options, and what is compared."""

    name: str
    title: str
    about: tuple[str, ...]
    """What was chosen and what differs from the paper, a paragraph each."""
    setting: tuple[str, ...] = ()
    """Options of ``train`` that all arms share."""
    arms: tuple[Arm, ...] = ()
    then: Callable[[Results], tuple[Arm, ...]] = lambda results: ()
    """Further arms, or further seeds, that depend on how those so far ended; asked until it has none that are new."""
    is_enough: Callable[[Sequence[EpochPoint]], bool] | None = None
    """Whether a run has shown by its epochs so far what was asked of it: it ends then, and later ones do not count.
    None: each is trained to its end."""
    conclude: Callable[[Evidence], Conclusion]


def differing_streams(arms: Sequence[Arm], results: Results) -> tuple[int, list[str]]:
    """How many pairs of runs that should have consumed the same were compared, and in words those that differ.

    Each run is compared with the first of its stream and seed, over the epochs that both have.
    """
    first: dict[tuple[str, int], Outcome] = {}
    num_compared, problems = 0, []
    streams: Mapping[str, str] = {arm.name: arm.stream for arm in arms}
    for outcome in results.outcomes:
        reference = first.setdefault((streams[outcome.arm], outcome.seed), outcome)
        both = min(len(reference.consumed), len(outcome.consumed))
        if reference is outcome or not both:
            continue
        num_compared += 1
        if reference.consumed[both - 1] != outcome.consumed[both - 1]:
            problems.append(
                f"seed {outcome.seed}: {reference.arm} and {outcome.arm} differ within the first {both} epochs"
            )
    return num_compared, problems
