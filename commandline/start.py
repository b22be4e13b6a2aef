"""How a program starts: its packages are its own, what is missing is named, and Ctrl-C while it loads is quiet."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from commandline.lines import write_line
from commandline.program import EXIT_FAILED, EXIT_INTERRUPTED
from commandline.version import __version__

_EXTRAS = {"preprocess": "preprocess", "loader_service": "loader", "trainer": "trainer"}
"""Each program's package, and the extra of the distribution that installs what it imports."""

Run = Callable[[Sequence[str] | None], int]


def start(package: str, load: Callable[[], Run], argv: Sequence[str] | None = None) -> int:
    """Runs what ``load`` imports with ``argv``, for the exit code; one line is printed when it cannot be imported."""
    extra = _EXTRAS[package]
    try:
        problem = _whose(package) or next(filter(None, map(_hidden, _EXTRAS)), None)
        if problem is None:
            return load()(argv)
    except KeyboardInterrupt:  # importing takes seconds
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "commandline", *_EXTRAS, *sys.stdlib_module_names):
            raise
        problem = f"the package {missing!r} is not installed; needs: pip install 'alexnet-pipeline[{extra}]'"
        if missing == "PIL":
            problem += ", which compiles pillow-simd, or without a compiler 'alexnet-pipeline[preprocess-portable]'"
    write_line(f"alexnet-{extra}: error: {problem}")
    return EXIT_FAILED


def preprocess() -> int:
    """The installed command ``alexnet-preprocess``."""
    return _installed("preprocess")


def loader() -> int:
    """The installed command ``alexnet-loader``."""
    return _installed("loader_service")


def trainer() -> int:
    """The installed command ``alexnet-trainer``."""
    return _installed("trainer")


def _installed(package: str) -> int:
    """Runs a program that may be hidden: found by its name, and not imported before that was looked at."""

    def load() -> Run:
        main: Run = importlib.import_module(f"{package}.__main__").main
        return main

    return start(package, load)


def _hidden(package: str) -> str | None:
    """What is wrong, when another module of that name comes first on the path."""
    ours = Path(__file__).resolve().parents[1] / package
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    for place in map(Path, filter(None, places)):
        if place.resolve() not in (ours, ours / "__init__.py"):
            return f"{place} hides this program's package {package!r}: rename it, or start from another folder"
    return None


def _whose(package: str) -> str | None:
    """What is wrong, when another distribution has been installed over this program's package."""
    text = (Path(__file__).resolve().parents[1] / package / "__init__.py").read_text("utf-8")
    if f'__version__ = "{__version__}"' in text:
        return None
    return f"another distribution's {package!r} was installed over this one: use an environment of its own"
