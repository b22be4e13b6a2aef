"""The trainer's command line: ``python -m trainer COMMAND`` or ``alexnet-trainer COMMAND``."""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # torch's OpenMP threads spin at the end of each operation. Beside a loader on the same cores they spin while the
    # one they wait for has no core, and a step takes ten times as long or more (benchmarks/trainer_step.py). OpenMP
    # reads this once, when torch is loaded: hence the late import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # gRPC's core logs in a format of its own what we say in one line; it too reads this once.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from trainer.commands import run
    except KeyboardInterrupt:  # importing torch takes seconds
        return 130
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
