"""The loader's command line: ``python -m loader_service COMMAND`` or ``alexnet-loader COMMAND``."""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    # gRPC's core logs in a format of its own what we say in one line; it reads this once, when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from loader_service.commands.commands import run
    except KeyboardInterrupt:  # importing takes half a second
        return 130
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
