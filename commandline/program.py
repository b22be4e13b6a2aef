"""A program of several commands: the chosen one's options, from the command line and a TOML file, and exit codes."""

import argparse
import dataclasses
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline.arguments import UsageError, add_options, is_required, nearest, parse_arguments
from commandline.config_file import read_config_file, write_config_file
from commandline.lines import one_line, write_line
from commandline.options import option_name
from commandline.version import __version__

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, the dataclass of its options, what runs it, and a line of help.

    What runs it takes an instance of ``config`` and returns the exit code, or None for 0. It may be named as entry
    points are, ``"package.module:function"``: it is then imported when it is run, so that --help does not wait.
    """

    name: str
    config: type[Any]
    function: Callable[[Any], int | None] | str
    help: str
    description: str | None = None


def function_of(command: Command) -> Callable[[Any], int | None]:
    """What runs a command, imported if need be."""
    function = command.function
    return pkgutil.resolve_name(function) if isinstance(function, str) else function


def run_program(
    prog: str,
    description: str,
    commands: Sequence[Command],
    argv: Sequence[str] | None = None,
    *,
    user_errors: tuple[type[Exception], ...] = (),
) -> int:
    """Parses ``argv``, runs the chosen command and returns its exit code.

    ``user_errors`` and ``OSError`` are printed as one line on stderr (exit 1); anything else is our own mistake
    and keeps its traceback. A ``ValueError`` raised by a config's ``__post_init__`` is a usage error (exit 2).
    """
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(_overview(prog, description, commands))
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        _overview(prog, description, commands).print_help()
        return EXIT_OK
    if name == "--version":
        print(f"{prog} {__version__}")
        return EXIT_OK
    command = next((command for command in commands if command.name == name), None)
    if command is None:
        names = [command.name for command in commands]
        problem = f"{name}: no such command" + nearest(name, names) if name else "expected a command"
        return _fail(prog, f"{problem} (known: {', '.join(names)}; see {prog} --help)", EXIT_USAGE)
    prog = f"{prog} {name}"
    if sys.stdout is None:
        return _fail(prog, "expected somewhere to write to, found standard output closed", EXIT_FAILED)
    try:
        config = _configure(prog, command, commands, arguments)
        code = EXIT_OK if config is None else function_of(command)(config) or EXIT_OK
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(prog, str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`... | head`): nothing more can be said, so stay silent.
        _drop_output()
        return EXIT_FAILED
    except Exception as error:
        if not isinstance(error, (*user_errors, OSError)):
            raise
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, for one
            _drop_output()
        return _fail(prog, _told(error), EXIT_FAILED)


def _told(error: Exception) -> str:
    """One line about an error of the user's; of a file that is in the way, or missing, with its name."""
    name = error.filename if isinstance(error, OSError) else None
    if not isinstance(name, str):
        return one_line(error)
    folder = Path(name).parent
    if isinstance(error, FileNotFoundError) and not folder.is_dir():
        return f"{folder}: expected a folder, found none"
    return f"{name}: {one_line(error)}"


def _drop_output() -> None:
    """Sends what is still in the buffer of standard output nowhere, for Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview(prog: str, description: str, commands: Sequence[Command]) -> argparse.ArgumentParser:
    """For its help and for completion alone: which commands there are, and their options."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--version", action="store_true", help="print the release and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for command in commands:
        add_options(subparsers.add_parser(command.name, help=command.help), command.config)
    return parser


def _configure(prog: str, command: Command, commands: Sequence[Command], arguments: Sequence[str]) -> Any:
    """The command's config, from its arguments and the file that they name; None after --print-config.

    Raises UsageError for whatever is wrong with them.
    """
    given = parse_arguments(command.config, prog, command.description or command.help, arguments)
    path, is_printed = given.pop("config_file"), given.pop("print_config")
    in_file = {}
    if path is not None:
        in_file = read_config_file(path, command.config, command.name, [each.name for each in commands])
    values = in_file | {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    fields = dataclasses.fields(command.config)
    missing = [option_name(field) for field in fields if is_required(field) and field.name not in values]
    if missing and not is_printed:
        raise UsageError(f"{', '.join(missing)} must be given (see {prog} --help)")
    try:
        config = command.config(**values) if not missing else None
    except ValueError as error:
        text = one_line(error)
        names = [option_name(field) for field in fields if field.name in in_file and field.name not in given]
        raise UsageError(f"--config {path}: {text}" if text.partition(":")[0] in names else text) from None
    if is_printed:
        print(write_config_file(command.config, command.name, values), end="")
        return None
    return config


def _fail(prog: str, message: str, code: int) -> int:
    write_line(f"{prog}: error: {message}")
    return code
