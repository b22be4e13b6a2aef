"""What does not answer, or answers with an error of its own kind, is one line that says what and where."""

import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import fsspec
import grpc
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from preprocess.__main__ import main
from preprocess.errors import SourceError
from preprocess.sources import SourceOptions, read_source, storage
from tests.processes import free_port


class _CredentialsError(Exception):
    """As the clients of object stores have: derived from nothing that is known here."""


class _Refusing(MemoryFileSystem):
    """A service that refuses everything."""

    protocol = "refusing"

    def info(self, path: str, **_: Any) -> Any:
        raise _CredentialsError("Unable to locate\ncredentials")


class _Forgetting(MemoryFileSystem):
    """A service that can be listed, and fails when a file is opened."""

    protocol = "forgetting"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("forgetting://")))

    def _open(self, path: str, *_: Any, **__: Any) -> Any:
        raise _CredentialsError("the token has expired")


class _Silent(MemoryFileSystem):
    """A service that never answers."""

    protocol = "silent"
    ended = threading.Event()

    def info(self, path: str, **_: Any) -> Any:
        self.ended.wait()


@pytest.fixture(autouse=True)
def _services() -> Iterator[None]:
    for service in (_Refusing, _Forgetting, _Silent):
        fsspec.register_implementation(service.protocol, service, clobber=True)
    _Silent.ended.clear()
    yield
    _Silent.ended.set()


def test_a_client_that_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--source", "refusing://bucket/x", "--out", str(tmp_path / "store")]) == 1
    error = capsys.readouterr().err
    assert "refusing://bucket/x: cannot be read: _CredentialsError: Unable to locate credentials; expected" in error
    assert error.count("\n") == 1


def test_a_client_that_fails_in_a_task_is_one_line(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{tmp_path.name}/x-train-0.tar", b"x")
    with pytest.raises(SourceError, match=r"x-train-0.tar: cannot be read: _CredentialsError: the token has expired"):
        read_source(f"forgetting://{tmp_path.name}", SourceOptions(), map)


def test_a_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_REACH_S", 0.1)
    with pytest.raises(SourceError, match="silent://x: expected a service that answers, found none within"):
        read_source("silent://x", SourceOptions(), map)


@pytest.fixture(params=["nobody", "silent", "http", "grpc"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where there is no Ray but nothing, or something else."""
    if request.param == "nobody":
        yield f"127.0.0.1:{free_port()}"
    elif request.param == "silent":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"127.0.0.1:{server.getsockname()[1]}"
    elif request.param == "http":
        with socketserver.TCPServer(("127.0.0.1", 0), _Http) as http:
            threading.Thread(target=http.serve_forever, daemon=True).start()
            yield f"127.0.0.1:{http.server_address[1]}"
            http.shutdown()
    else:
        service = grpc.server(futures.ThreadPoolExecutor(1))
        port = service.add_insecure_port("127.0.0.1:0")
        service.start()
        yield f"127.0.0.1:{port}"
        service.stop(None)


class _Http(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def _run(source: Path, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preprocess", "run", "--source", str(source), "--out", str(store), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_an_address_without_a_ray(address: str, small_folder: Path, tmp_path: Path) -> None:
    done = _run(small_folder, tmp_path / "store", "--ray-address", address)
    assert done.returncode == 1
    assert f"--ray-address {address}: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TMPDIR", "x" * 90, "a short TMPDIR"),
        ("HOME", "/proc/nothing", "a HOME that it can write (now /proc/nothing)"),
    ],
)
def test_an_environment_in_which_ray_does_not_start(
    name: str, value: str, message: str, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "TMPDIR":
        value = str(tmp_path / value)
        Path(value).mkdir()
    monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    done = _run(small_folder, tmp_path / "store")
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_interpreter_without_docstrings(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    done = _run(small_folder, tmp_path / "store", "--workers", "1")
    assert done.returncode == 0, done.stderr
