"""Turns a frozen dataclass into a command: options, TOML file, one-line errors, exit codes.

The three programs share this package and nothing else. A command is a dataclass whose fields are its options and a
function that takes it; :func:`run_program` does the rest. Every option is declared once, as a field:

    @dataclass(frozen=True, kw_only=True)
    class ServeConfig:
        store: Path = required("the store to serve")
        threads: int = option(2, "decode threads", least=1)

        def __post_init__(self) -> None:
            check_options(self)
"""

from commandline.lines import counted, one_line, plain, print_line, write_line
from commandline.options import check_options, option, required
from commandline.program import Command, run_program
from commandline.progress import Progress
from commandline.version import __version__

__all__ = [
    "Command",
    "Progress",
    "__version__",
    "check_options",
    "counted",
    "one_line",
    "option",
    "plain",
    "print_line",
    "required",
    "run_program",
    "write_line",
]
