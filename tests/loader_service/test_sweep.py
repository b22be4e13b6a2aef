"""``bench --sweep`` and ``serve`` with the machine's own numbers: real processes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loader_service.__main__ import main
from loader_service.client.machine import Processors, processors
from loader_service.commands.sizing import num_threads, summary


def test_sweep(tiny_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each number of processes and transport; the first of each transport is what the others are held to."""
    monkeypatch.setattr("loader_service.commands.sweep.processors", lambda: Processors(num_threads=3, num_cores=3))
    command = ["bench", "--sweep", "--store", str(tiny_store), "--duration-s", "0.1", "--warmup-s", "0"]
    command += ["--batch-size", "20"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    expected = [(count, transport) for count in (1, 2, 3) for transport in ("grpc", "shm")]
    assert [(row["processes"], row["transport"]) for row in rows] == expected
    assert all(row["images"] > 0 for row in rows)
    assert rows[0]["of_linear"] == rows[1]["of_linear"] == 1.0
    assert rows[3]["of_linear"] == pytest.approx(rows[3]["images_per_s"] / 2 / rows[1]["images_per_s"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--sweep"], "--sweep and --store go together: one of them is missing"),
        (["--store", "s", "--target", "localhost:7000"], "--sweep and --store go together: one of them is missing"),
        (["--sweep", "--store", "s", "--target", "localhost:7000"], "--target: expected none with --sweep"),
        (["--sweep", "--store", "s", "--transport", "shm"], "--transport: expected none with --sweep"),
        ([], "--target: expected at least one HOST:PORT"),
    ],
)
def test_options_of_a_sweep(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_sweep_without_a_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--sweep", "--store", str(tmp_path)]) == 1
    assert "expected 1 loaders to serve it, found that they do not start" in capfd.readouterr().err


def test_one_process_says_so_too(tiny_store: Path) -> None:
    """In the first line of its log, whatever else it has to say."""
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(tiny_store), "--listen", "127.0.0.1:0"]
    found = processors()
    with subprocess.Popen(
        [*command, "--metrics-listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            assert summary(found, 1, num_threads(found, 1)) in server.stderr.readline()
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=300)
    assert server.returncode == 0


def test_serve_says_first_what_it_made_of_the_machine(tiny_store: Path) -> None:
    """As many processes as this machine is worth, each with a line of its own when it is ready."""
    command = [sys.executable, "-m", "loader_service", "serve", "--store", str(tiny_store), "--listen", "127.0.0.1:0"]
    found = processors()
    count = found.num_decode_threads
    with subprocess.Popen(
        [*command, "--processes", "auto"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            assert summary(found, count, 1) in server.stderr.readline()
            targets = {server.stdout.readline().split()[-1] for _ in range(count)}
            assert len(targets) == count
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=300)
    assert server.returncode == 0
