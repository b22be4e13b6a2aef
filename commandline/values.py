"""Values of options from text: sizes, durations, numbers, lists; and from TOML."""

import json
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B?|B)?\s*$", re.IGNORECASE)
_MULTIPLES = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_MULTIPLES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE_IN_WORDS = "a size such as 512, 64MB or 8GiB"
_DURATION_IN_WORDS = "a duration such as 90, 90s, 10m or 2h"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """``'512'``, ``'64MB'`` or ``'8GiB'`` in bytes. Raises ValueError for anything else."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"expected {_SIZE_IN_WORDS}, found {text!r}")
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
        raise ValueError(f"expected {_DURATION_IN_WORDS}, found {text!r}") from None


class ValueType:
    """What an option holds, from its field's name and type: how it is read from text or TOML, and written as TOML.

    A type is X, ``X | None``, ``X | Literal["auto"]`` or ``tuple[X, ...]``, with X one of bool, int, float, str, Path
    or a Literal. Whole numbers whose name ends in ``_bytes`` are sizes, other numbers whose name ends in ``_s`` are
    durations.
    """

    def __init__(self, name: str, hint: Any) -> None:
        self.words: tuple[str, ...] = ()
        """Those that stand for a value besides what the kind allows."""
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint, *others = (argument for argument in typing.get_args(hint) if argument is not type(None))
            self.words = tuple(word for literal in others for word in typing.get_args(literal))
        self.is_tuple = typing.get_origin(hint) is tuple
        self.kind: Any = typing.get_args(hint)[0] if self.is_tuple else hint
        self.choices: tuple[Any, ...] = typing.get_args(self.kind) if typing.get_origin(self.kind) is Literal else ()
        self._has_unit = (self.kind is int and name.endswith("_bytes")) or (self.kind is float and name.endswith("_s"))
        self._name = name

    @property
    def metavar(self) -> str:
        """What stands for a value in a help text: ``N``, ``SIZE``, ``{red,blue}``, ``PATH[,PATH...]``."""
        if self.choices:
            word = "{" + ",".join(map(str, self.choices)) + "}"
        elif self._has_unit:
            word = "SIZE" if self.kind is int else "SECONDS"
        else:
            word = {int: "N", float: "X", Path: "PATH", bool: "true|false"}.get(self.kind, self._name.upper())
        return f"{word}[,{word}...]" if self.is_tuple else "|".join((word, *self.words))

    @property
    def expected(self) -> str:
        """What one value should be, in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self._has_unit:
            value = _SIZE_IN_WORDS if self.kind is int else _DURATION_IN_WORDS
        else:
            known = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
            value = known.get(self.kind, "text")
        return " or ".join((value, *self.words))

    def from_text(self, text: str) -> Any:
        """The value of an argument. Raises ValueError, saying what was expected."""
        if self.is_tuple:
            return tuple(self.one_from_text(item.strip()) for item in text.split(",") if item.strip())
        return self.one_from_text(text)

    def one_from_text(self, text: str) -> Any:
        """One value, of several too. Raises ValueError, saying what was expected."""
        if text in self.words:
            return text
        try:
            if self.choices:
                return {str(choice): choice for choice in self.choices}[text]
            if self._has_unit:
                return parse_size(text) if self.kind is int else parse_duration(text)
            return int(text.replace("_", ""), 0) if self.kind is int else self.kind(text)
        except (KeyError, ValueError):
            raise ValueError(f"expected {self.expected}, found {text!r}") from None

    def from_toml(self, value: Any) -> Any:
        """The value that a TOML file gives. Raises ValueError, saying what was expected, for one of another type."""
        if self.is_tuple:
            items = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
            return tuple(map(self._one_from_toml, items))
        return self._one_from_toml(value)

    def to_toml(self, value: Any) -> str:
        """``value`` as TOML has it."""
        if isinstance(value, tuple):
            return f"[{', '.join(map(self.to_toml, value))}]"
        if isinstance(value, str | Path):
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        return str(value).lower()

    def _one_from_toml(self, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, str) and (
            self._has_unit or self.choices or value in self.words or self.kind in (str, Path)
        ):
            return self.one_from_text(value.strip() if self.is_tuple else value)
        if value in self.choices or (self.kind is bool and isinstance(value, bool)):
            return value
        if is_number and (self.kind is float or (self.kind is int and isinstance(value, int))):
            return self.kind(value)
        raise ValueError(f"expected {self.expected}, found {json.dumps(value, ensure_ascii=False, default=str)}")
