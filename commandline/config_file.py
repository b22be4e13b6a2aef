"""Options in a TOML file: read, checked, and written with their help."""

import dataclasses
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commandline.arguments import UsageError, is_required, nearest, value_types
from commandline.lines import one_line
from commandline.options import Option


def read_config_file(path: Path, config: type[Any], command: str, commands: Sequence[str]) -> dict[str, Any]:
    """The options of ``config`` in ``path``, by field: those at the top, or those under ``[command]``.

    Tables are named after ``commands``. Raises UsageError, naming the file, for whatever else the file says.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: {one_line(error)}") from None
    tables = [name for name, value in document.items() if isinstance(value, dict)]
    top = [name for name in document if name not in tables]
    for name in tables:
        if name not in commands:
            near = nearest(name, commands) or f"; known: {', '.join(commands)}"
            raise UsageError(f"--config {path}: unknown table [{name}]{near}")
    if tables and top:
        raise UsageError(
            f"--config {path}: expected options in tables or at the top, found both: [{tables[0]}], {top[0]}"
        )
    if tables and command not in tables:
        raise UsageError(f"--config {path}: expected a table [{command}], found [{'], ['.join(tables)}]")
    return _values_in(document.get(command, {}) if tables else document, config, path)


def write_config_file(config: type[Any], command: str, values: Mapping[str, Any]) -> str:
    """A TOML file with every option of a command and its help; what is not among ``values`` is commented out."""
    lines = [f"[{command}]"]
    for field, value_type in value_types(config).items():
        spec: Option = field.metadata["option"]
        help_text = f"{spec.help} (required)" if is_required(field) else spec.help
        lines += ["", *textwrap.wrap(help_text, 98, initial_indent="# ", subsequent_indent="# ")]
        if values.get(field.name) is not None:
            lines.append(f"{field.name} = {value_type.to_toml(values[field.name])}")
        elif is_required(field) or field.default is None:
            lines.append(f"#{field.name} = {spec.metavar or value_type.metavar}")
        else:
            lines.append(f"#{field.name} = {value_type.to_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _values_in(table: Mapping[str, Any], config: type[Any], path: Path) -> dict[str, Any]:
    types = {field.name: value_type for field, value_type in value_types(config).items()}
    specs: dict[str, Option] = {field.name: field.metadata["option"] for field in dataclasses.fields(config)}
    former = {spec.formerly: name for name, spec in specs.items() if spec.formerly}
    values: dict[str, Any] = {}
    for key, value in table.items():
        was = former.get(key.replace("_", "-"))
        name = was or key.replace("-", "_")
        if name not in specs:
            near = nearest(name, list(specs)) or "; --print-config prints those that there are"
            raise UsageError(f"--config {path}: unknown option {key!r}{near}")
        if was and specs[name].former_unit and isinstance(value, int | float):
            value = f"{value}{specs[name].former_unit}"
        try:
            values[name] = types[name].from_toml(value)
        except ValueError as error:
            raise UsageError(f"--config {path}: {key}: {one_line(error)}") from None
    return values
