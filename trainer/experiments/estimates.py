"""Figures over seeds: means with their 95 % intervals, and ranges."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Student's t, the 97.5 % quantile by degrees of freedom from 1.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and how far it is known."""

    value: float
    low: float | None = None
    """Of the interval; None where there is none, as with one run."""
    high: float | None = None
    """None beside a ``low``: it is only known to be more."""
    num: int
    """Runs, or pairs of runs, that it is over."""
    spread: str = ""
    """What the interval is, in words."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval; the figure itself where there is none."""
        if self.low is None:
            return self.value, self.value
        return self.low, math.inf if self.high is None else self.high

    def text(self, unit: str = "") -> str:
        """``1.42 (0.90 to 1.94)``, with the unit after it."""
        after = f" {unit}" if unit else ""
        if self.low is None:
            return f"{self.value:.2f}{after}"
        if self.high is None:
            return f"more than {self.low:.2f}{after}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}){after}"


def mean_of(values: Sequence[float]) -> Estimate | None:
    """The mean with its 95 % interval by Student's t; without one for a single value, None for none."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(value=mean, num=1)
    t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(value=mean, low=mean - half, high=mean + half, num=len(values), spread="95 % interval")


def paired_difference(ours: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """The mean of ``ours - reference`` over the seeds that both have: seed by seed, the images were the same."""
    return mean_of([value - reference[seed] for seed, value in ours.items() if seed in reference])


def ratio_of(upper: Sequence[float], lower: Sequence[float]) -> Estimate | None:
    """The ratio of the means, with the range of all ratios of one run to another."""
    if not upper or not lower:
        return None
    ratios = [above / below for above in upper for below in lower]
    value = statistics.fmean(upper) / statistics.fmean(lower)
    if len(ratios) == 1:
        return Estimate(value=value, num=1)
    return Estimate(value=value, low=min(ratios), high=max(ratios), num=len(ratios), spread="range over runs")
