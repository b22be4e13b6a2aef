"""Builds argparse options from dataclass fields, overlays a TOML file, and maps outcomes to exit codes."""

import argparse
import dataclasses
import os
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B?|B)?\s*$", re.IGNORECASE)
_MULTIPLES = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_MULTIPLES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def option(
    help: str,  # argparse's own word
    *,
    positional: bool = False,
    metavar: str | None = None,
    choices: Sequence[Any] | None = None,
) -> Mapping[str, Any]:
    """Metadata for a dataclass field that is an option: its help text and how it is shown."""
    return {"option": {"help": help, "positional": positional, "metavar": metavar, "choices": choices}}


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, the dataclass of its options, what runs it, and a line of help.

    ``function`` takes an instance of ``config`` and returns the exit code, or None for 0.
    """

    name: str
    config: type[Any]
    function: Callable[[Any], int | None]
    help: str
    description: str | None = None


class UsageError(Exception):
    """The command line or the TOML file is wrong; exits with 2."""


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
    parser = argparse.ArgumentParser(prog=prog, description=description)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.description or command.help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_options(subparser, command.config)
    namespace = parser.parse_args(argv)
    command = next(c for c in commands if c.name == namespace.command)
    try:
        config = _build_config(command, vars(namespace))
        return command.function(config) or EXIT_OK
    except UsageError as error:
        return _fail(prog, command.name, str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail(prog, command.name, "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`... | head`): nothing more can be said, so stay silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if not isinstance(error, (*user_errors, OSError)):
            raise
        return _fail(prog, command.name, one_line(error), EXIT_FAILED)


def parse_size(text: str) -> int:
    """``'512'``, ``'64MB'`` or ``'8GiB'`` in bytes. Raises ValueError for anything else."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"expected a size such as 512, 64MB or 8GiB, found {text!r}")
    number, unit = float(match[1]), (match[2] or "").upper()
    multiples = _BINARY_MULTIPLES if "I" in unit else _MULTIPLES
    return int(number * multiples[unit[:1]])


def _fail(prog: str, command: str, message: str, code: int) -> int:
    print(f"{prog} {command}: error: {message}", file=sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    """What an error says, or else its type, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _add_options(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        spec = field.metadata["option"]
        kind, many = _element_type(hints[field.name])
        default = field.default if field.default is not MISSING else None
        required = field.default is MISSING and field.default_factory is MISSING
        help_text = spec["help"].replace("%", "%%")
        keywords: dict[str, Any] = {"help": help_text, "default": argparse.SUPPRESS}
        if spec["choices"] or typing.get_origin(kind) is Literal:
            keywords["choices"] = spec["choices"] or typing.get_args(kind)
            kind = type(keywords["choices"][0])
        if kind is bool:
            keywords["action"] = argparse.BooleanOptionalAction if default else "store_true"
        else:
            keywords["type"] = _parser_of(field.name, kind, many)
            if spec["metavar"] or "choices" not in keywords:
                keywords["metavar"] = spec["metavar"] or _metavar(field.name, kind, many)
            if default not in (None, ()):
                keywords["help"] += f" (default: {_show(default)})"
        if spec["positional"]:
            keywords.pop("default")
            keywords["metavar"] = spec["metavar"] or field.name.upper()
            if many:
                keywords |= {"nargs": "+" if required else "*", "type": _scalar_parser(field.name, kind)}
            elif not required:
                keywords |= {"nargs": "?", "default": argparse.SUPPRESS}
            parser.add_argument(field.name, **keywords)
        else:
            if required:
                keywords["help"] += " (required)"
            parser.add_argument("--" + field.name.replace("_", "-"), **keywords)
    parser.add_argument(
        "--config",
        dest="config_file",
        type=Path,
        metavar="FILE.toml",
        help="a TOML file with any of these options, under [COMMAND] or at the top; the command line wins",
    )


def _build_config(command: Command, given: dict[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(command.config)}
    values: dict[str, Any] = {}
    if given.get("config_file") is not None:
        values = _read_toml(given["config_file"], command)
    values |= {name: _frozen(value) for name, value in given.items() if name in fields}
    missing = [
        field.name
        for field in fields.values()
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        names = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise UsageError(f"{names} must be given (see {command.name} --help)")
    try:
        return command.config(**values)
    except ValueError as error:
        raise UsageError(one_line(error)) from None


def _read_toml(path: Path, command: Command) -> dict[str, Any]:
    """The options in ``path``: those under ``[command]`` if there is such a table, else the top-level ones."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: {one_line(error)}") from None
    table = document.get(command.name, {k: v for k, v in document.items() if not isinstance(v, dict)})
    if not isinstance(table, dict):
        raise UsageError(f"--config {path}: expected a table [{command.name}], found {table!r}")
    hints = typing.get_type_hints(command.config)
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in hints:
            known = ", ".join(sorted(hints))
            raise UsageError(f"--config {path}: unknown option {key!r} for {command.name}; known: {known}")
        kind, many = _element_type(hints[name])
        try:
            values[name] = _from_toml(name, kind, many, value)
        except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
            raise UsageError(f"--config {path}: {key}: {one_line(error)}") from None
    return values


def _from_toml(name: str, kind: Any, many: bool, value: Any) -> Any:
    if many:
        items = value if isinstance(value, list) else str(value).split(",")
        return tuple(_from_toml(name, kind, False, item) for item in items)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(f"expected one of {', '.join(map(str, typing.get_args(kind)))}, found {value!r}")
        return value
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, found {value!r}")
        return value
    if isinstance(value, list | dict):
        raise ValueError(f"expected one value, found {value!r}")
    return _scalar_parser(name, kind)(str(value))


def _element_type(hint: Any) -> tuple[Any, bool]:
    """The type of one value and whether the option takes several: ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(argument for argument in typing.get_args(hint) if argument is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _parser_of(name: str, kind: Any, many: bool) -> Callable[[str], Any]:
    scalar = _scalar_parser(name, kind)
    if not many:
        return scalar

    def parse_many(text: str) -> tuple[Any, ...]:
        return tuple(scalar(item.strip()) for item in text.split(",") if item.strip())

    return parse_many


def _scalar_parser(name: str, kind: Any) -> Callable[[str], Any]:
    if kind is int and name.endswith("_bytes"):
        parser: Callable[[str], Any] = parse_size
    elif kind is int:
        parser = _parse_int
    else:
        parser = kind

    def parse(text: str) -> Any:
        try:
            return parser(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(one_line(error)) from None

    return parse


def _parse_int(text: str) -> int:
    try:
        return int(text.replace("_", ""), 0)
    except ValueError:
        raise ValueError(f"expected a whole number, found {text!r}") from None


def _metavar(name: str, kind: Any, many: bool) -> str:
    if kind is Path:
        word = "PATH"
    elif kind in (int, float):
        word = "SIZE" if name.endswith("_bytes") else "SECONDS" if name.endswith("_s") else "N" if kind is int else "X"
    else:
        word = name.upper()
    return f"{word}[,{word}...]" if many else word


def _show(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
