"""Addresses that are taken, and ones that only look so."""

import os
import socket
import threading
from pathlib import Path

import pytest

from loader_service.client import LoaderClient, ServiceUnavailableError
from loader_service.pipeline.pipeline import Pipeline
from loader_service.server.server import LoaderServer
from preprocess.store import Store
from tests.conftest import LIMITS, serving


def test_a_taken_port_leaves_nothing_behind(tiny_store: Path) -> None:
    with Store(tiny_store) as store, Pipeline(store, num_threads=1, message_bytes=1000) as pipeline:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
            for _ in range(3):
                with pytest.raises(ServiceUnavailableError, match="cannot listen there"):
                    LoaderServer(pipeline, address, LIMITS)
            # Those of other tests may go meanwhile.
            assert len(os.listdir("/proc/self/fd")) <= descriptors
            assert threading.active_count() <= threads


def test_a_unix_socket_that_is_served_is_not_taken_over(tiny_store: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/loader"
    with Store(tiny_store) as store, Pipeline(store, num_threads=1, message_bytes=1000) as pipeline:
        with serving(tiny_store, address=address), LoaderClient([address]) as client:
            with pytest.raises(ServiceUnavailableError, match="in use"):
                LoaderServer(pipeline, address, LIMITS)
            assert len(client.describe().classes) == 10


def test_a_unix_socket_that_nobody_answers_on_is_replaced(tiny_store: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(f"{tmp_path}/loader")
    address = f"unix:{tmp_path}/loader"
    with serving(tiny_store, address=address), LoaderClient([address]) as client:
        assert len(client.describe().classes) == 10
