"""An experiment's runs, made or found made: what was stopped goes on, what has ended is not run again."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from commandline import write_line
from commandline.files import write_whole
from commandline.stopping import StopRequests
from trainer.errors import TrainerError
from trainer.experiments.experiment import Arm, Experiment, Outcome, Results
from trainer.experiments.runner import Job, last_line, run_jobs
from trainer.monitor.metrics import EpochPoint, read_points
from trainer.monitor.run_record import read_record

EXPERIMENT_NAME = "experiment.json"
OUTCOME_NAME = "outcome.json"


class Engine:
    """Makes the runs of one experiment in one folder, which it holds alone."""

    def __init__(
        self,
        experiment: Experiment,
        out: Path,
        *,
        target: Sequence[str],
        fingerprint: str,
        num_classes: int,
        machine: Sequence[str],
        at_once: int,
        stop: StopRequests,
    ) -> None:
        """``machine``: options of ``train`` that say where and how it is computed, and do not belong to the experiment.

        Raises TrainerError when ``out`` holds another experiment.
        """
        self._experiment, self._out, self._stop = experiment, out, stop
        self._target, self._machine, self._at_once = ",".join(target), tuple(machine), at_once
        self._num_classes = num_classes
        declared = {
            "name": experiment.name,
            "store": fingerprint,
            "setting": list(experiment.setting),
            "arms": {arm.name: list(arm.options) for arm in experiment.arms},  # of whatever seeds
        }
        _claim(out, declared)

    def results(self) -> tuple[tuple[Arm, ...], Results]:
        """All arms, with how each of their runs has ended; makes the runs that have not.

        Raises TrainerError when a run fails (it goes on when the experiment is started again), and Stopped.
        """
        arms = self._experiment.arms
        while True:
            results = self._made(arms)
            known, arms = arms, _merged([*arms, *self._experiment.then(results)])
            if arms == known:
                return arms, results

    def command_of(self, arm: Arm, seed: int) -> tuple[str, ...]:
        """What is typed after ``python -m`` to make one run by itself, but for where the loader is."""
        return ("trainer", "train", *self._experiment.setting, *arm.options, "--seed", str(seed))

    def _made(self, arms: Sequence[Arm]) -> Results:
        wanted = [(arm, seed, self._run_dir(arm, seed)) for arm in arms for seed in arm.seeds]
        wanted.sort(key=lambda each: each[1])  # runs of one seed at once: the loader makes their images once for all
        jobs = {}
        for arm, seed, run_dir in wanted:
            if not (run_dir / OUTCOME_NAME).is_file():
                job = self._job(arm, seed, run_dir)
                jobs[job] = (arm, seed, run_dir)
        done = len(wanted) - len(jobs)

        def is_enough(job: Job) -> bool:
            return self._num_enough(jobs[job][2]) is not None

        def ended(job: Job, exit_code: int) -> None:
            nonlocal done
            arm, seed, run_dir = jobs[job]
            plain = _how_it_ended(job, run_dir, exit_code=exit_code, num_enough=self._num_enough(run_dir))
            write_whole(run_dir / OUTCOME_NAME, json.dumps(plain, indent=1))
            done += 1
            write_line(f"{done}/{len(wanted)} runs: {_in_words(self._read(arm, seed, run_dir))}")

        if jobs:
            write_line(
                f"{done}/{len(wanted)} runs are there; each writes to log.txt in its folder under {self._out}/runs"
            )
        run_jobs(list(jobs), at_once=self._at_once, stop=self._stop, is_enough=is_enough, ended=ended)
        return Results(self._read(arm, seed, run_dir) for arm, seed, run_dir in wanted)

    def _read(self, arm: Arm, seed: int, run_dir: Path) -> Outcome:
        """The outcome that a finished run left."""
        path = run_dir / OUTCOME_NAME
        try:
            plain = json.loads(path.read_text("utf-8"))
            return Outcome(
                arm=arm.name,
                seed=seed,
                run_dir=run_dir,
                diverged=plain["diverged"],
                epochs=tuple(EpochPoint(**point) for point in plain["epochs"]),
                consumed=tuple(plain["consumed"]),
                num_classes=self._num_classes,
            )
        except (ValueError, KeyError, TypeError):
            raise TrainerError(
                f"{path}: expected how a run ended, found something else: remove it to look again"
            ) from None

    def _num_enough(self, run_dir: Path) -> int | None:
        """The epochs with which a run has done enough, when all that belongs to them is recorded; None: it has not."""
        is_enough = self._experiment.is_enough
        if is_enough is None:
            return None
        points, consumed = read_points(run_dir)[1], _consumed_in(run_dir)
        most = len(points) if consumed is None else min(len(points), len(consumed))
        return next((num for num in range(1, most + 1) if is_enough(points[:num])), None)

    def _job(self, arm: Arm, seed: int, run_dir: Path) -> Job:
        where = ("--target", self._target, "--run-dir", str(run_dir), "--resume", "auto")
        return Job(
            name=f"{arm.name}, seed {seed}",
            command=(*self.command_of(arm, seed), *where, "--keep", "1", "--no-tensorboard", *self._machine),
            log=run_dir / "log.txt",
        )

    def _run_dir(self, arm: Arm, seed: int) -> Path:
        return self._out / "runs" / f"{re.sub(r'[^a-z0-9.]+', '-', arm.name.lower()).strip('-')}-seed-{seed}"


def _claim(out: Path, declared: dict[str, Any]) -> None:
    path = out / EXPERIMENT_NAME
    try:
        before = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        write_whole(path, json.dumps(declared, indent=1))
        return
    except ValueError:
        raise TrainerError(
            f"{path}: expected the declaration of an experiment, found no JSON: choose another --out"
        ) from None
    different = [name for name, value in declared.items() if before.get(name) != value]
    if different:
        raise TrainerError(
            f"{out} holds the experiment {before.get('name')!r} with another {', '.join(different)}: start it with the "
            "options and the store of then, or choose another --out"
        )


def _merged(arms: Iterable[Arm]) -> tuple[Arm, ...]:
    """Arms of one name as one arm with the seeds of all."""
    found: dict[str, Arm] = {}
    for arm in arms:
        before = found.setdefault(arm.name, arm)
        seeds = tuple(dict.fromkeys((*before.seeds, *arm.seeds)))
        found[arm.name] = dataclasses.replace(before, seeds=seeds)
    return tuple(found.values())


def _how_it_ended(job: Job, run_dir: Path, *, exit_code: int, num_enough: int | None) -> dict[str, Any]:
    """What is kept of a run. Raises TrainerError, with its last line, unless it trained to its end, did enough or
    diverged."""
    is_short = exit_code != 0 and num_enough is None
    diverged = read_record(run_dir).get("outcome", {}).get("diverged") if is_short else None
    if is_short and diverged is None:
        raise TrainerError(
            f"the run {job.name} ended with {exit_code}: {last_line(job.log)}; it goes on when the experiment is "
            "started again"
        )
    points = [dataclasses.asdict(point) for point in read_points(run_dir)[1][:num_enough]]
    return {"diverged": diverged, "epochs": points, "consumed": (_consumed_in(run_dir) or [])[:num_enough]}


def _consumed_in(run_dir: Path) -> list[str] | None:
    """The digests of the stream that a run has recorded; None when it keeps none, or has recorded nothing."""
    found: list[str] | None = read_record(run_dir).get("stream", {}).get("consumed_by_epoch")
    return found


def _in_words(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"{outcome.arm}, seed {outcome.seed}, {outcome.failure}"
    last = outcome.epochs[-1]
    error = f"training error {100 * last.train_top1_error:.1f} %"
    return f"{outcome.arm}, seed {outcome.seed}: {error} after {last.epoch + 1} epochs"
