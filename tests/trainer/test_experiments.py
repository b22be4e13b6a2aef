"""The engine of experiments: real runs against a real loader, killed and continued, diverged, compared, on one page."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from commandline.arguments import parse_arguments
from commandline.folder_lock import LOCK_NAME
from loader_service.client.machine import Processors
from loader_service.commands.connect import ConnectConfig
from tests.thoroughness import NUM_KILLS, moments
from tests.trainer.runs import NETWORK
from tests.waiting import wait_until
from trainer.checkpoint import folder
from trainer.config import TrainConfig
from trainer.errors import TrainerError
from trainer.experiments import command, engine
from trainer.experiments.command import conduct
from trainer.experiments.config import ExperimentConfig, threads_of_each
from trainer.experiments.engine import OUTCOME_NAME
from trainer.experiments.estimates import Estimate, mean_of, paired_difference
from trainer.experiments.experiment import Arm, Conclusion, Evidence, Experiment, Row
from trainer.experiments.runner import Job
from trainer.monitor.metrics import read_points

SETTING = (
    *(each for each in NETWORK if each not in ("--devices", "cpu,cpu")),
    "--batch-size",
    "16",
    "--log-steps",
    "2",
)


def conclude(evidence: Evidence) -> Conclusion:
    errors = {
        name: {each.seed: 100 * each.epochs[-1].train_loss for each in evidence.results.of(name)}
        for name in ("plain", "tanh")
    }
    ours = paired_difference(errors["tanh"], errors["plain"])
    runs = evidence.results.in_words("plain", "tanh", "wild")
    row = Row(claim="tanh is worse", source="a test", paper="1", ours=ours, is_greater=True, runs=runs)
    return Conclusion(rows=(row,))


EXPERIMENT = Experiment(
    name="small",
    title="A small experiment",
    about=("For a test.",),
    setting=(*SETTING, "--epochs", "2"),
    arms=(
        Arm(name="plain", options=("--lr", "0.002"), seeds=(0,)),
        Arm(name="wild", options=("--lr", "1e30"), seeds=(0,)),
    ),
    then=lambda results: (Arm(name="tanh", options=("--lr", "0.002", "--activation", "tanh"), seeds=(0,)),),
    conclude=conclude,
)


ENDLESS = dataclasses.replace(
    EXPERIMENT,
    setting=(*SETTING, "--epochs", "100000", "--checkpoint-steps", "2"),
    arms=EXPERIMENT.arms[:1],
)


ENOUGH = dataclasses.replace(
    ENDLESS,
    then=lambda results: (),
    is_enough=lambda points: len(points) > 1,
    conclude=lambda evidence: Conclusion(),
)


def config_for(store: Path, out: Path) -> ExperimentConfig:
    return ExperimentConfig(name="figure-1", store=store, out=out, devices=("cpu", "cpu"), threads=1, at_once=2)


def started(name: str, store: Path, out: Path) -> "subprocess.Popen[bytes]":
    """An experiment of this module in a process of its own."""
    program = (
        "import sys; from pathlib import Path; from tests.trainer import test_experiments as t; "
        "sys.exit(t.conduct(getattr(t, sys.argv[1]), t.config_for(*map(Path, sys.argv[2:]))))"
    )
    return subprocess.Popen([sys.executable, "-c", program, name, str(store), str(out)])


@pytest.fixture(scope="module")
def unbroken(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``EXPERIMENT``, made without an interruption."""
    out = tmp_path_factory.mktemp("experiment") / "unbroken"
    assert conduct(EXPERIMENT, config_for(tiny_store, out)) == 0
    return out


def table(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "table.json").read_text())
    return found


def test_the_table_has_the_difference_and_the_run_that_diverged(unbroken: Path) -> None:
    document = table(unbroken)
    [row] = document["rows"]
    runs = {run["setting"]: run for run in document["runs"]}
    losses = {name: run["epochs"][-1]["train_loss"] for name, run in runs.items() if run["epochs"]}
    assert row["ours"] == pytest.approx(100 * (losses["tanh"] - losses["plain"]))
    assert row["runs"] == "3 runs, 2 learnt nothing, 1 diverged"  # two epochs of noise
    assert row["sign"].endswith("one run")
    assert "epoch 0" in runs["wild"]["failure"]
    assert len(runs["plain"]["epochs"]) == len(runs["tanh"]["epochs"]) == 2
    assert runs["plain"]["consumed"] == runs["tanh"]["consumed"]
    assert "| wild | 0 |" in (unbroken / "table.md").read_text()
    assert "diverged" in (unbroken / "page.html").read_text()


