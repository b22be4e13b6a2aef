"""Real parts for every test: a tiny store, a service over it."""

import logging
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

# A busy machine is no failure.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

LIMITS = Limits(max_batch_size=1024, max_steps=64, message_bytes=100_000, max_streams_per_identity=64, max_streams=64)


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
