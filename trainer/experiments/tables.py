"""Tables 1 and 2: errors of one network by centre and ten crops, and of several averaged, beside the published ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.checkpoint.saved_network import LoadedNetwork, load_network, refuse_others
from trainer.evaluate import CROPS_IN_WORDS, Crops, evaluate_loaded, require_images
from trainer.experiments.ablations import setting_of
from trainer.experiments.config import ExperimentConfig
from trainer.experiments.estimates import mean_of
from trainer.experiments.experiment import Arm, Conclusion, Evidence, Experiment, Row

ARM = "the network"
BATCH_SIZE = 64
Errors = tuple[float, float]
"""Top-1 and top-5 error in per cent."""
TABLE_1: dict[Crops, Errors] = {"centre": (39.0, 18.3), "ten": (37.5, 17.0)}
"""[P] table 1 and 4.1: one network on the test images of ILSVRC-2010."""
ONE_OF_2012: Errors = (40.7, 18.2)
FIVE_OF_2012: Errors = (38.1, 16.4)
"""[P] table 2: ILSVRC-2012 validation, ten crops."""


def table_1(config: ExperimentConfig) -> Experiment:
    """One network, by centre and by ten crops."""

    def conclude(evidence: Evidence) -> Conclusion:
        table = _Table(config, evidence, "[P] table 1, 4.1", "ILSVRC-2010, test")
        rows: list[Row] = []
        for crops, paper in TABLE_1.items():
            rows += table.rows(
                f"one network, {CROPS_IN_WORDS[crops]}", paper, [[each] for each in table.networks], crops
            )
        return Conclusion(rows=tuple(rows))

    return _experiment("table-1", "Table 1: one network", config, 1, conclude)


def table_2(config: ExperimentConfig) -> Experiment:
    """One network by ten crops, and all of them averaged."""

    def conclude(evidence: Evidence) -> Conclusion:
        table = _Table(config, evidence, "[P] table 2", "ILSVRC-2012, validation; the paper averages five")
        networks = table.networks
        rows = table.rows("one network, ten crops", ONE_OF_2012, [[each] for each in networks], "ten")
        if len(networks) > 1:
            rows += table.rows(f"{len(networks)} networks averaged, ten crops", FIVE_OF_2012, [networks], "ten")
        return Conclusion(rows=tuple(rows))

    return _experiment("table-2", "Table 2: several networks averaged", config, 5, conclude)


class _Table:
    """Evaluates networks for the rows of a table."""

    def __init__(self, config: ExperimentConfig, evidence: Evidence, source: str, of: str) -> None:
        assert evidence.client is not None, "errors are of a loader's images"
        self._client, self._split, self._source = evidence.client, config.split, source
        description = self._client.describe()
        require_images("--split", config.split, description.splits)
        paths: Sequence[Path] = evidence.checkpoints or [
            outcome.run_dir for outcome in evidence.results.of(ARM) if outcome.failure is None
        ]
        self.networks = [load_network(path, evidence.devices) for path in paths]
        refuse_others(self.networks, description)
        images, classes = description.splits[config.split], len(description.classes)
        self._different = f"the paper: {of}; ours: {images:,} images of {classes:,} classes"
        self._runs = evidence.results.in_words(ARM) if not evidence.checkpoints else f"{len(paths)} checkpoints"

    def rows(self, name: str, paper: Errors, groups: Sequence[Sequence[LoadedNetwork]], crops: Crops) -> list[Row]:
        """Top-1 and top-5 error, the mean over ``groups``, each of networks that are averaged."""
        found = [
            evaluate_loaded(group, self._client, split=self._split, crops=crops, batch_size=BATCH_SIZE)
            for group in groups
        ]
        pairs = ((1, [each.top1_error for each in found]), (5, [each.top5_error for each in found]))
        return [
            Row(
                claim=f"{name}: top-{top} error",
                source=self._source,
                paper=f"{published} %",
                ours=mean_of([100 * error for error in errors]),
                unit="%",
                runs=self._runs,
                different=self._different,
            )
            for (top, errors), published in zip(pairs, paper, strict=True)
        ]


def _experiment(
    name: str, title: str, config: ExperimentConfig, seeds: int, conclude: Callable[[Evidence], Conclusion]
) -> Experiment:
    arm = Arm(name=ARM, options=("--recipe", "convnet2012"), seeds=tuple(range(config.seeds or seeds)))
    return Experiment(
        name=name,
        title=title,
        about=(
            "Errors over a whole split, each image once. Of ten crops, and of several networks, the softmax outputs "
            "are averaged. Without --checkpoint the networks are trained here, one a seed, and are those of the "
            "epoch with the lowest validation error.",
        ),
        setting=setting_of(config),
        arms=() if config.checkpoint else (arm,),
        conclude=conclude,
    )
