"""The command line of one command: an option for each field of its dataclass, and errors of one line."""

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from commandline.options import Option, option_name
from commandline.values import ValueType


class UsageError(Exception):
    """The command line or the TOML file is wrong; exits with 2."""


def nearest(word: str, known: Sequence[str]) -> str:
    """``; did you mean --threads?``, where one of ``known`` is near to ``word``; nothing elsewhere."""
    found = get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


def is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is MISSING


def value_types(config: type[Any]) -> "dict[dataclasses.Field[Any], ValueType]":
    """The fields of ``config``, in their order, and what each holds."""
    hints = typing.get_type_hints(config)
    return {field: ValueType(field.name, hints[field.name]) for field in dataclasses.fields(config)}


def parse_arguments(config: type[Any], prog: str, description: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of ``config`` that ``arguments`` give, by field, and ``config_file`` and ``print_config``.

    Raises UsageError, and exits after --help. Whether all that is required was given is the caller's to check.
    """
    required = [_usage(*item) for item in value_types(config).items() if is_required(item[0])]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, *required, "[OPTION...]"]),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, config)
    found, left = parser.parse_known_args(arguments)
    for word in left:
        if word.startswith("-") and len(word) > 1:
            word = word.partition("=")[0]
            raise UsageError(f"{word}: no such option{nearest(word, parser.options) or f' (see {prog} --help)'}")
        raise UsageError(f"expected options alone, found {word!r} (see {prog} --help)")
    return vars(found)


def add_options(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Adds an option for each field of ``config``, ``--config`` and ``--print-config``."""
    for field, value_type in value_types(config).items():
        _add_option(parser, field, value_type)
    parser.add_argument(
        "--config",
        dest="config_file",
        type=Path,
        metavar="FILE.toml",
        help="a TOML file with any of these options, under [COMMAND] or at the top; the command line wins",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all options as a file for --config, and do nothing else"
    )


class _Parser(argparse.ArgumentParser):
    """Raises its errors instead of printing the usage."""

    @property
    def options(self) -> list[str]:
        """All that may be typed, but for former spellings."""
        return [name for action in self._actions if action.help != argparse.SUPPRESS for name in action.option_strings]

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _usage(field: "dataclasses.Field[Any]", value_type: ValueType) -> str:
    """What must be given, as it is typed: ``--store PATH``, or ``STORE`` of a positional one."""
    spec: Option = field.metadata["option"]
    if spec.positional:
        return (spec.metavar or field.name.upper()) + ("..." if value_type.is_tuple else "")
    return f"{option_name(field)} {spec.metavar or value_type.metavar}"


def _add_option(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]", value_type: ValueType) -> None:
    spec: Option = field.metadata["option"]
    keywords: dict[str, Any] = {"help": _help_of(field), "default": argparse.SUPPRESS}
    if value_type.kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
    else:
        keywords["type"] = _argument(value_type.from_text)
        keywords["metavar"] = spec.metavar or value_type.metavar
    if spec.positional:
        keywords["metavar"] = spec.metavar or field.name.upper()
        if value_type.is_tuple:
            keywords |= {"nargs": "+", "type": _argument(value_type.one_from_text)}
        parser.add_argument(field.name, **keywords).required = False  # all that is missing is said at once, by others
        return
    action = parser.add_argument(option_name(field), **keywords)
    if value_type.choices or value_type.words:  # what argcomplete offers; files elsewhere
        action.completer = lambda **_: [*map(str, value_type.choices), *value_type.words]  # type: ignore[attr-defined]
    if spec.formerly is not None:
        keywords |= {"dest": field.name, "help": argparse.SUPPRESS}
        if spec.former_unit:
            keywords["type"] = _argument(lambda text: value_type.from_text(text + spec.former_unit))
        parser.add_argument(f"--{spec.formerly}", **keywords)


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """``parse``, with errors that argparse passes on as they are."""

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def _help_of(field: "dataclasses.Field[Any]") -> str:
    spec: Option = field.metadata["option"]
    text = spec.help.replace("%", "%%")
    if is_required(field):
        return text if spec.positional else f"{text} (required)"
    if field.default in (None, ()) or "(default: " in text:
        return text
    if isinstance(field.default, bool):
        return f"{text} (default: {'on' if field.default else 'off'})"
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{text} (default: {default})"
