"""A program of several commands: argparse options from dataclass fields, a TOML file, and exit codes."""

import argparse
import dataclasses
import os
import sys
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from commandline.options import Option, option_name
from commandline.values import element_type, from_toml, parser_of, scalar_parser

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


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


def _fail(prog: str, command: str, message: str, code: int) -> int:
    print(f"{prog} {command}: error: {message}", file=sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    """What an error says, or else its type, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _add_options(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        spec: Option = field.metadata["option"]
        kind, many = element_type(hints[field.name])
        required = field.default is MISSING and field.default_factory is MISSING
        keywords: dict[str, Any] = {"help": _help_of(field, required), "default": argparse.SUPPRESS}
        if spec.choices or typing.get_origin(kind) is Literal:
            keywords["choices"] = spec.choices or typing.get_args(kind)
            kind = type(keywords["choices"][0])
        if kind is bool:
            keywords["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        else:
            keywords["type"] = parser_of(field.name, kind, many)
            if spec.metavar or "choices" not in keywords:
                keywords["metavar"] = spec.metavar or _metavar(field.name, kind, many)
        if spec.positional:
            keywords.pop("default")
            keywords["metavar"] = spec.metavar or field.name.upper()
            if many:
                keywords |= {"nargs": "+" if required else "*", "type": scalar_parser(field.name, kind)}
            elif not required:
                keywords |= {"nargs": "?", "default": argparse.SUPPRESS}
            parser.add_argument(field.name, **keywords)
            continue
        parser.add_argument(option_name(field), **keywords)
        if spec.formerly is not None:
            keywords |= {"dest": field.name, "help": argparse.SUPPRESS}
            if spec.former_unit:
                keywords["type"] = lambda text, parse=keywords["type"], unit=spec.former_unit: parse(text + unit)
            parser.add_argument(f"--{spec.formerly}", **keywords)
    parser.add_argument(
        "--config",
        dest="config_file",
        type=Path,
        metavar="FILE.toml",
        help="a TOML file with any of these options, under [COMMAND] or at the top; the command line wins",
    )


def _help_of(field: "dataclasses.Field[Any]", required: bool) -> str:
    spec: Option = field.metadata["option"]
    text = spec.help.replace("%", "%%")
    if required:
        return text if spec.positional else f"{text} (required)"
    if field.default in (None, (), MISSING) or "(default: " in text:
        return text
    return f"{text} (default: {_show(field.default)})"


def _build_config(command: Command, given: dict[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(command.config)}
    values: dict[str, Any] = {}
    if given.get("config_file") is not None:
        values = _read_toml(given["config_file"], command)
    values |= {name: _frozen(value) for name, value in given.items() if name in fields}
    missing = [
        option_name(field)
        for field in fields.values()
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given (see {command.name} --help)")
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
    specs: dict[str, Option] = {field.name: field.metadata["option"] for field in dataclasses.fields(command.config)}
    former = {spec.formerly: name for name, spec in specs.items() if spec.formerly}
    values: dict[str, Any] = {}
    for key, value in table.items():
        was = former.get(key.replace("_", "-"))
        name = was or key.replace("-", "_")
        if name not in hints:
            known = ", ".join(sorted(hints))
            raise UsageError(f"--config {path}: unknown option {key!r} for {command.name}; known: {known}")
        kind, many = element_type(hints[name])
        unit = specs[name].former_unit if was else ""
        try:
            values[name] = from_toml(name, kind, many, f"{value}{unit}" if unit else value)
        except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
            raise UsageError(f"--config {path}: {key}: {one_line(error)}") from None
    return values


def _metavar(name: str, kind: Any, many: bool) -> str:
    if kind is Path:
        word = "PATH"
    elif kind in (int, float):
        word = "SIZE" if name.endswith("_bytes") else "SECONDS" if name.endswith("_s") else "N" if kind is int else "X"
    else:
        word = name.upper()
    return f"{word}[,{word}...]" if many else word


def _show(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
