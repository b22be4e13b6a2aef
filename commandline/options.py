"""One option: a field of a frozen dataclass, with its help, its range, and how it is spelt."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a field is shown on the command line, and what it may hold.

    A number, or each of several, must be finite, ``least`` or more, more than ``above``, and at most ``most``, and a
    path must end in ``suffix``: :func:`check_options` says so. ``formerly`` is a spelling that still works for one
    release, without the dashes; what was given in another unit then is ``former_unit``, such as ``"m"``.
    """

    help: str
    positional: bool = False
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    suffix: str | None = None
    formerly: str | None = None
    former_unit: str = ""


def option(default: Any, help: str, **shown: Any) -> Any:
    """A dataclass field that is an option: its default, its help text, and what else :class:`Option` has."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **shown)})


def required(help: str, **shown: Any) -> Any:
    """A field that is an option without a default; otherwise as :func:`option`."""
    return dataclasses.field(metadata={"option": Option(help=help, **shown)})


def option_name(field: "dataclasses.Field[Any]") -> str:
    """The option as a person types it: ``--shorter-side``, or the name alone of a positional one."""
    return field.name.upper() if field.metadata["option"].positional else "--" + field.name.replace("_", "-")


def check_options(config: object) -> None:
    """Raises ValueError, naming the option, for the first value of a config that its option does not allow."""
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        spec: Option = field.metadata["option"]
        value = getattr(config, field.name)
        if spec.suffix and isinstance(value, Path) and value.suffix.lower() != spec.suffix:
            raise ValueError(f"{option_name(field)}: expected a file name that ends in {spec.suffix}, found '{value}'")
        for found in value if isinstance(value, tuple) else (value,):
            if isinstance(found, int | float) and not isinstance(found, bool) and not _is_within(found, spec):
                raise ValueError(f"{option_name(field)}: expected {_range_of(spec)}, found {found}")


def _is_within(found: float, spec: Option) -> bool:
    return (
        math.isfinite(found)
        and (spec.least is None or found >= spec.least)
        and (spec.above is None or found > spec.above)
        and (spec.most is None or found <= spec.most)
    )


def _range_of(spec: Option) -> str:
    """``1 to 64``, ``at least 1``, ``more than 0 and at most 1``, or ``a finite number``."""
    if spec.least is not None and spec.most is not None:
        return f"{_plain(spec.least)} to {_plain(spec.most)}"
    limits = (("at least", spec.least), ("more than", spec.above), ("at most", spec.most))
    return " and ".join(f"{word} {_plain(limit)}" for word, limit in limits if limit is not None) or "a finite number"


def _plain(number: float) -> str:
    """``0.5``, or ``1,000,000`` also where it is a float."""
    return f"{int(number) if number == int(number) else number:,}"
