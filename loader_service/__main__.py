"""The loader's command line: ``python -m loader_service COMMAND`` or ``alexnet-loader COMMAND``."""

import os
import sys
from collections.abc import Sequence

from commandline.start import Run, start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    # gRPC's core logs in a format of its own what we say in one line; it reads this once, when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return start("loader_service", _load, argv)


def _load() -> Run:
    from loader_service.commands.commands import run

    return run


if __name__ == "__main__":
    sys.exit(main())
