"""The trainer's command line: ``python -m trainer COMMAND`` or ``alexnet-trainer COMMAND``."""

import os
import sys
from collections.abc import Sequence

import trainer.parent  # noqa: F401  (before anything slow)
from commandline.start import Run, start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # torch's OpenMP threads spin at the end of each operation. Beside a loader on the same cores they spin while the
    # one they wait for has no core, and a step takes ten times as long or more (benchmarks/trainer_step.py). OpenMP
    # reads this once, when torch is loaded: hence the late import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # gRPC's core logs in a format of its own what we say in one line; it too reads this once.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return start("trainer", _load, argv)


def _load() -> Run:
    from trainer.commands import run

    return run


if __name__ == "__main__":
    sys.exit(main())
