"""The command line of preprocessing: ``python -m preprocess COMMAND`` or ``alexnet-preprocess COMMAND``."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    try:
        from preprocess.commands import run
    except KeyboardInterrupt:  # importing takes half a second
        return 130
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
