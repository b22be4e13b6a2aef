"""Figure 4: best guesses, and the nearest training images among all of them, with the names that they had."""

from collections.abc import Iterator, Sequence

from loader_service.client import LoaderClient
from trainer.checkpoint.saved_network import load_network, refuse_others
from trainer.evaluate import require_images
from trainer.experiments.config import ExperimentConfig
from trainer.experiments.experiment import Conclusion, Evidence, Experiment
from trainer.report.cards import cards
from trainer.report.gallery import Exhibit, collect
from trainer.report.markup import section, table


def figure_4(config: ExperimentConfig) -> Experiment:
    """Eight images for each checkpoint that is given."""

    def conclude(evidence: Evidence) -> Conclusion:
        assert evidence.client is not None, "neighbours are sought among a loader's images"
        splits = evidence.client.describe().splits
        require_images("--split", config.split, splits)
        require_images("--train-split", config.train_split, splits)
        return Conclusion(sections=tuple(_sections(config, evidence, evidence.client, splits[config.train_split])))

    return Experiment(
        name="figure-4",
        title="Figure 4: what the network sees",
        about=(
            "Eight images, always the same ones, with the five best guesses by the centre crop, and the six training "
            "images whose fc7 activations are nearest by Euclidean distance: of every training image, not of a "
            "sample.",
        ),
        conclude=conclude,
    )


def _sections(config: ExperimentConfig, evidence: Evidence, client: LoaderClient, num_searched: int) -> Iterator[str]:
    for path in evidence.checkpoints:
        loaded = load_network(path, evidence.devices)
        refuse_others([loaded], client.describe())
        exhibits, _ = collect(
            loaded, client, split=config.split, train_split=config.train_split, num_searched=num_searched
        )
        shown = cards(exhibits, loaded.plan.classes, split=config.split, names={})
        yield section(str(loaded.path), shown + _names(exhibits, client, config))


def _names(exhibits: Sequence[Exhibit], client: LoaderClient, config: ExperimentConfig) -> str:
    """A table of the images' names in their source, each with its neighbours' and their distances."""
    ours = client.names(config.split, (exhibit.index for exhibit in exhibits))
    rows = []
    for name, exhibit in zip(ours, exhibits, strict=True):
        theirs = client.names(config.train_split, (each.index for each in exhibit.neighbours))
        near = ", ".join(
            f"{other} ({each.distance:.1f})" for other, each in zip(theirs, exhibit.neighbours, strict=True)
        )
        rows.append((name, near))
    return table(("image", "nearest training images (distance)"), rows)
