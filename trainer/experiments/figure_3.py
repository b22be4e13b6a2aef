"""Figure 3: the first layer's filters by column, and how much colour each column's filters hold."""

import torch
from torch import Tensor

from trainer.checkpoint.saved_network import LoadedNetwork, load_network
from trainer.experiments.config import ExperimentConfig
from trainer.experiments.estimates import Estimate
from trainer.experiments.experiment import Conclusion, Evidence, Experiment, Row
from trainer.report.markup import section
from trainer.report.pictures import filter_figures

NUM_DRAWS = 10_000


def figure_3(config: ExperimentConfig) -> Experiment:
    """The filters of each checkpoint that is given."""
    return Experiment(
        name="figure-3",
        title="Figure 3: the first layer's filters",
        about=(
            "A filter's colour is the share of its energy (its weights squared, summed) that is not the same in red, "
            "green and blue: 0 for a filter that sees grey alone, 1 for one that grey does not move. A column's is "
            "the mean over its filters.",
            f"Columns differ by chance too: the same filters are dealt to two columns at random {NUM_DRAWS:,} times, "
            "and the difference that 95 of 100 deals stay below is what the columns' own is compared with.",
        ),
        conclude=_conclude,
    )


def colour_of(filters: Tensor) -> Tensor:
    """float64 [N]: the share of each filter's energy, float [N, 3, k, k], that is colour."""
    weights = filters.detach().cpu().double()
    energy = weights.square().sum((1, 2, 3)).clamp_min(1e-300)
    grey = 3 * weights.mean(1).square().sum((1, 2))
    return (1 - grey / energy).clamp(0, 1)


def chance_difference(colours: Tensor, first: int) -> float:
    """The difference of means that 95 of 100 random deals into ``first`` and the others stay below."""
    drawn = torch.Generator().manual_seed(0)
    orders = torch.rand(NUM_DRAWS, len(colours), generator=drawn).argsort(1)
    dealt = colours[orders]
    return float((dealt[:, :first].mean(1) - dealt[:, first:].mean(1)).abs().quantile(0.95))


def _conclude(evidence: Evidence) -> Conclusion:
    networks = [load_network(path, evidence.devices) for path in evidence.checkpoints]
    return Conclusion(
        rows=tuple(row for network in networks if (row := _row(network)) is not None),
        sections=tuple(section(str(each.path), filter_figures(each.snapshot.weights)) for each in networks),
    )


def _row(loaded: LoadedNetwork) -> Row | None:
    """How the two columns differ; None for a network of one."""
    colours = [colour_of(column.get_submodule("conv1").get_parameter("weight")) for column in loaded.network.columns]
    if len(colours) != 2:
        return None
    first, second = (float(each.mean()) for each in colours)
    chance = chance_difference(torch.cat(colours), len(colours[0]))
    kinds = ("colour", "grey") if first > second else ("grey", "colour")
    return Row(
        claim=f"one column's filters are colour, the other's grey: difference, against {chance:.3f} by chance",
        source="[P] 6.1, figure 3",
        paper="no figure: largely colour-agnostic on one GPU, largely colour-specific on the other",
        ours=Estimate(value=abs(first - second), num=1),
        neutral=chance,
        is_greater=True,
        runs=str(loaded.path),
        different=f"column 1, more {kinds[0]}: {first:.3f}; column 2, more {kinds[1]}: {second:.3f}",
    )
