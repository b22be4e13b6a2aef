"""Values of options from text: sizes, durations, numbers, lists; and from TOML."""

import argparse
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B?|B)?\s*$", re.IGNORECASE)
_MULTIPLES = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_MULTIPLES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """``'512'``, ``'64MB'`` or ``'8GiB'`` in bytes. Raises ValueError for anything else."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"expected a size such as 512, 64MB or 8GiB, found {text!r}")
    number, unit = float(match[1]), (match[2] or "").upper()
    multiples = _BINARY_MULTIPLES if "I" in unit else _MULTIPLES
    return int(number * multiples[unit[:1]])


def parse_duration(text: str) -> float:
    """``'90'``, ``'90s'``, ``'10m'`` or ``'2h'`` in seconds. Raises ValueError for anything else."""
    number = text.strip().lower()
    unit = next((unit for unit in _SECONDS if number.endswith(unit)), "")
    try:
        return float(number.removesuffix(unit)) * _SECONDS.get(unit, 1.0)
    except ValueError:
        raise ValueError(f"expected a duration such as 90, 90s, 10m or 2h, found {text!r}") from None


def from_toml(name: str, kind: Any, many: bool, value: Any) -> Any:
    if many:
        items = value if isinstance(value, list) else str(value).split(",")
        return tuple(from_toml(name, kind, False, item) for item in items)
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
    return scalar_parser(name, kind)(str(value))


def element_type(hint: Any) -> tuple[Any, bool]:
    """The type of one value and whether the option takes several: ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(argument for argument in typing.get_args(hint) if argument is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def parser_of(name: str, kind: Any, many: bool) -> Callable[[str], Any]:
    scalar = scalar_parser(name, kind)
    if not many:
        return scalar

    def parse_many(text: str) -> tuple[Any, ...]:
        return tuple(scalar(item.strip()) for item in text.split(",") if item.strip())

    return parse_many


def scalar_parser(name: str, kind: Any) -> Callable[[str], Any]:
    if kind is int and name.endswith("_bytes"):
        parser: Callable[[str], Any] = parse_size
    elif kind is float and name.endswith("_s"):
        parser = parse_duration
    elif kind is int:
        parser = _parse_int
    elif kind is float:
        parser = _parse_float
    else:
        parser = kind

    def parse(text: str) -> Any:
        try:
            return parser(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _parse_int(text: str) -> int:
    try:
        return int(text.replace("_", ""), 0)
    except ValueError:
        raise ValueError(f"expected a whole number, found {text!r}") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number, found {text!r}") from None
