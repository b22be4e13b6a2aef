"""The command line of preprocessing: ``python -m preprocess COMMAND`` or ``alexnet-preprocess COMMAND``."""

import sys
from collections.abc import Sequence

from commandline.start import Run, start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    return start("preprocess", _load, argv)


def _load() -> Run:
    from preprocess.commands import run

    return run


if __name__ == "__main__":
    sys.exit(main())