def test_killed_at_random_moments_it_makes_the_same_table(unbroken: Path, tiny_store: Path, tmp_path: Path) -> None:
    draw = moments()
    out = tmp_path / "killed"
    for number in itertools.islice(itertools.cycle((signal.SIGKILL, signal.SIGTERM)), NUM_KILLS):
        with started("EXPERIMENT", tiny_store, out) as process:
            wait_until(lambda: (out / "loader.log").exists() or process.poll() is not None, "the experiment's start")
            signal.sigtimedwait([], draw.uniform(0, 12))
            process.send_signal(number)
            assert process.wait(300) in (-number, 128 + number, 0)
    assert conduct(EXPERIMENT, config_for(tiny_store, out)) == 0
    assert table(out) == table(unbroken)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_run_outlives_its_experiment(number: signal.Signals, tiny_store: Path, tmp_path: Path) -> None:
    """Its run and its loader end, so that another can take the run's folder: after SIGTERM, all has been saved."""
    run_dir = tmp_path / "runs" / "plain-seed-0"
    with started("ENDLESS", tiny_store, tmp_path) as process:
        wait_until(lambda: folder.numbered(run_dir) or process.poll() is not None, "the run's first checkpoint")
        try:
            owner = json.loads((run_dir / LOCK_NAME).read_text())["pid"]
            process.send_signal(number)
            assert process.wait(300) in (-number, 128 + number)
        finally:
            process.kill()
    try:
        wait_until(lambda: not is_held(run_dir), "the run's end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner, signal.SIGKILL)
    assert ("stopped at epoch" in (run_dir / "log.txt").read_text()) == (number == signal.SIGTERM)


def is_held(run_dir: Path) -> bool:
    try:
        folder.locked(run_dir).close()
    except TrainerError:
        return True
    return False


def test_runs_reach_the_loaders_as_their_experiment_does(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "service_timeout_s": 7.5,
        "prefetch_steps": 3,
        "prefetch_bytes": 1 << 30,
        "transport": "grpc",
        **{name: tmp_path / name for name in ("tls_ca", "tls_cert", "tls_key", "token_file")},
        "tls_server_name": "loaders",
        "insecure": True,
    }
    assert {field.name for field in dataclasses.fields(ConnectConfig)} == {*given, "target"}
    for file in ("tls_ca", "tls_cert", "tls_key", "token_file"):
        (tmp_path / file).touch()
    config = ExperimentConfig(name="figure-1", out=tmp_path / "out", target=("loaders.example.org:7000",), **given)
    found = parse_arguments(TrainConfig, "train", "", config.machine_options)
    assert {name: found[name] for name in given} == given


def test_runs_at_once_share_the_cores() -> None:
    """Each with threads for all of them would take several times as long."""
    large = Processors(num_threads=64, num_cores=32)
    assert [threads_of_each(large, at_once) for at_once in (1, 4, 32, 64)] == [None, 8, 1, 1]
    assert threads_of_each(dataclasses.replace(large, quota=6.5), 2) == 3


def test_runs_of_one_seed_are_at_work_at_once(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they share what the loader makes for them: runs of different seeds have no image in common."""
    begun: list[str] = []

    def run_jobs(jobs: Sequence[Job], **_: Any) -> None:
        begun.extend(job.name for job in jobs)
        raise TrainerError("enough")

    monkeypatch.setattr(engine, "run_jobs", run_jobs)
    seeds = tuple(dataclasses.replace(arm, seeds=(0, 1)) for arm in EXPERIMENT.arms)
    with pytest.raises(TrainerError, match="enough"):
        conduct(dataclasses.replace(EXPERIMENT, arms=seeds), config_for(tiny_store, tmp_path))
    assert begun == ["plain, seed 0", "wild, seed 0", "plain, seed 1", "wild, seed 1"]


def test_its_loader_has_as_many_processes_as_the_machine_is_worth(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "processors", lambda: Processors(num_threads=9, num_cores=9, quota=3.5))
    assert conduct(ENOUGH, config_for(tiny_store, tmp_path)) == 0
    targets = {line.split()[-1] for line in (tmp_path / "loader.log").read_text().splitlines() if "serving" in line}
    assert len(targets) == 3
    assert set(json.loads((tmp_path / "runs/plain-seed-0/run.json").read_text())["options"]["target"]) == targets


def test_a_run_ends_when_it_has_done_enough(tiny_store: Path, tmp_path: Path) -> None:
    """And counts as if it had been to end there, however much further it came until it was told, or was killed."""
    outs = [tmp_path / "unbroken", tmp_path / "killed"]
    run_dir = outs[1] / "runs" / "plain-seed-0"
    with started("ENOUGH", tiny_store, outs[1]) as process:
        wait_until(lambda: len(read_points(run_dir)[1]) > 1 or process.poll() is not None, "two epochs")
        process.kill()
    for out in outs:
        assert conduct(ENOUGH, config_for(tiny_store, out)) == 0
        assert [len(run["epochs"]) for run in table(out)["runs"]] == [2]
    assert table(outs[0]) == table(outs[1])


def test_what_has_ended_is_not_run_again(unbroken: Path, tiny_store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("log.txt")}
    assert conduct(EXPERIMENT, config_for(tiny_store, unbroken)) == 0
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("log.txt")} == before


def test_more_seeds_are_added_to_those_that_are_there(tiny_store: Path, tmp_path: Path) -> None:
    """Three may turn out to say too little."""
    one = dataclasses.replace(EXPERIMENT, arms=EXPERIMENT.arms[:1], then=lambda results: ())
    assert conduct(one, config_for(tiny_store, tmp_path)) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("log.txt")}
    [arm] = one.arms
    two = dataclasses.replace(one, arms=(dataclasses.replace(arm, seeds=(0, 1)),))
    assert conduct(two, config_for(tiny_store, tmp_path)) == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("log.txt")}
    assert before.items() < after.items()
    assert [(run["setting"], run["seed"]) for run in table(tmp_path)["runs"]] == [("plain", 0), ("plain", 1)]


def test_another_experiment_is_refused_its_folder(unbroken: Path, tiny_store: Path) -> None:
    other = dataclasses.replace(EXPERIMENT, setting=(*EXPERIMENT.setting, "--no-lrn"))
    with pytest.raises(TrainerError, match=r"with another setting: .* choose another --out"):
        conduct(other, config_for(tiny_store, unbroken))


def test_a_run_that_fails_is_named_with_its_last_line(tiny_store: Path, tmp_path: Path) -> None:
    arm = Arm(name="too large", options=("--crop", "65"), seeds=(0,))
    failing = dataclasses.replace(EXPERIMENT, arms=(arm,), then=lambda results: ())
    with pytest.raises(TrainerError, match=r"the run too large, seed 0 ended with 1: .*--crop: expected at most"):
        conduct(failing, config_for(tiny_store, tmp_path))


def test_runs_that_consumed_other_images_are_found(unbroken: Path, tiny_store: Path) -> None:
    """One run's record is made to say that it consumed something else."""
    path = unbroken / "runs" / "tanh-seed-0" / OUTCOME_NAME
    kept = path.read_bytes()
    try:
        path.write_text(json.dumps(json.loads(kept) | {"consumed": ["0" * 64, "1" * 64]}))
        with pytest.raises(TrainerError, match="did not: seed 0: plain and tanh differ within the first 2 epochs"):
            conduct(EXPERIMENT, config_for(tiny_store, unbroken))
    finally:
        path.write_bytes(kept)


def test_intervals_are_students() -> None:
    """Ten values whose mean is 0.75 and whose deviation is 0.5 (t = 2.262 for nine degrees of freedom)."""
    found = mean_of([0.25, 1.25] * 5)
    assert found is not None
    assert found.value == 0.75
    half = 2.262 * (10 / 9) ** 0.5 * 0.5 / 10**0.5
    assert found.bounds == pytest.approx((0.75 - half, 0.75 + half))
    assert mean_of([1.0]) == Estimate(value=1.0, num=1)
    assert paired_difference({0: 3.0, 2: 5.0}, {0: 1.0, 1: 9.0}) == Estimate(value=2.0, num=1)


@pytest.mark.parametrize(
    ("low", "high", "sign"), [(0.1, 0.9, "agrees"), (-0.9, -0.1, "opposite"), (-0.1, 0.9, "undecided")]
)
def test_a_sign_is_of_the_whole_interval(low: float, high: float, sign: str) -> None:
    ours = Estimate(value=(low + high) / 2, low=low, high=high, num=3)
    assert Row(claim="", source="", paper="", ours=ours, is_greater=True).sign == sign
