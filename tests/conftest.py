"""Real parts for every test: a tiny store, a service over it."""

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from loader_service.client import Limits
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import Store
from tests.stores import make_store

# Programs started from a shell's background, or by nohup, inherit that these are ignored: tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: without a GPU it runs kernels on the CPU

# A busy machine is no failure.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

STARTERS = frozenset(("tests.processes", "tests.trainer.runs"))
"""Modules that start processes and training runs for tests."""

LIMITS = Limits(max_batch_size=1024, max_steps=64, message_bytes=100_000, max_streams_per_identity=64, max_streams=64)


class FailuresAtOnce:
    """Tells a failure when it happens, and not only at the end: a run that is cut off has told it too."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.ensure_newline()
            self._terminal.line(f"{report.nodeid}, {report.when}, after {report.duration:.0f} s: {report.longreprtext}")


@pytest.hookimpl(trylast=True)  # the terminal is there then
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:  # the workers beside each other have none
        config.pluginmanager.register(FailuresAtOnce(terminal))


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow, for --quick to leave out, what starts processes, Ray or training runs; what takes seconds for
    other reasons is marked where it stands. Says what may run beside each other: modules, whose tests share what is
    dear to make, and of all that starts Ray one at a time.
    """
    for item in items:
        module = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
        names = vars(item.module) if isinstance(item, pytest.Function) else {}
        has_starters = any(each is subprocess or getattr(each, "__module__", "") in STARTERS for each in names.values())
        is_slow = has_starters or "local_ray" in getattr(item, "fixturenames", ())
        if is_slow:
            item.add_marker(pytest.mark.slow)
        starts_ray = is_slow and module.startswith(("preprocess/", "deploy/test_ray"))
        item.add_marker(pytest.mark.xdist_group("ray" if starts_ray else module))


@contextmanager
def serving(
    store_path: Path,
    *,
    address: str = "127.0.0.1:0",
    threads: int = 2,
    limits: Limits = LIMITS,
    cache_bytes: int = 0,
) -> Iterator[str]:
    """A service over ``store_path`` in this process; yields its target."""
    with (
        Store(store_path) as store,
        Pipeline(store, num_threads=threads, message_bytes=limits.message_bytes, cache_bytes=cache_bytes) as pipeline,
        LoaderServer(pipeline, address, limits) as server,
    ):
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(autouse=True)
def _logs_of_one_test() -> Iterator[None]:
    """Undoes ``configure_logs``, which a command run in this process calls: its stderr is closed after the test."""
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            root.setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG store: 100 training and 30 validation images of 64x64, 10 classes, 4 + 1 shards."""
    return make_store(tmp_path_factory.mktemp("stores") / "tiny")


@pytest.fixture(scope="session")
def loader_target(tiny_store: Path) -> Iterator[str]:
    """The target of a running service over ``tiny_store``."""
    with serving(tiny_store) as target:
        yield target
