"""The paper's own experiments: what they declare and conclude, and each by its command on a tiny store."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from commandline.arguments import parse_arguments
from tests.stores import make_store
from tests.trainer.runs import train
from trainer.__main__ import main
from trainer.config import TrainConfig
from trainer.experiments.ablations import RECIPE
from trainer.experiments.command import EXPERIMENTS
from trainer.experiments.config import ExperimentConfig
from trainer.experiments.experiment import Evidence, Outcome, Results
from trainer.experiments.figure_1 import epochs_to_goal
from trainer.experiments.figure_3 import chance_difference, colour_of
from trainer.monitor.metrics import EpochPoint
from trainer.recipes.parts import PARTS

MACHINE = ("--devices", "cpu,cpu", "--threads", "1")


def points(*errors: float, loss: float = 1.0) -> tuple[EpochPoint, ...]:
    return tuple(
        EpochPoint(
            epoch=epoch,
            global_step=epoch,
            train_loss=loss,
            train_top1_error=error,
            train_top5_error=0,
            rate=0.001,
            validation_loss=loss,
            validation_top1_error=error,
            validation_top5_error=error / 4,
        )
        for epoch, error in enumerate(errors)
    )


def outcome(arm: str, seed: int, *errors: float, diverged: str | None = None, loss: float = 1.0) -> Outcome:
    epochs = points(*errors, loss=loss)
    return Outcome(
        arm=arm, seed=seed, run_dir=Path("run"), diverged=diverged, epochs=epochs, consumed=(), num_classes=10
    )


def declared(name: str, **options: Any) -> Any:
    config = ExperimentConfig(name=name, out=Path("out"), target=("127.0.0.1:7000",), **options)  # type: ignore[arg-type]
    return EXPERIMENTS[config.name](config)


def document_of(out: Path) -> Any:
    return json.loads((out / "table.json").read_text())


def test_epochs_to_the_goal_lie_between_two_epochs_in_proportion() -> None:
    assert epochs_to_goal(points(0.6, 0.4, 0.3, 0.2)) == pytest.approx(3.5)
    assert epochs_to_goal(points(0.2, 0.1)) == 1
    assert epochs_to_goal(points(0.6, 0.4)) is None


def test_figure_1_tries_rates_until_the_best_lies_between_worse_ones() -> None:
    """And then runs the other seeds at that: a best rate at the end of those tried may not be the best."""
    experiment = declared("figure-1")

    def further(*outcomes: Outcome) -> list[tuple[str, tuple[int, ...]]]:
        return [(arm.name, arm.seeds) for arm in experiment.then(Results(outcomes))]

    first = ["relu at 0.002", "relu at 0.001", "tanh at 0.008", "tanh at 0.004"]
    assert [arm.name for arm in experiment.arms] == first
    tried = [
        outcome("relu at 0.001", 0, 0.5, 0.2),
        outcome("relu at 0.002", 0, 0.4, 0.1),
        outcome("tanh at 0.004", 0, 0.6, 0.4),
        outcome("tanh at 0.008", 0, 0.6, 0.5),
    ]
    assert further(*tried) == [("relu at 0.004", (0,)), ("tanh at 0.002", (0,))]
    tried += [outcome("relu at 0.004", 0, diverged="the loss is nan"), outcome("tanh at 0.002", 0, 0.5, 0.3)]
    assert further(*tried) == [("relu at 0.002", (0, 1, 2)), ("tanh at 0.001", (0,))]
    diverged = [outcome(f"relu at {rate}", 0, diverged="the loss is nan") for rate in (0.001, 0.002)]
    assert further(*diverged, *tried[2:4]) == [("relu at 0.0005", (0,)), ("tanh at 0.002", (0,))]
    ends = [outcome(f"{unit} at {rate:g}", 0, 0.9 - rate) for unit in ("relu", "tanh") for rate in (0.032, 0.064)]
    assert further(*ends) == [("relu at 0.064", (0, 1, 2)), ("tanh at 0.064", (0, 1, 2))]
    quick = declared("figure-1", quick=True).then(Results(tried))
    assert [(arm.name, arm.seeds) for arm in quick] == [("relu at 0.002", (0,)), ("tanh at 0.002", (0,))]


def test_an_ablation_that_learnt_nothing_is_no_measure_of_its_switch() -> None:
    """A loss of 2.30 is that of a guess among ten: its error says that it did not train, and no more."""
    outcomes = [
        *(outcome(RECIPE, seed, 0.8, 0.30 + seed / 100) for seed in range(3)),
        *(outcome("one column", seed, 0.8, 0.32 + seed / 100) for seed in range(3)),
        *(outcome("tanh", seed, 0.9, 0.9, loss=2.3) for seed in range(2)),
        outcome("tanh", 2, diverged="the loss is nan"),
        outcome("no dropout", 0, 0.8, 0.31),
        outcome("no dropout", 1, 0.9, 0.9, loss=2.295),
    ]
    evidence = Evidence(results=Results(outcomes), checkpoints=(), client=None, devices=())
    rows = {row.claim.partition(": ")[2]: row for row in declared("ablations").conclude(evidence).rows}
    found = {
        arm: rows[f"top-1 error of {arm} minus that of the recipe"] for arm in ("one column", "tanh", "no dropout")
    }
    column, tanh, dropout = found.values()
    assert column.ours is not None
    assert (column.ours.value, column.sign, column.runs) == (pytest.approx(2), "agrees", "6 runs")
    assert (tanh.ours, tanh.sign) == (None, "not measured")
    assert tanh.runs == "6 runs, 2 learnt nothing, 1 diverged"
    assert dropout.ours is not None
    assert (dropout.ours.num, dropout.runs) == (1, "5 runs, 1 learnt nothing")
    [switches, steps] = declared("ablations").conclude(evidence).charts
    assert "one column: 2.00, " in switches
    assert "one column: published 1.7" in switches
    assert steps.count("not measured") == len(PARTS)
    assert outcomes[6].failure == "learnt nothing: a training loss of 2.30, and who guesses has 2.30"


@pytest.mark.parametrize("name", ["figure-1", "ablations", "table-1"])
@pytest.mark.parametrize("options", [{}, {"epochs": 1, "seeds": 1}, {"quick": True, "scale": "full"}])
def test_every_run_that_is_declared_can_be_started(name: str, options: dict[str, Any]) -> None:
    experiment = declared(name, **options)
    names = [arm.name for arm in experiment.arms]
    assert len(names) == len(set(names))
    for arm in experiment.arms:
        typed = ["--target", "127.0.0.1:7000", "--run-dir", "run", *experiment.setting, *arm.options]
        given = parse_arguments(TrainConfig, "train", "", typed)
        found = ((field.name, given[field.name]) for field in fields(TrainConfig) if field.name in given)
        values: dict[str, Any] = {each: tuple(value) if isinstance(value, list) else value for each, value in found}
        TrainConfig(**values)


def test_figure_1_by_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store", num_train=256, side=32, encoding="raw")
    out = tmp_path / "out"
    where = ("--store", str(store), "--out", str(out), *MACHINE)
    assert main(["experiment", "figure-1", *where, "--quick", "--epochs", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "page.html")
    document = document_of(out)
    assert [run["setting"] for run in document["runs"]] == ["relu at 0.002", "tanh at 0.008"]
    [row] = document["rows"]
    assert (row["paper"], row["sign"], row["ours"]) == ("6", "not measured", None)
    assert "not reached" in row["runs"]
    picture = (out / "picture.svg").read_text()
    assert "relu at 0.002" in picture
    assert "tanh at 0.008" in picture
    assert picture.splitlines()[2] in (out / "page.html").read_text()


def test_tables_and_figures_of_checkpoints(
    loader_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / f"run-{seed}" for seed in (0, 1)]
    for seed, run_dir in enumerate(runs):
        assert train(loader_target, run_dir, "--epochs", "1", "--seed", str(seed)) == 0
    capsys.readouterr()
    checkpoints = ("--checkpoint", ",".join(map(str, runs)))
    wanted = ("--target", loader_target, *checkpoints, *MACHINE)
    for name in ("table-1", "table-2", "figure-3", "figure-4"):
        assert main(["experiment", name, "--out", str(tmp_path / name), *wanted]) == 0
    assert main(["evaluate", "--json", "--crops", "ten", *wanted[:-2]]) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])["ten"]
    rows = {row["claim"]: row for row in document_of(tmp_path / "table-2")["rows"]}
    assert rows["2 networks averaged, ten crops: top-1 error"]["ours"] == 100 * evaluated["top1_error"]
    assert rows["one network, ten crops: top-5 error"]["paper"] == "18.2 %"
    assert len(document_of(tmp_path / "table-1")["rows"]) == 4
    assert (tmp_path / "figure-3" / "page.html").read_text().count("<img class=filters") == 4
    page = (tmp_path / "figure-4" / "page.html").read_text()
    assert page.count("<td>val/") == 16
    assert page.count("train/") == 16 * 6


def test_colour_is_what_is_not_grey() -> None:
    grey = torch.randn(5, 1, 3, 3).expand(5, 3, 3, 3)
    assert colour_of(grey) == pytest.approx(torch.zeros(5, dtype=torch.float64), abs=1e-6)
    assert colour_of(grey - grey.mean(0) * 0 + torch.tensor([1.0, -2.0, 1.0])[:, None, None] * 1e6).min() > 0.99
    alike = torch.rand(96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert 0.05 < chance_difference(alike, 48) < 0.2


def test_a_checkpoint_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "figure-3", "--out", str(tmp_path)]) == 2
    assert "--checkpoint: expected a checkpoint file" in capsys.readouterr().err
