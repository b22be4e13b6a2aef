"""Prose that names a module or what is in it names one that exists."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import trainer

ROOT = Path(trainer.__file__).parent
NAME = re.compile(r"\btrainer(?:\.[A-Za-z_]\w*)+")


def strings(path: Path) -> Iterator[str]:
    """Every string of a source file: docstrings, those below fields, messages."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def exists(name: str) -> bool:
    """A module need not be importable here: the kernels need Triton."""
    module, _, attribute = name.rpartition(".")
    with suppress(ModuleNotFoundError):  # what comes before the last name is no package
        if importlib.util.find_spec(name) is not None:
            return True
    return module != "" and hasattr(importlib.import_module(module), attribute)


def test_names_in_prose_exist() -> None:
    named = {name for path in ROOT.rglob("*.py") for text in strings(path) for name in NAME.findall(text)}
    assert named
    assert [name for name in sorted(named) if not exists(name)] == []
