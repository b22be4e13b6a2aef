"""The ``experiment`` command: runs, their comparison, and the page."""

import contextlib
import shlex
from collections.abc import Callable

from commandline import write_line
from commandline.stopping import StopRequests
from loader_service.client import LoaderClient
from loader_service.client.machine import processors
from trainer.checkpoint import folder
from trainer.devices import devices_of_rank
from trainer.errors import Stopped, TrainerError
from trainer.experiments.ablations import ablations
from trainer.experiments.config import ExperimentConfig, ExperimentName
from trainer.experiments.engine import Engine
from trainer.experiments.experiment import Arm, Evidence, Experiment, Results, differing_streams
from trainer.experiments.figure_1 import figure_1
from trainer.experiments.figure_3 import figure_3
from trainer.experiments.figure_4 import figure_4
from trainer.experiments.page import write_page
from trainer.experiments.runner import loader_over
from trainer.experiments.tables import table_1, table_2
from trainer.waiting import unless_stopped

EXPERIMENTS: dict[ExperimentName, Callable[[ExperimentConfig], Experiment]] = {
    "figure-1": figure_1,
    "ablations": ablations,
    "table-1": table_1,
    "table-2": table_2,
    "figure-3": figure_3,
    "figure-4": figure_4,
}


def run_experiment(config: ExperimentConfig) -> int:
    """Makes what is missing of the experiment, then its page; prints the page's path. Returns the exit code."""
    return conduct(EXPERIMENTS[config.name](config), config)


def conduct(experiment: Experiment, config: ExperimentConfig) -> int:
    """What :func:`run_experiment` does, for any experiment."""
    arms: tuple[Arm, ...] = ()
    results, notes = Results(()), list[str]()
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.locked(config.out))
        with StopRequests() as stop:
            try:
                target = config.target
                if config.store is not None:
                    num_processes = processors().num_decode_threads  # of one thread each
                    loader = loader_over(config.store, config.out, stop, num_processes=num_processes)
                    target = stack.enter_context(loader)
                client = LoaderClient(target, config.client_options) if target else None
                if client is not None:
                    description = unless_stopped(client.describe, stop)
                    notes.append(f"Store {description.fingerprint[:12]}: {_in_words(description.splits)}.")
                    engine = Engine(
                        experiment,
                        config.out,
                        target=target,
                        fingerprint=description.fingerprint,
                        num_classes=len(description.classes),
                        machine=config.machine_options,
                        at_once=config.at_once,
                        stop=stop,
                    )
                    arms, results = engine.results()
                    notes += [
                        f"{arm.name}: python -m {shlex.join(engine.command_of(arm, arm.seeds[0]))}" for arm in arms
                    ]
            except Stopped:
                write_line("stopped; the same command goes on from here")
                return stop.exit_code
        num_compared, problems = differing_streams(arms, results)
        if problems:
            raise TrainerError(f"runs that should have consumed the same images did not: {'; '.join(problems)}")
        if arms:
            notes.insert(1, f"Of {num_compared} pairs of runs that should have consumed the same images, all did.")
        evidence = Evidence(
            results=results, checkpoints=config.checkpoint, client=client, devices=devices_of_rank(config.devices, 0)
        )
        print(write_page(config.out, experiment, experiment.conclude(evidence), results.outcomes, notes))
    return 0


def _in_words(splits: dict[str, int]) -> str:
    return ", ".join(f"{count:,} images in {name}" for name, count in splits.items())
